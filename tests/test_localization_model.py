"""Localizers on small models: neurons planted in the weights, and the entropy of an answer."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import tiny_model

from knlib.attribution import attribute
from knlib.effects import effects
from knlib.facts import candidates
from knlib.localization import LOCALIZERS, localize, with_entropy
from knlib.prediction import score_answers

# The last syllable of a prompt tells its language.
LAST = {"en": "ki", "ru": "ta", "ja": "so"}
AGNOSTIC = {(0, 3): 1.0, (0, 7): 0.8, (1, 5): 0.9}
SPECIFIC = {"en": (0, 1), "ru": (1, 2), "ja": (1, 11)}


def planted_model():
    """Two layers that do nothing but this: some neurons write the answer always, others in one language alone."""
    model = tiny_model("gpt2", n_layer=2)
    body = model.network.transformer
    ids = {s: model.tokenizer.convert_tokens_to_ids(s) for s in (*LAST.values(), "mo")}
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            if name.startswith("ln") or ".ln_" in name:
                parameter.fill_(float(name.endswith("weight")))
            elif "wte" not in name:
                parameter.zero_()
        body.ln_f.weight.fill_(0.3)  # smaller logits: a saturated answer would hide what the second layer adds
        # Orthogonal words of mean zero, so that norms only rescale them.
        signs = torch.tensor([[1.0, -1.0]]).repeat(4, 8) * torch.repeat_interleave(hadamard(), 4, dim=1)
        for word, row in zip(ids, signs, strict=True):
            body.wte.weight[ids[word]] = row
        for (layer, neuron), strength in AGNOSTIC.items():
            body.h[layer].mlp.c_fc.bias[neuron] = 1.0
            body.h[layer].mlp.c_proj.weight[neuron] = strength * body.wte.weight[ids["mo"]]
        for code, (layer, neuron) in SPECIFIC.items():
            body.h[layer].mlp.c_fc.weight[:, neuron] = body.wte.weight[ids[LAST[code]]]
            body.h[layer].mlp.c_fc.bias[neuron] = -5.0
            body.h[layer].mlp.c_proj.weight[neuron] = 0.1 * body.wte.weight[ids["mo"]]
    return model


def hadamard():
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    return torch.kron(two, two)


QUERIES = pd.DataFrame([
    {"query": f"{code}/{i}", "fact": "r:x", "relation": "r", "language": code, "prompt": f"{start} {last}", "space": "",
     "answer": "mo", "suffix": ".", "subject": start}
    for code, last in LAST.items() for i, start in enumerate(("bada", "nu sipo", "ru"))
])  # fmt: skip


def test_neurons_planted_in_the_weights_are_found_exactly():
    model = planted_model()
    found = attribute(model, QUERIES)
    assert found.probability.min() > 1e-3
    for name in LOCALIZERS:
        table = localize(name, found, QUERIES, resamples=5)
        for scope, rows in table.groupby("scope"):
            pairs = set(zip(rows["layer"], rows["neuron"], strict=True))
            if scope == "all" and name == "mean":  # one language of three can carry a mean
                assert pairs >= set(AGNOSTIC)
            else:
                assert pairs == set(AGNOSTIC) | ({SPECIFIC[scope]} if scope != "all" else set()), (name, scope)
        assert (table["layer"] < 2).all() and set(table["scope"]) == {"all", *LAST}
    # A neuron table is what interventions take.
    agnostic = localize("re_lcb", found, QUERIES, resamples=0).query("scope == 'all'")
    changed = effects(model, QUERIES, agnostic, controls=("layer_matched",), match=("fact",))
    drop = (changed["log_p_after"] - changed["log_p_before"]).groupby(changed["condition"]).max()
    assert drop["neurons"] < -0.5


def facts_with(names):
    return pd.DataFrame(
        {"fact": [f"r:{n}" for n in names], "relation": "r", "object": [{c: [n] for c in LAST} for n in names]}
    )


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_entropy_is_that_of_all_candidates(kind):
    """Candidates of one to three tokens, some with a common beginning, against scoring each by itself."""
    model, facts = tiny_model(kind), facts_with(["mo", "mota", "pelatu", "pela", "sipo"])
    queries = QUERIES.iloc[[0, 4, 8]].assign(answer=["mo", "pelatu", "sipo"])
    found = with_entropy(model, queries, facts, chunk=2)
    names = candidates(facts, "r", "en")
    for row, entropy in zip(queries.itertuples(), found["entropy"], strict=True):
        scores = score_answers(model, [row.prompt] * 5, [""] * 5, names, ["."] * 5)
        p = np.exp(scores) / np.exp(scores).sum()
        assert entropy == pytest.approx(-(p * np.log(p)).sum() / np.log(5), abs=1e-5)
    assert found["n_sites"].tolist() == [1, 3, 2]
    assert found["entropy"].between(0.001, 0.999).all() and found["entropy"].nunique() == 3


def test_entropy_with_one_candidate_is_over_first_tokens():
    model, query = tiny_model("gpt2"), QUERIES.head(1)
    entropy = with_entropy(model, query, facts_with(["mo"]))["entropy"].item()
    ids = torch.tensor([model.tokenizer(query["prompt"].item())["input_ids"]])
    with torch.no_grad():
        p = model.network(ids).logits[0, -1].double().softmax(-1).sort(descending=True).values[:50]
    p /= p.sum()
    assert entropy == pytest.approx(float(-(p * p.log()).sum() / np.log(len(p))), abs=1e-5)
