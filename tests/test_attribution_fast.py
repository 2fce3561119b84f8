"""The staircase equals the reference, for every architecture, padding, rule, objective and budget."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import CAUSAL, MASKED, KeepFloat64, tiny_model

from knlib import methods, probe, reference, shared_prefix, staircase, staircase_pass
from knlib.attribution import attribute
from knlib.errors import InputError
from knlib.probe import best_plan
from knlib.sites import Site

# Prompts of four lengths (padding), answers of one, two and three tokens.
QUERIES = pd.DataFrame({
    "query": ["a", "b", "c", "d"], "prompt": ["bada kilo", "nu", "sipo ta mira lenu do", "go Ba"],
    "space": [""] * 4, "answer": ["pe", "lati", "mo", "Xky"], "suffix": ["."] * 4,
    "alternatives": [["ka", "du"], ["su"], ["la", "pe", "mo"], ["Yo"]],
})  # fmt: skip
# What the probe must find; a slower rung would pass the equality tests unseen.
CONCATENATED = {"bloom", "falcon", "gpt_neo", "gptj", "codegen", "xglm", "mpt"}
PLAIN_HEAD = {"gemma2", "cohere", "granite"}


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


@cache
def model_of(kind):
    return tiny_model(kind)


def worst(a, b):
    """Largest difference over the query's largest score."""
    scale = np.abs(b.scores.values).max((1, 2), keepdims=True)
    return float((np.abs(a.scores.values - b.scores.values) / scale).max())


@pytest.mark.parametrize("kind", [*CAUSAL, *MASKED])
def test_fast_equals_reference(kind):
    model = model_of(kind)
    plan = best_plan(model)
    prefix = "none" if kind in MASKED else "concatenated" if kind in CONCATENATED else "shared"
    assert plan == staircase.Plan(prefix, kind != "opt", kind not in PLAIN_HEAD)
    # Batches of all 7 sites, of one, and of as many as there are heads, which arguments could be mistaken for.
    for options in (
        {},
        {"quadrature": "riemann", "steps": 2, "batch": 1},
        {"quadrature": "gauss", "steps": 2, "batch": 4},
    ):
        asked = QUERIES if options else QUERIES.head(2)  # by hooks the adaptive rule is slow
        fast = attribute(model, asked, engine="fast", **options)
        slow = attribute(model, asked, engine="reference", **options)
        assert fast.provenance["path"].startswith("staircase") and slow.provenance["path"] == "reference"
        assert worst(fast, slow) < 1e-10
        assert np.allclose(fast.probability, slow.probability, rtol=1e-10, atol=0)
        assert np.allclose(fast.completeness_gap, slow.completeness_gap, atol=1e-9)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("layers", [None, [1], [0, 2], [2, 1]])
def test_any_number_of_points_and_any_layers(kind, steps, layers):
    model = model_of(kind)
    options = {"quadrature": "riemann", "steps": steps, "layers": layers}
    fast, slow = (attribute(model, QUERIES, engine=e, **options) for e in ("fast", "reference"))
    assert worst(fast, slow) < 1e-10
    assert fast.scores["layer"].values.tolist() == (layers or [0, 1, 2])
    every = attribute(model, QUERIES, quadrature="riemann", steps=steps).scores
    assert np.allclose(fast.scores, every.sel(layer=fast.scores["layer"]), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "opt", "bert"])
@pytest.mark.parametrize("objective", ["prob", "logprob", "margin"])
@pytest.mark.parametrize("baseline", ["zero", "mask_words", "mask_words_mean", "dataset_mean"])
def test_objectives_and_baselines(kind, objective, baseline):
    model = model_of(kind)
    options = {"objective": objective, "baseline": baseline, "sites": "first", "quadrature": "gauss", "steps": 3}
    fast, slow = (attribute(model, QUERIES, engine=e, **options) for e in ("fast", "reference"))
    assert worst(fast, slow) < 1e-10


@pytest.mark.parametrize("kind", ["llama", "bloom", "opt", "bert", "deberta-v2"])
def test_batches_and_chunks_change_nothing(kind, monkeypatch):
    model = model_of(kind)
    queries = pd.concat([QUERIES, QUERIES.assign(prompt=QUERIES["prompt"] + " nu")])
    whole = attribute(model, queries)
    for batch, rows in ((1, 4096), (7, 4096), (8, 100), (3, 20)):
        monkeypatch.setitem(methods.ROWS, "cpu", rows)
        assert worst(attribute(model, queries, batch=batch), whole) < 1e-6


