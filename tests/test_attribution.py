"""What `attribute` promises: sites, baselines, completeness, error estimates, and clear refusals."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.attribution import attribute
from knlib.baselines import masked_prompts
from knlib.errors import InputError
from knlib.methods import Scorer
from knlib.models import load_model
from knlib.quadrature import integrate_fixed
from knlib.reference import ReferenceBatch
from knlib.sites import make_sites, neuron_vectors

QUERIES = pd.DataFrame({
    "query": ["one", "two"], "prompt": ["bada kilo", "nu sipo ta"], "space": ["", ""], "answer": ["pelatu", "mo"],
    "suffix": [".", "."],
})  # fmt: skip
KINDS = ["gpt2", "llama", "bert"]


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def tokens(model, ids):
    return model.tokenizer.convert_ids_to_tokens(list(ids))


# Sites


def test_sites_of_a_causal_model_show_the_gold_tokens_before_them():
    model = tiny_model("gpt2")
    sites = make_sites(model, QUERIES.head(1))
    start = ["<s>", "▁", "ba", "da", "▁", "ki", "lo"]
    assert [tokens(model, s.ids) for s in sites] == [start, [*start, "pe"], [*start, "pe", "la"]]
    assert [s.position for s in sites] == [6, 7, 8]
    assert tokens(model, [s.target for s in sites]) == ["pe", "la", "tu"]
    assert [s.content for s in sites] == [(1, 2, 3, 4, 5, 6)] * 3  # no special token, no answer


def test_sites_of_a_masked_model_are_masks_filled_from_the_left():
    model = tiny_model("bert")
    sites = make_sites(model, QUERIES.head(1))
    start, end = ["<s>", "▁", "ba", "da", "▁", "ki", "lo"], [".", "</s>"]
    masks = ["<mask>"] * 3
    assert [tokens(model, s.ids) for s in sites] == [
        [*start, *masks, *end], [*start, "pe", *masks[1:], *end], [*start, "pe", "la", *masks[2:], *end]
    ]  # fmt: skip
    assert [tokens(model, [s.ids[s.position]]) for s in sites] == [["<mask>"]] * 3
    assert all(set(s.content).isdisjoint([0, s.position, len(s.ids) - 1]) for s in sites)


def test_target_is_the_token_that_continues_the_text():
    model = tiny_model("gpt2")
    spaced = make_sites(model, QUERIES.assign(space=" ", answer="mo"))
    assert tokens(model, [s.target for s in spaced]) == ["▁", "mo"] * 2
    assert tokens(model, [s.target for s in make_sites(model, QUERIES.assign(answer="mo"))]) == ["mo", "mo"]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_several_answer_tokens_are_the_mean_of_single_ones(kind):
    model, query = tiny_model(kind), QUERIES.head(1)
    whole, parts = attribute(model, query), []
    for shown, token in (("", "pe"), ("pe", "la"), ("pela", "tu")):
        parts.append(attribute(model, query.assign(prompt=query["prompt"] + shown, answer=token)))
    assert np.allclose(whole.scores, np.mean([p.scores.values for p in parts], axis=0), rtol=1e-8, atol=1e-15)
    assert whole.probability.item() == pytest.approx(np.prod([p.probability.item() for p in parts]), rel=1e-9)
    assert np.allclose(attribute(model, query, sites="first").scores, parts[0].scores, rtol=1e-8, atol=1e-15)
    # The tokens shown are the answer's, not what the model would have written.
    first = make_sites(model, query)[0]
    assert model.network(torch.tensor([first.ids])).logits[0, -1].argmax() != first.target


def test_several_answer_tokens_of_a_masked_model_are_the_mean_of_their_sites():
    model, query = tiny_model("bert"), QUERIES.head(1)
    sites = make_sites(model, query)
    whole = attribute(model, query, quadrature="gauss", steps=4)
    parts = []
    for site in sites:
        batch = ReferenceBatch(model, [site], [0, 1, 2], "prob")
        gradient = integrate_fixed(batch, "gauss", 4).gradient[0]
        parts.append((batch.neurons[0] * gradient).numpy())
    assert len(parts) == 3
    assert np.allclose(whole.scores[0], np.mean(parts, axis=0), rtol=1e-8, atol=1e-15)


# Baselines, completeness, error estimates


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", ["prob", "logprob"])
def test_completeness_with_the_tightest_tolerance(kind, objective):
    found = attribute(tiny_model(kind), QUERIES, objective=objective, tolerance=1e-9)
    assert found.completeness_gap.max() < 1e-6
    assert attribute(tiny_model(kind), QUERIES, quadrature="riemann", steps=5).completeness_gap.max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_masked_baseline_is_the_mean_and_multiplies_the_difference(kind):
    model = tiny_model(kind)
    site = make_sites(model, QUERIES)[-1]
    blank = "<mask>" if kind == "bert" else "</s>"
    prompts = masked_prompts(model, site)
    assert len(prompts) == len(site.content) and all(tokens(model, p).count(blank) >= 1 for p in prompts)
    begin = neuron_vectors(model, prompts, [site.position] * len(prompts)).mean(0)
    found = attribute(model, QUERIES.tail(1), baseline="mask_words_mean", tolerance=1e-9)
    same = attribute(model, QUERIES.tail(1), baseline=begin.numpy(), tolerance=1e-9)
    assert np.allclose(found.scores, same.scores, rtol=1e-8, atol=1e-14)
    assert found.completeness_gap.max() < 1e-6
    # Times the neurons instead of the difference (as some code does), the sum is another.
    neurons = neuron_vectors(model, [site.ids], [site.position])[0]
    gradient = found.scores[0].values / (neurons - begin).numpy()
    change = found.scores[0].values.sum(1)
    assert np.abs((gradient * neurons.numpy()).sum(1) - change).max() > 0.01 * np.abs(change).max()


def test_masked_paths_are_averaged():
    model = tiny_model("gpt2")
    query = QUERIES.tail(1)
    site = make_sites(model, query)[0]
    found = attribute(model, query, baseline="mask_words", quadrature="gauss", steps=5)
    begins = neuron_vectors(model, masked_prompts(model, site), [site.position] * len(site.content))
    each = [attribute(model, query, baseline=b.numpy(), quadrature="gauss", steps=5).scores for b in begins]
    assert np.allclose(found.scores, np.mean(each, axis=0), rtol=1e-8, atol=1e-14)


def test_dataset_mean_is_over_all_sites():
    model = tiny_model("bert")
    sites = make_sites(model, QUERIES)
    mean = torch.cat([neuron_vectors(model, [s.ids], [s.position]) for s in sites]).mean(0)
    a = attribute(model, QUERIES, baseline="dataset_mean", quadrature="gauss", steps=3)
    b = attribute(model, QUERIES, baseline=mean.numpy(), quadrature="gauss", steps=3)
    assert np.allclose(a.scores, b.scores, rtol=1e-8, atol=1e-14)
    assert a.provenance["options"]["baseline"] == "dataset_mean" and b.provenance["options"]["baseline"].startswith(
        "array "
    )


def test_error_estimate_bounds_the_true_error():
    """On random models (what holds on trained ones has to be measured on them); also where a norm follows the
    down-projection, so that completeness does not see the error."""
    queries = pd.DataFrame({"prompt": ["ba " + a + b for a in ("de", "ki", "lo") for b in ("mu", "na")], "space": "",
                            "answer": ["pe", "ri", "so", "tu", "ka", "la"], "suffix": "."})  # fmt: skip
    bounded = {}
    for kind in ("gpt2", "llama", "gemma2", "gemma3_text", "olmo2", "bert"):
        model = tiny_model(kind)
        found, truth = attribute(model, queries), attribute(model, queries, quadrature="gauss", steps=200)
        scale = np.abs(truth.scores.values).max((1, 2), keepdims=True)
        error = (np.abs(found.scores.values - truth.scores.values) / scale).max(-1)
        assert truth.completeness_gap.max() < 1e-3
        assert np.median(error) <= 0.01 and error.max() <= 0.05
        bounded[kind] = (error <= found.error_estimate.values + 1e-12).mean()
    assert min(bounded.values()) >= 0.9 and np.mean(list(bounded.values())) >= 0.95, bounded


def test_margin_is_the_log_odds_against_alternatives():
    model = tiny_model("gpt2")
    query = QUERIES.tail(1).assign(alternatives=[["ka", "su lo"]])
    found = attribute(model, query, objective="margin", sites="first", tolerance=1e-8)
    one = attribute(model, query, objective="logprob", tolerance=1e-8)
    others = [
        attribute(model, query.assign(answer=a), objective="logprob", tolerance=1e-8).scores for a in ("ka", "su")
    ]
    scale = np.abs(found.scores.values).max()
    assert np.abs(found.scores - (one.scores - np.mean(others, axis=0))).max() < 1e-5 * scale
    assert found.probability.item() == pytest.approx(one.probability.item())


def test_top_keeps_the_largest_and_tells_the_rest():
    found = attribute(tiny_model("gpt2"), QUERIES)
    table = found.top(3)
    assert table.columns.tolist() == ["query", "layer", "neuron", "score", "dropped"]
    own = table[table["query"] == "two"]
    largest = np.sort(np.abs(found.scores.sel(query="two").values).ravel())[::-1][:3]
    assert np.allclose(own["score"].abs(), largest)
    assert own["dropped"].iloc[0] == pytest.approx(
        1 - largest.sum() / np.abs(found.scores.sel(query="two").values).sum()
    )
    assert found.top(10**6)["dropped"].max() < 1e-12


def test_provenance_names_model_options_and_path():
    model = tiny_model("gpt2")
    found = attribute(model, QUERIES, tolerance=1e-3).provenance
    assert (found["model"], found["model_hash"]) == ("tiny-gpt2", model.hash)
    assert found["options"]["tolerance"] == 1e-3 and found["options"]["method"] == "ig"
    assert found["path"] == "staircase (prefix shared, injection broadcast, head linear)"
    assert attribute(model, QUERIES.assign(answer="ka")).provenance["queries"] != found["queries"]
    assert set(found["versions"]) == {"knlib", "torch", "transformers", "numpy"}


# Refusals


def test_scores_that_are_not_finite_name_query_and_layer():
    model = tiny_model("llama")
    model.down_projections[1].weight[0, 5] = float("nan")
    with pytest.raises(InputError, match=r"^query (one|two), layer \d: found a score that is not finite"):
        attribute(model, QUERIES, quadrature="riemann", steps=2)
    with pytest.raises(InputError, match=r"^query (one|two), layer \d"):
        attribute(model, QUERIES)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"prompt": ["", "nu"]}, "query 0, prompt: found ''"),
        ({"prompt": ["nu", "  "]}, "query 1, prompt"),
        ({"answer": ["pe", ""]}, "query 1, answer"),
        ({"prompt": ["nu", "ba " * 80]}, "prompt: found .* tokens, expected at most 64"),
        ({"answer": ["pe", "ba" * 70]}, "prompt: found .* tokens, expected at most 64"),
    ],
)
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_queries_that_cannot_be_asked(kind, change, match):
    with pytest.raises(InputError, match=match):
        attribute(tiny_model(kind), QUERIES.assign(**change))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "magic"}, "method: found 'magic', expected one of ig"),
        ({"objective": "loss"}, "objective"),
        ({"objective": "margin"}, "objective: found 'margin', expected a column `alternatives`"),
        ({"baseline": "noise"}, "baseline"),
        ({"baseline": np.zeros((3, 25))}, r"baseline: found shape \(3, 25\)"),
        ({"quadrature": "simpson"}, "quadrature"),
        ({"quadrature": "gauss", "steps": 0}, "steps"),
        ({"tolerance": 0}, "tolerance"),
        ({"sites": "last"}, "sites"),
        ({"layers": [3]}, "layers: found 3, expected numbers from 0 to 2"),
        ({"layers": []}, "layers"),
        ({"layers": [1, 1]}, "layers"),
        ({"engine": "warp"}, "engine"),
    ],
)
def test_options_that_do_not_exist(options, match):
    with pytest.raises(InputError, match=match):
        attribute(tiny_model("gpt2"), QUERIES, **options)


def test_wrong_tables_and_half_precision():
    model = tiny_model("gpt2")
    for table in (["a prompt"], QUERIES.drop(columns="answer"), QUERIES.iloc[:0]):
        with pytest.raises(InputError, match=r"^queries"):
            attribute(model, table)
    with pytest.raises(InputError, match=r"^model: found weights in torch.bfloat16"):
        attribute(tiny_model("gpt2", dtype=torch.bfloat16), QUERIES)


@pytest.mark.parametrize("kind", ["albert", "mixtral"])
def test_architectures_without_one_projection_per_layer_are_named(kind, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

    options = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 99,
    }
    extra = {"embedding_size": 8} if kind == "albert" else {"num_key_value_heads": 2, "num_local_experts": 2}
    loader = AutoModelForMaskedLM if kind == "albert" else AutoModelForCausalLM
    loader.from_config(AutoConfig.for_model(kind, **options, **extra)).save_pretrained(tmp_path)
    tiny_model("bert" if kind == "albert" else "gpt2").tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"^architecture \w+: found lists of layers.*down_proj"):
        attribute(load_model(tmp_path), QUERIES)


def test_a_sure_answer_has_a_probability_of_one_at_most(monkeypatch):
    """A logarithm that rounding left above 0 is that of 1."""
    score = Scorer.score

    def above(self, sites):
        scores, log_p, changes, errors = score(self, sites)
        return scores, np.full_like(log_p, 2e-6), changes, errors

    monkeypatch.setattr(Scorer, "score", above)
    assert (attribute(tiny_model("gpt2"), QUERIES, method="activation").probability == 1).all()
