"""Synapses by the rules of the spec (section 9, numbers 6 and 7), and the sets that they are compared with."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_models import tiny_model

from knlib.controls import generator
from knlib.errors import InputError
from knlib.query_localization.measure import asked
from knlib.query_localization.synapse_controls import mass_matched, of_another, of_columns, random_columns
from knlib.query_localization.synapses import Columns, attention_columns, column_kinds, column_mass, select_synapses

CAUSAL = np.array([[1, 0, 0], [0.6, 0.4, 0], [0.5, 0.3, 0.2]])
BOTH_WAYS = np.array([[0.6, 0.2, 0.2], [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]])


def columns_of(weights, visible, sinks):
    mass, viewers = column_mass(weights[None, None], np.asarray(visible, bool))
    kinds = np.where(np.isin(np.arange(weights.shape[-1]), sinks), "sink", "relation")
    return Columns(mass, viewers[None], kinds)


def chosen(columns, **options):
    return np.flatnonzero(select_synapses(columns, **options)[0, 0]).tolist()


def test_causal_fixture():
    columns = columns_of(CAUSAL, np.tri(3), [0])
    assert np.allclose(columns.mass, [2.1, 0.7, 0.2])
    assert np.allclose(columns.norm, [0.70, 0.35, 0.20])
    assert chosen(columns, mode="paper", alpha=0.3) == [0, 1]  # tau = .63
    assert chosen(columns, mode="paper", alpha=0.7 / 2.1 + 1e-9) == [0]
    assert chosen(columns, mode="norm", alpha=0.3) == [1, 2]


def test_bidirectional_fixture():
    columns = columns_of(BOTH_WAYS, np.ones((3, 3)), [0, 2])
    assert np.allclose(columns.mass, [1.5, 0.9, 0.6])
    assert np.allclose(columns.norm, [0.5, 0.3, 0.2])
    assert chosen(columns, mode="norm") == [1]


def test_a_budget_is_as_many_entries_as_layers_times_heads_without_sinks():
    draw = generator(0, "budget")
    mass = draw.random((3, 4, 9))
    columns = Columns(mass, np.full((3, 9), 9), np.array(["sink"] + ["relation"] * 8))
    found = select_synapses(columns, mode="budget")
    assert found.sum() == 12 and not found[..., 0].any()
    assert columns.norm[found].min() > columns.norm[..., 1:][~found[..., 1:]].max()


def test_unknown_rules_are_refused():
    columns = columns_of(CAUSAL, np.tri(3), [0])
    with pytest.raises(InputError, match="mode: found 'top'"):
        select_synapses(columns, mode="top")
    with pytest.raises(InputError, match=r"alpha: found 1\.5"):
        select_synapses(columns, alpha=1.5)


def query(**changes):
    row = {"prompt": "to mi ku ra lo", "space": " ", "answer": "be do", "suffix": " .", "subject": "ku ra"}
    return SimpleNamespace(**(row | changes))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "gemma2"])
def test_every_token_hands_out_all_its_attention(kind):
    model = tiny_model(kind)
    columns = attention_columns(model, query())
    length = asked(model, query()).length
    assert columns.mass.shape == (3, 4, length)
    assert np.allclose(columns.mass.sum(-1), length)
    assert columns.mass.min() > 0 and columns.norm.max() <= 1
    first = 5 if kind in ("mistral", "gemma2") else length  # windows of five tokens
    assert columns.viewers[0].tolist() == [min(first, length - c) for c in range(length)]


def test_columns_of_a_causal_query():
    model = tiny_model("llama")
    rows = asked(model, query())
    kinds, tokens = column_kinds(model, query(), rows), model.tokenizer.convert_ids_to_tokens(rows.rows[0])
    assert len(rows.rows) == 1 and tokens[0] == "<s>"
    assert kinds[0] == "sink" and (kinds == "sink").sum() == 1
    named = ["".join(t for t, k in zip(tokens, kinds, strict=True) if k == kind).replace("▁", " ").strip()
             for kind in ("subject", "relation", "answer")]  # fmt: skip
    assert named[0] == "ku ra" and named[1].split() == ["to", "mi", "lo"]
    assert "be do".startswith(named[2]) and named[2]  # all of the answer but its last token


def test_columns_of_a_masked_query():
    model = tiny_model("bert")
    rows = asked(model, query())
    kinds, ids = column_kinds(model, query(), rows), np.array(rows.rows)
    masks = (ids == model.tokenizer.mask_token_id).any(0)
    assert len(rows.rows) == masks.sum() == (kinds == "answer").sum() > 1
    assert (kinds[masks] == "answer").all()
    ends = model.tokenizer.convert_ids_to_tokens(ids[0])
    assert {t.replace("▁", "") for t, k in zip(ends, kinds, strict=True) if k == "sink"} <= {"<s>", "</s>", ".", ""}
    assert kinds[0] == kinds[-1] == kinds[-2] == "sink"
    # Words behind the answer are no sink, the point behind them is.
    longer = query(suffix=" ra ni .")
    kinds = column_kinds(model, longer, asked(model, longer))
    behind = kinds[np.flatnonzero(kinds == "answer")[-1] + 1 :].tolist()
    assert behind[:2] == ["relation"] * 2 and behind[-2:] == ["sink"] * 2
    assert np.allclose(attention_columns(model, query()).viewers, len(ids[0]))


@pytest.fixture(scope="module")
def sets():
    """Synapses of random attention, and what they may be compared with."""
    draw = generator(1, "synapses")
    mass = draw.random((3, 4, 12)) ** 4
    own = mass > np.sort(mass, axis=None)[-25]
    pool = np.ones_like(own)
    pool[..., 0] = False
    return own & pool, mass, pool


def test_random_columns_match_heads_and_avoid_the_set(sets):
    own, _, pool = sets
    found = random_columns(own, pool, generator(0, "a"))
    assert (found.sum(2) == own.sum(2)).all() and own.any()
    assert not (found & own).any() and not (found & ~pool).any()
    assert (found == random_columns(own, pool, generator(0, "a"))).all()
    assert (found != random_columns(own, pool, generator(0, "b"))).any()


def test_random_columns_turn_to_other_heads_of_the_layer_where_one_is_full():
    own = np.zeros((2, 2, 6), bool)
    own[0, 0, 1:5] = True
    pool = np.ones_like(own)
    found = random_columns(own, pool, generator(0, "a"))
    assert found[0, 0].sum() == 2 and found[0, 1].sum() == 2 and not found[1].any()


def test_mass_matched_entries_hold_as_much_layer_by_layer(sets):
    own, mass, pool = sets
    own = own & (mass > np.sort(mass, axis=None)[-8])
    found = mass_matched(own, mass, pool, generator(0, "a"))
    assert not (found & own).any() and not (found & ~pool).any()
    for layer in range(3):
        # As near as the next entry is large.
        gap = abs(mass[layer][found[layer]].sum() - mass[layer][own[layer]].sum())
        assert gap <= mass[layer][~own[layer]].max() / 2
    assert found.sum() > own.sum()


def test_what_a_layer_lacks_comes_from_the_others():
    mass = np.ones((2, 1, 6))
    mass[0, 0, :2] = 10
    own = np.zeros((2, 1, 6), bool)
    own[0, 0, 0] = True
    pool = np.ones_like(own)
    pool[0, 0, 1] = False
    found = mass_matched(own, mass, pool, generator(0, "a"))
    assert found[0].sum() == 4 and found[1].sum() == 6


def test_entries_of_columns(sets):
    own, _, _ = sets
    columns = np.arange(12) < 7
    found = of_columns(own, columns, generator(0, "a"))
    assert (found.sum((1, 2)) == own.sum((1, 2))).all() and not found[..., 7:].any()
    few = of_columns(own, np.arange(12) == 3, generator(0, "a"))
    assert (few.sum((1, 2)) == np.minimum(own.sum((1, 2)), 4)).all()


def test_synapses_of_another_query_are_as_many(sets):
    own, mass, _ = sets
    other = Columns(mass[:, :, ::-1], np.full((3, 12), 12), np.array(["sink"] + ["relation"] * 11))
    assert of_another(own, other, "norm").sum() == own.sum() and not of_another(own, other, "norm")[..., 0].any()
    assert of_another(own, other, "paper")[0, 0].sum() == (mass[0, 0, ::-1] >= np.sort(mass, None)[-own.sum()]).sum()