@pytest.mark.parametrize(
    "kind", ["gpt2", "llama", "gpt_neox", "mistral", "qwen3", "olmo2", "falcon", "bert", "distilbert"]
)
def test_float32(kind):
    model = tiny_model(kind, dtype=torch.float32)
    fast, slow = (attribute(model, QUERIES, engine=e, quadrature="gauss", steps=3) for e in ("fast", "reference"))
    assert fast.scores.dtype == np.float32
    assert worst(fast, slow) < 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_two_runs_are_bit_equal_and_leave_the_model_as_it_was(kind):
    model = model_of(kind)
    ids = torch.arange(5, 14)[None]
    before, implementation = model.network(input_ids=ids).logits, model.network.config._attn_implementation
    first, second = attribute(model, QUERIES), attribute(model, QUERIES)
    assert np.array_equal(first.scores, second.scores)
    assert np.array_equal(first.error_estimate, second.error_estimate)
    assert torch.equal(model.network(input_ids=ids).logits, before)
    assert model.network.config._attn_implementation == implementation
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom", "mistral"])
def test_a_prompt_of_one_token_has_a_prefix_of_padding(kind):
    model = model_of(kind)
    for sites in ([Site(0, (7,), 0, 9, ())], [Site(0, (7,), 0, 9, ()), Site(1, (8, 11, 6), 2, 5, ())]):
        fast = staircase.StaircaseBatch(model, sites, [0, 1, 2], "logprob", best_plan(model))
        slow = reference.ReferenceBatch(model, sites, [0, 1, 2], "logprob")
        points = (np.array([0, 0, 0]), np.array([0, 1, 2]), np.array([0.3, 0.7, 1.0]))
        values, gradients = probe._neuron_gradients(fast, *points)
        expected, others = probe._neuron_gradients(slow, *points)
        assert np.allclose(values, expected, rtol=1e-10)
        assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-12) for a, b in zip(gradients, others, strict=True))


def test_a_head_of_many_blocks(monkeypatch):
    from knlib import heads

    whole = attribute(model_of("gpt2"), QUERIES)
    monkeypatch.setattr(heads, "BLOCK", 17)
    assert worst(attribute(model_of("gpt2"), QUERIES), whole) < 1e-12
    monkeypatch.undo()
    # Many rows on a CPU: as small as their scores' share of the cache.
    for name, value in (("CACHED", 1), ("LEAST", 13)):
        monkeypatch.setattr(heads, name, value)
    assert heads._block(9, torch.device("cpu")) == 13
    assert worst(attribute(model_of("gpt2"), QUERIES), whole) < 1e-12


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_slower_rungs_are_exact_too(kind):
    model = model_of(kind)
    sites = probe._random_sites(model)
    points = probe._random_points(3)
    expected = probe._neuron_gradients(probe.ReferenceBatch(model, sites, [0, 1, 2], "logprob"), *points)
    for prefix in ("none",) if kind == "bert" else ("shared", "concatenated", "none"):
        for broadcast in (True, False):
            for linear in (True, False):
                plan = staircase.Plan(prefix, broadcast, linear)
                assert probe._exact(model, plan, sites, [0, 1, 2], points, expected), plan


def test_the_probe_refuses_what_is_not_exact(monkeypatch):
    """Attention that is slightly wrong sends the model down to the next rung; so does every rung being wrong."""
    right = shared_prefix.shared_prefix_attention

    def wrong(module, query, *args, **kwargs):
        return right(module, query * 1.001, *args, **kwargs)

    monkeypatch.setitem(shared_prefix.AttentionInterface._global_mapping, shared_prefix.NAME, wrong)
    assert best_plan(tiny_model("llama", seed=1)).prefix == "concatenated"
    monkeypatch.setattr(staircase, "adjoint", lambda projection, gradient: 1.001 * gradient @ projection.weight)
    model = tiny_model("llama", seed=2)
    assert best_plan(model) is None
    assert attribute(model, QUERIES).provenance["path"] == "reference"
    with pytest.raises(InputError, match="no fast path is exact"):
        attribute(model, QUERIES, engine="fast")


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_out_of_memory_halves_the_budget_and_changes_nothing(kind, monkeypatch):
    model = model_of(kind)
    expected = attribute(model, QUERIES)
    refused, run = [], staircase_pass.Pass.run

    def small(self):
        size = sum(len(i.outputs) for i in self.injections.values())
        if size > 30:
            refused.append(size)
            raise torch.OutOfMemoryError("out of memory")
        return run(self)

    monkeypatch.setattr(staircase_pass.Pass, "run", small)
    assert worst(attribute(model, QUERIES), expected) < 1e-10
    assert refused
    monkeypatch.setattr(
        staircase_pass.Pass,
        "run",
        lambda self: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")),
    )
    with pytest.raises(torch.OutOfMemoryError):
        attribute(model, QUERIES)
