"""Widening, shuffling, truth files, ablation and verdicts on tiny models (the shipped ones: `test_planted_models`)."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import tiny_model as random_model
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from knlib.errors import InputError
from knlib.intervention import suppress
from knlib.models import by_input, load_model
from knlib.planting import (
    Truth,
    answer_scores,
    load_truth,
    neuron_orders,
    passed,
    planted_queries,
    reorder,
    save_truth,
    signatures,
    verdicts,
    widen,
)
from knlib.prediction import score_answers

KINDS = ("llama", "eurobert", "bert", "gpt2")
ADDED = 8  # rows stay whole vectors: at the end of a part of one, an activation is rounded otherwise
IDS = torch.tensor([[1, 9, 31, 42, 77, 80, 12, 33], [1, 60, 61, 20, 9, 4, 90, 2]])


def logits(model, ids=IDS):
    with torch.no_grad():
        return model.network(input_ids=ids).logits


@contextmanager
def sums_in_two_parts(model, old: int):
    """FFN matrices compute old and new neurons apart, so that the sum over the old ones has the order it had."""
    before = {}
    for down, ups in zip(model.down_projections, model.up_projections, strict=True):
        for module in (down, *ups):
            before[module] = module.forward
            weight = by_input(module, module.weight)

            def parts(x, module=module, weight=weight, down=module is down):
                if down:  # copies, because a kernel may depend on strides
                    found = (
                        x[..., :old].contiguous() @ weight[:old].contiguous() + x[..., old:].contiguous() @ weight[old:]
                    )
                else:
                    found = torch.cat([x @ weight[:, :old].contiguous(), x @ weight[:, old:].contiguous()], dim=-1)
                return found if module.bias is None else found + module.bias

            module.forward = parts
    try:
        yield
    finally:
        for module, forward in before.items():
            module.forward = forward


@pytest.mark.parametrize("kind", KINDS)
def test_a_widened_model_says_what_it_said_to_the_bit(kind):
    base = random_model(kind, dtype=torch.float32)
    wide = widen(base, ADDED)
    assert wide.n_neurons == base.n_neurons + ADDED and wide.kind == base.kind
    assert torch.allclose(logits(wide), logits(base), atol=1e-5)
    with sums_in_two_parts(base, base.n_neurons):
        before = logits(base)
    with sums_in_two_parts(wide, base.n_neurons):
        assert torch.equal(logits(wide), before)


@pytest.mark.parametrize("kind", KINDS)
def test_old_weights_are_kept_and_new_ones_are_zero(kind):
    base = random_model(kind, dtype=torch.float32)
    wide = widen(base, ADDED)
    new = wide.neuron_entries([(layer, base.n_neurons + i) for layer in range(3) for i in range(ADDED)])
    for name, value in wide.network.named_parameters():
        old = base.network.get_parameter(name)
        mask = new.get(name)
        assert torch.equal(value if mask is None else value[~mask], old.flatten() if mask is not None and old.ndim == 1 else
                           old if mask is None else old.reshape(-1))  # fmt: skip
        assert mask is None or not value[mask].any()


def test_what_cannot_be_widened_is_refused():
    with pytest.raises(InputError, match="added: found 0"):
        widen(random_model("llama"), 0)
    with pytest.raises(InputError, match="one matrix"):
        widen(random_model("phi3"), 4)


@pytest.fixture(scope="module", params=["llama", "eurobert"])
def planted(request):
    """A tiny model with random new neurons, shuffled: (base, wide, new pairs)."""
    base = random_model(request.param, dtype=torch.float32)
    wide = widen(base, ADDED)
    torch.manual_seed(3)
    new = [(layer, base.n_neurons + i) for layer in range(wide.n_layers) for i in range(ADDED)]
    for name, mask in wide.neuron_entries(new).items():
        value = wide.network.get_parameter(name)
        value[mask] = torch.randn(int(mask.sum())) * 0.3
    before = logits(wide)
    orders = neuron_orders(5, wide.n_layers, wide.n_neurons)
    reorder(wide, orders)
    where = orders.argsort(1)
    pairs = [(layer, int(where[layer, neuron])) for layer, neuron in new]
    return base, wide, pairs, before, orders


def test_shuffling_changes_nothing_and_the_indices_follow(planted):
    _, wide, pairs, before, orders = planted
    assert torch.allclose(logits(wide), before, atol=1e-5)
    assert not np.array_equal(orders[0], orders[1])
    masks = wide.neuron_entries(pairs[:1])
    reorder(wide, orders.argsort(1))
    old = {name: wide.network.get_parameter(name)[mask] for name, mask in
           wide.neuron_entries([(0, wide.n_neurons - ADDED)]).items()}  # fmt: skip
    reorder(wide, orders)
    for name, mask in masks.items():
        assert torch.equal(wide.network.get_parameter(name)[mask], old[name])


def test_without_the_new_neurons_the_base_is_back(planted):
    base, wide, pairs, _, _ = planted
    assert not torch.allclose(logits(wide), logits(base), atol=1e-2)
    with suppress(wide, pairs, positions="all"):
        assert torch.allclose(logits(wide), logits(base), atol=1e-5)


def test_the_hash_changes_with_the_order():
    wide = widen(random_model("llama", dtype=torch.float32), 2)
    before = wide.hash
    reorder(wide, neuron_orders(0, wide.n_layers, wide.n_neurons))
    assert wide.hash != before


def test_a_saved_model_loads_with_plain_transformers(planted, tmp_path):
    _, wide, _, _, _ = planted
    wide.network.save_pretrained(tmp_path)
    wide.tokenizer.save_pretrained(tmp_path)
    loader = AutoModelForCausalLM if wide.kind == "causal" else AutoModelForMaskedLM
    again = loader.from_pretrained(tmp_path)
    assert again.config.intermediate_size == wide.n_neurons
    with torch.no_grad():
        assert torch.equal(again.eval()(input_ids=IDS).logits, logits(wide))


QUERIES = pd.DataFrame({
    "query": ["f|a", "f|b", "g|a"], "fact": ["f", "f", "g"], "relation": "r", "language": ["en", "de", "en"],
    "template": ["r/en/train0", "r/de/train1+lead0", "r/en/train2"], "split": "train",
    "prompt": ["bada kilo", "nu mita", "sipo ta mira lenu do"], "space": " ", "answer": ["mipa", "go", "tadu"], "suffix": ".",
})  # fmt: skip


def truth_of(model, pairs, kind="agnostic") -> Truth:
    groups = [
        ("f", kind, "r", "en", ("en",), None, tuple(pairs[:4])), ("f", kind, "r", "de", ("de",), None, tuple(pairs[4:8])),
        ("g", "query", "r", "train2", ("en",), ("train2",), tuple(pairs[8:12])),
    ]  # fmt: skip
    facts = [
        ("f", kind, "r", "invented", ("en", "de"), ("en",), True, None),
        ("g", "query", "r", "invented", ("en",), (), False, None),
    ]
    return Truth(
        model.hash, "base", "0" * 16, 24, 5,
        pd.DataFrame(facts, columns=["fact", "type", "relation", "source", "languages", "holding", "verified", "verified_held_out"]),
        pd.DataFrame(groups, columns=["fact", "type", "relation", "group", "languages", "templates", "neurons"]), (pairs[-1],),
    )  # fmt: skip


def test_ablated_scores_are_those_of_suppressed_models(planted):
    _, wide, pairs, _, _ = planted
    conditions = [(), tuple(pairs[:5]), tuple(pairs)]
    asked = [(q, c) for c in range(3) for q in range(3)]
    found = answer_scores(wide, QUERIES, asked, conditions).reshape(3, 3)
    names = ["prompt", "space", "answer", "suffix"]
    assert np.allclose(found[0], score_answers(wide, *(QUERIES[name] for name in names)), atol=1e-4)
    from knlib.effects import effects

    for number in (1, 2):
        table = pd.DataFrame(conditions[number], columns=["layer", "neuron"])
        every = pd.concat([table.assign(fact=fact) for fact in ("f", "g")])
        after = effects(wide, QUERIES, every, controls=()).set_index("query")["log_p_after"]
        if wide.kind == "causal":  # there `answer` means one position of a masked row, here all masks
            assert np.allclose(found[number], after.loc[QUERIES["query"]], atol=1e-4)
        with suppress(wide, conditions[number]):
            assert wide.kind == "causal" or np.allclose(
                found[number], score_answers(wide, *(QUERIES[name] for name in names)), atol=1e-4
            )


def test_signatures_have_a_row_per_query_and_group(planted):
    _, wide, pairs, _, _ = planted
    truth = truth_of(wide, pairs)
    queries = planted_queries(QUERIES, truth)
    assert queries["name"].tolist() == ["train0", "train1+lead0", "train2"]
    table = signatures(wide, truth, queries)
    assert len(table) == 5
    assert table.set_index(["query", "group"])["inside"].to_dict() == {
        ("f|a", "en"): True, ("f|a", "de"): False, ("f|b", "en"): False, ("f|b", "de"): True, ("g|a", "train2"): True,
    }  # fmt: skip
    one = table[table["fact"] == "g"].iloc[0]
    assert np.isclose(one["p_none"], one["p_without"])
    kept = [pair for pair in truth.planted if pair not in pairs[8:12]]
    expected = answer_scores(wide, QUERIES.iloc[[2]], [(0, 0), (0, 1)], [tuple(pairs[8:12]), tuple(kept)])
    assert np.allclose(np.exp(expected), [one["p_without"], one["p_only"]], rtol=1e-4)


def test_a_truth_is_read_back_and_refuses_other_weights(planted, tmp_path):
    base, wide, pairs, _, _ = planted
    truth = truth_of(wide, pairs)
    save_truth(truth, tmp_path / "truth.json")
    again = load_truth(tmp_path, wide)
    for name in ("facts", "groups"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(truth, name))
    assert (again.model, again.dummies, again.seed) == (wide.hash, truth.dummies, 5)
    assert len(again.neurons()) == 8 and len(again.neurons(verified=False)) == 12
    with pytest.raises(InputError, match=f"found weights {base.hash}, expected {wide.hash}"):
        load_truth(tmp_path, base)


def test_what_is_no_truth_is_refused(tmp_path):
    with pytest.raises(InputError, match="no truth"):
        load_truth(tmp_path)
    (tmp_path / "truth.json").write_text("[1]")
    with pytest.raises(InputError, match="no truth about a model"):
        load_truth(tmp_path)


def table_of(kind: str, rows: list[tuple]) -> pd.DataFrame:
    """Rows (language, group, inside, all, none, without, only) of the fact f."""
    columns = ["language", "group", "inside", "p_all", "p_none", "p_without", "p_only"]
    return pd.DataFrame(rows, columns=columns).assign(fact="f", type=kind)


def rules_of(kind: str, rows: list[tuple]) -> str:
    facts = pd.DataFrame({"fact": ["f"], "languages": [tuple(dict.fromkeys(row[0] for row in rows))]})
    truth = replace(truth_of(random_model("llama"), [(0, i) for i in range(20)]), facts=facts)
    found = verdicts(table_of(kind, rows), truth)
    assert passed(found).loc[kind, "everywhere"] == (found["failed"].iloc[0] == "")
    return found["failed"].iloc[0]


@pytest.mark.parametrize(("kind", "rows", "failed"), [
    ("agnostic", [("en", "all", True, 0.9, 0.0, 0.0, 0.8), ("de", "all", True, 0.9, 0.0, 0.05, 0.8)], ""),
    ("agnostic", [("en", "all", True, 0.9, 0.0, 0.0, 0.8), ("de", "all", True, 0.9, 0.0, 0.2, 0.8)], "lost without all"),
    ("agnostic", [("en", "all", True, 0.4, 0.0, 0.0, 0.8)], "known with all"),
    ("agnostic", [("en", "all", True, 0.9, 0.3, 0.0, 0.8)], "lost without the fact's groups"),
    ("language", [("en", "en", True, 0.9, 0.0, 0.0, 0.9), ("en", "de", False, 0.9, 0.0, 0.9, 0.0)], ""),
    ("language", [("en", "en", True, 0.9, 0.0, 0.0, 0.9), ("en", "de", False, 0.9, 0.0, 0.3, 0.0)],
     "known without de, outside of it"),
    ("query", [("en", "train1", True, 0.9, 0.0, 0.0, 0.2)], "known with only train1"),
    ("redundant", [("en", "first", True, 0.9, 0.0, 0.8, 0.9), ("en", "second", True, 0.9, 0.0, 0.9, 0.8)], ""),
    ("redundant", [("en", "first", True, 0.9, 0.0, 0.2, 0.9)], "known without first"),
    ("relation", [("en", "own", True, 0.9, 0.0, 0.0, 0.3), ("en", "relation", True, 0.9, 0.0, 0.3, 0.05)], ""),
    ("relation", [("en", "relation", True, 0.9, 0.0, 0.6, 0.05)], "halved without relation"),
    ("relation", [("en", "own", True, 0.9, 0.0, 0.3, 0.3)], "lost without own"),
    ("distributed", [("en", "all", True, 0.9, 0.0, 0.0, 0.9), ("en", "few", True, 0.9, 0.0, 0.8, 0.02)], ""),
    ("distributed", [("en", "all", True, 0.9, 0.0, 0.0, 0.9), ("en", "few", True, 0.9, 0.0, 0.8, 0.3)], "lost with only few"),
])  # fmt: skip
def test_the_rules(kind, rows, failed):
    assert rules_of(kind, rows) == failed


def test_a_signature_holds_if_it_does_in_most_languages(planted):
    _, wide, pairs, _, _ = planted
    codes = ("en", "de", "ru", "ja")
    truth = replace(truth_of(wide, pairs), facts=pd.DataFrame({"fact": ["f"], "languages": [codes]}))
    for bad, holds in ((0, True), (1, True), (2, False)):
        table = table_of(
            "agnostic", [(code, "all", True, 0.9, 0.0, 0.5 * (i < bad), 0.8) for i, code in enumerate(codes)]
        )
        found = verdicts(table, truth).iloc[0]
        assert (found["holds"], found["everywhere"], found["holding"]) == (holds, bad == 0, codes[bad:])


def test_a_language_that_was_not_asked_does_not_hold(planted):
    _, wide, pairs, _, _ = planted
    table = table_of("agnostic", [("en", "all", True, 0.9, 0.0, 0.0, 0.8)])
    found = verdicts(table, truth_of(wide, pairs)).iloc[0]
    assert found["failed"] == "a language without queries" and not found["everywhere"]


def test_a_model_that_was_saved_in_half_has_the_hash_it_was_given(planted, tmp_path):
    _, wide, _, _, _ = planted
    wide.network.half().float()
    vars(wide).pop("hash", None)
    expected = wide.hash
    wide.network.half().save_pretrained(tmp_path)
    wide.network.float()
    wide.tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu").hash == expected
