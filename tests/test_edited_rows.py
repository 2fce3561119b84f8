"""Rows that share their prompts' prefixes give the scores of whole rows, for every causal architecture."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import CAUSAL, KeepFloat64, tiny_model

from knlib import edited_rows, probe, shared_prefix
from knlib.edited_rows import EditedRow, edited_scores
from knlib.intervention import effects
from knlib.probe import best_prefix

# Prompts of four lengths, two of them alike (one prefix), answers of one, two and three tokens.
QUERIES = pd.DataFrame({
    "query": ["a", "b", "c", "d"], "fact": ["f", "g", "h", "f"], "language": ["en"] * 4, "relation": ["r"] * 4,
    "subject": ["kilo", "nu", "ta", "kilo"], "prompt": ["bada kilo", "nu", "sipo ta mira lenu do", "bada kilo"],
    "space": [""] * 4, "answer": ["pe", "lati", "Xky", "lati"], "suffix": ["."] * 4,
})  # fmt: skip
NEURONS = pd.DataFrame({"fact": list("fffgh"), "layer": [0, 1, 2, 1, 0], "neuron": [3, 7, 11, 20, 5]})
FACTS = pd.DataFrame({"relation": ["r"] * 4, "object": [{"en": [name]} for name in ("pe", "lati", "Xky", "suda")]})
CONTROLS = ("random", "layer_matched")
CONCATENATED = {"bloom", "falcon", "gpt_neo", "gptj", "codegen", "xglm", "mpt"}


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def whole_rows(monkeypatch, function):
    with monkeypatch.context() as patch:
        patch.setattr(edited_rows, "best_prefix", lambda model: None)
        return function()


def assert_same(a: pd.DataFrame, b: pd.DataFrame, tolerance: float = 1e-9):
    numbers = ["log_p_before", "log_p_after"]
    assert a.drop(columns=[*numbers, "p_before", "p_after"]).equals(b.drop(columns=[*numbers, "p_before", "p_after"]))
    assert np.abs(a[numbers].to_numpy() - b[numbers].to_numpy()).max() < tolerance


@pytest.mark.parametrize("kind", CAUSAL)
def test_shared_prefixes_equal_whole_rows(kind, monkeypatch):
    model = tiny_model(kind)
    assert best_prefix(model) == ("concatenated" if kind in CONCATENATED else "shared")

    def run():
        return effects(model, QUERIES, NEURONS, factor=2.0, controls=CONTROLS, facts=FACTS)

    found = run()
    assert_same(found, whole_rows(monkeypatch, run))
    # The median: a neuron behind a ReLU may be silent.
    assert (found["log_p_after"] - found["log_p_before"]).abs().median() > 1e-3
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom"])
def test_float32(kind, monkeypatch):
    model = tiny_model(kind, dtype=torch.float32)
    run = lambda: effects(model, QUERIES, NEURONS, controls=CONTROLS)  # noqa: E731
    assert_same(run(), whole_rows(monkeypatch, run), 1e-5)


def calls(model, function) -> list[tuple[int, int]]:
    """Shapes of the token tables that the network's body is given."""
    best_prefix(model)
    shapes = []
    handle = model.base.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple((args[0] if args else kwargs["input_ids"]).shape)),
        with_kwargs=True,
    )
    function()
    handle.remove()
    return shapes


def test_a_prompt_runs_once_and_a_condition_is_as_long_as_its_answer():
    model = tiny_model("llama")
    lengths = [len(model.specials[0]) + len(model.pieces(prompt)) for prompt in QUERIES["prompt"]]
    assert lengths[0] == lengths[3]
    found = calls(model, lambda: effects(model, QUERIES, NEURONS, controls=CONTROLS))
    # Three different prompts without their last token, then 4 queries x (before, neurons, 2 controls).
    assert found == [(3, max(lengths) - 1), (16, 3)]
    for positions in ("subject", "all"):
        found = calls(model, lambda p=positions: effects(model, QUERIES, NEURONS, controls=CONTROLS, positions=p))
        assert found == [(16, max(lengths) + 2)]
    bert = tiny_model("bert")
    assert best_prefix(bert) is None
    assert calls(bert, lambda: effects(bert, QUERIES, NEURONS, controls=()))[0][0] == 2 * (1 + 2 + 3 + 2)


@pytest.mark.parametrize("budget", ["TOKENS_PER_BATCH", "LOGITS_PER_BATCH"])
def test_batches_change_nothing(budget, monkeypatch):
    model = tiny_model("llama")
    run = lambda: effects(model, QUERIES, NEURONS, controls=CONTROLS, facts=FACTS)  # noqa: E731
    expected = run()
    few = 9 if budget == "TOKENS_PER_BATCH" else 9 * model.network.config.vocab_size
    monkeypatch.setattr(edited_rows, budget, few)
    found = calls(model, lambda: assert_same(run(), expected))
    assert len(found) > 8 and max(rows * width for rows, width in found[1::2]) <= 9


@pytest.mark.parametrize("kind", ["gpt2", "bloom"])
def test_prompts_of_one_token(kind, monkeypatch):
    model = tiny_model(kind)
    rows = [
        EditedRow([7, 9, 11], [0, 1, 2], [9, 11, 4], ((0, 3), (2, 5)), (0, 1, 2)),
        EditedRow([8], [0], [6], (), (0,)),
    ]
    found = edited_scores(model, rows, 0.0)
    assert np.allclose(found, whole_rows(monkeypatch, lambda: edited_scores(model, rows, 0.0)), rtol=1e-10)
    logits = model.network(input_ids=torch.tensor([[8]])).logits[0, 0]
    assert found[1] == pytest.approx(float(logits.log_softmax(-1)[6]), rel=1e-6)


def test_inexact_sharing_is_refused(monkeypatch):
    right = shared_prefix.shared_prefix_attention

    def wrong(module, query, *args, **kwargs):
        return right(module, query * 1.01, *args, **kwargs)

    monkeypatch.setitem(shared_prefix.AttentionInterface._global_mapping, shared_prefix.NAME, wrong)
    assert best_prefix(tiny_model("llama", seed=1)) == "concatenated"
    logits = probe.suffix_logits
    monkeypatch.setattr(probe, "suffix_logits", lambda *args: 1.01 * logits(*args))
    assert best_prefix(tiny_model("llama", seed=2)) is None


def test_memory_that_ends_in_the_probe_is_not_taken_for_an_inexact_rung(monkeypatch):
    def end(*args):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)")

    monkeypatch.setattr(probe, "suffix_logits", end)
    with pytest.raises(RuntimeError, match="out of memory"):
        best_prefix(tiny_model("gpt2", seed=3))
