"""query_relevant/class_baselines.py: scores of classes against loops of their own; drawn localizers."""

import numpy as np
import pandas as pd
import pytest
import torch
from letter_studies import tiny_prompts
from tiny_models import tiny_model

from knlib.errors import InputError
from knlib.query_relevant.baselines import TRAITS, score
from knlib.query_relevant.localizers import DRAWN, find, names, scores_for, sizes, starts_from
from knlib.query_relevant.questions import splits


@pytest.fixture(scope="module")
def prompts():
    return tiny_prompts()


def inside(model, prompt):
    """The neurons at the last token and the gates at all, by hand."""
    ids = torch.tensor([[*model.specials[0], *model.pieces(prompt)]])
    seen, handles = {}, []
    for i, layer in enumerate(model.layers):
        act, down = (
            (layer.mlp.act_fn, layer.mlp.down_proj)
            if hasattr(layer.mlp, "act_fn")
            else (layer.mlp.act, layer.mlp.c_proj)
        )
        handles.append(act.register_forward_hook(lambda m, x, y, i=i: seen.update({("gate", i): y[0]})))
        handles.append(down.register_forward_pre_hook(lambda m, x, i=i: seen.update({("h", i): x[0][0, -1]})))
    with torch.no_grad():
        model.network(ids)
    for handle in handles:
        handle.remove()
    first = len(model.specials[0])
    gates = torch.stack([seen["gate", i][first:] > 0 for i in range(model.n_layers)])
    return torch.stack([seen["h", i] for i in range(model.n_layers)]).numpy(), gates.double().numpy()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_cna_is_the_difference_of_class_means(kind, prompts):
    model = tiny_model(kind)
    h = np.stack([inside(model, p)[0] for p in prompts["prompt"]])
    found, own = score("cna", model, prompts).values, (prompts["relation"] == "r").to_numpy()
    expected = np.abs(h[own].mean(0) - h[~own].mean(0))
    expected[:2] = 0
    assert np.allclose(found, expected, atol=1e-6) and expected[2].max() > 0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_lape_by_hand(kind, prompts, monkeypatch):
    for name, value in (("SPECIFIC", 0.1), ("ACTIVE", 0.6)):
        monkeypatch.setattr(f"knlib.query_relevant.class_baselines.{name}", value)
    model = tiny_model(kind)
    p = []
    for code in ("de", "en"):
        gates = [inside(model, text)[1] for text in prompts.loc[prompts["language"] == code, "prompt"]]
        p.append(np.concatenate(gates, axis=1).mean(1).ravel())
    p = np.array(p)
    bar = np.quantile(p, 0.6)
    # An entropy only where a language reaches the bar; the seven lowest of 72.
    entropy = [sum(-x / c.sum() * np.log(x / c.sum()) for x in c if x) if (c > bar).any() else np.inf for c in p.T]
    chosen = np.argsort(entropy, kind="stable")[:7]
    expected = np.zeros_like(p)
    for k in range(2):
        for n in chosen:
            if p[k, n] > bar:
                expected[k, n] = np.log(2) - entropy[n]
    found = score("lape", model, prompts).values.reshape(len(prompts), -1)
    for k, code in enumerate(("de", "en")):
        assert np.allclose(found[(prompts["language"] == code).to_numpy()], expected[k], atol=1e-9)
    assert (expected > 0).any()


def test_only_selected_neurons_are_found(prompts):
    model, split = tiny_model("llama"), next(splits(prompts))
    for name in ("cna", "lape"):
        assert TRAITS[name].whole and TRAITS[name].selects
        scores = scores_for(name, model, split.localize)
        found = find(name, model, split.localize, top=30, scores=scores)
        assert (found["score"] > 0).all()
        assert sizes(found, split.localize)["size"].max() < 30
    assert set(find("cna", model, split.localize, top=30)["layer"]) == {2}


def test_without_classes_they_say_so(prompts):
    model = tiny_model("llama")
    with pytest.raises(InputError, match="prompts, language: found 1 class, expected two or more: lape compares them"):
        score("lape", model, prompts[prompts["language"] == "en"])
    with pytest.raises(InputError, match="prompts, relation: found 1 class"):
        score("cna", model, prompts[prompts["relation"] == "r"])
    with pytest.raises(InputError, match="a column language: lape compares its classes"):
        score("lape", model, prompts.drop(columns="language"))
    with pytest.raises(InputError, match="2 layers, expected three"):
        score("cna", tiny_model("llama", num_hidden_layers=2), prompts)


def test_drawn_sets_match_and_depend_on_seed_and_question_alone(prompts):
    """Spec test 18."""
    model, split = tiny_model("llama"), next(splits(prompts))
    scores = scores_for("qrnca", model, split.localize)
    assert starts_from("random_layer_matched") == starts_from("qrnca") and starts_from("random") is None
    assert set(DRAWN) <= set(names())
    reference = find("qrnca", model, split.localize, scores=scores)
    wanted = sizes(reference, split.localize)
    drawn = {
        name: [find(name, model, split.localize, top=wanted, scores=scores, seed=seed) for seed in (0, 0, 1)]
        for name in DRAWN
    }
    for name, (one, again, other) in drawn.items():
        pd.testing.assert_frame_equal(one, again)
        assert not one[["layer", "neuron"]].equals(other[["layer", "neuron"]])
        pd.testing.assert_frame_equal(sizes(one, split.localize), wanted)
        assert not one.duplicated(["fact", "language", "layer", "neuron"]).any()
        mixed = find(name, model, split.localize.sample(frac=1, random_state=2), top=wanted, scores=scores)
        pd.testing.assert_frame_equal(mixed, one)
    by = ["fact", "language", "layer"]
    layer_matched = drawn["random_layer_matched"][0]
    pd.testing.assert_series_equal(layer_matched.groupby(by).size(), reference.groupby(by).size())
    both = reference.merge(layer_matched, on=[*by, "neuron"])
    assert not len(both)
