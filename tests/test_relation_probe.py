"""The gate's probe: planted relations are told apart, templates are left out honestly, thresholds keep what they promise."""

import edit_tables
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.cache import Entry, end_states
from knlib.editing.gate_calibration import LEAST_COSINE, check_negatives, gate_of
from knlib.editing.relation_probe import RelationProbe, can_fit, left_out_margins
from knlib.errors import InputError

MEANS = {"a": [6.0, 0, 0, 0], "b": [0, 6.0, 0, 0], "c": [0, 0, 6.0, 0]}


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def planted(relations, per_relation=40, seed=0):
    names = [name for name in relations for _ in range(per_relation)]
    noise = torch.randn(len(names), 4, generator=torch.Generator().manual_seed(seed))
    return (torch.tensor([MEANS[name] for name in names]) + noise).double(), names


@pytest.mark.parametrize("relations", ["ab", "abc"])
def test_planted_relations_have_margins_of_the_right_sign(relations):
    states, names = planted(relations)
    probe = RelationProbe.fit(states, names)
    assert probe.names == tuple(relations) and probe.weights.shape == (len(relations), 4)
    new, truth = planted(relations, seed=1)
    margins = probe.margins(new)
    own = torch.tensor([[name == other for other in relations] for name in truth])
    assert ((margins > 0) == own).float().mean() > 0.98
    # A margin is the log-odds against the best other.
    odds = (new @ probe.weights.T + probe.bias).softmax(1)
    others = odds[:, 1:].max(1).values
    assert torch.allclose(probe.margin(new, "a"), (odds[:, 0] / others).log())
    # In the middle between two planted means nobody wins by much, and nothing depends on the order of the prompts.
    middle = torch.tensor([[3.0, 3.0, 0, 0]])
    assert abs(float(probe.margin(middle, "a"))) < 0.1 * float(probe.margin(torch.tensor([MEANS["a"]]), "a"))
    turned = RelationProbe.fit(states.flip(0), names[::-1])
    assert turned.names == probe.names and torch.allclose(turned.margins(new), margins, atol=1e-8)


def test_wrong_relations_are_named():
    states, names = planted("ab")
    with pytest.raises(InputError, match="relations: found 1 in 3 prompts"):
        RelationProbe.fit(states[:3], ["a"] * 3)
    assert can_fit(["a", "b", "a"]) and not can_fit(["a", "b"]) and not can_fit([])
    with pytest.raises(InputError, match="relation: found 'z', expected one of a b"):
        RelationProbe.fit(states, names).margin(states, "z")


def test_a_template_that_is_unlike_the_others_is_seen_through_when_it_is_left_out():
    states, names = planted("ab")
    table = pd.DataFrame({"relation": names, "language": "en", "template": [f"t{i % 4}" for i in range(80)]})
    odd = (table["relation"] == "a") & (table["template"] == "t3")
    states[odd.to_numpy()] = torch.tensor([0, 0, 0, 30.0]).double() + 0.1 * states[odd.to_numpy()]
    margins = left_out_margins(states, table)
    whole = RelationProbe.fit(states, names).margins(states)
    column = odd.to_numpy()
    assert float(whole[column, 0].min()) > 0 > np.median(margins[column, 0])
    assert (margins[(table["relation"] == "a").to_numpy() & ~column, 0] > 0).mean() > 0.9
    # One template in a language: nothing can be left out.
    alone = table.assign(language=["de" if i == 0 else "en" for i in range(80)])
    assert (
        np.isnan(left_out_margins(states, alone)[0]).all() and not np.isnan(left_out_margins(states, alone)[1:]).any()
    )


def _gate(hits=0.98, contexts=("held0", "held1"), negatives=("request", "held0", "held1"), **columns):
    """The gate of two edits of `r` on random weights; prompts end in their relation."""
    model = tiny_model("gpt2")

    def turned(*templates, relation="r"):
        table = edit_tables.queries(*templates, relation=relation)
        words = table["prompt"].str.split()
        table = table.assign(prompt=words.str[0] + " " + words.str[2] + " " + words.str[1], edit=table["fact"])
        return table[table["fact"].isin([f"{relation}:B", f"{relation}:C"])].reset_index(drop=True)

    rows = turned("request", *contexts)
    ends = end_states(model, rows["prompt"], 1)
    entries = [
        Entry(fact, fact, "r", i, {code: (part["subject"].iloc[0],) for code, part in own.groupby("language")},
              {code: torch.nn.functional.normalize(ends[part.index], dim=-1) for code, part in own.groupby("language")}, {})
        for i, (fact, own) in enumerate(rows.groupby("fact"))
    ]  # fmt: skip
    other = turned(*negatives, relation="s").assign(**columns) if negatives else None
    return gate_of(model, entries, rows, ends, 1, other, hits)


def test_thresholds_are_never_above_the_plain_decision():
    probe, thresholds, report = _gate()
    assert probe.names == ("r", "s") and set(thresholds) == set(report) == {"en", "ja"}
    for code, found in report.items():
        assert found["threshold"] == thresholds[code] <= 0 and found["hits"] == 1.0 and 0 <= found["false"] <= 1
    # Fewer hits wanted: no lower threshold.
    assert all(_gate(hits=0.5)[1][code] >= value for code, value in thresholds.items())


def test_without_templates_to_leave_out_the_plain_decision_counts():
    probe, thresholds, report = _gate(contexts=())
    assert probe is not None and thresholds == {"en": 0.0, "ja": 0.0} and report["en"]["hits"] is None


@pytest.mark.parametrize("given", [{"negatives": ()}, {"relation": "r"}])
def test_with_nothing_to_learn_from_the_gate_goes_by_cosine(given):
    probe, thresholds, report = _gate(**given)
    assert probe is None and thresholds == {"en": LEAST_COSINE, "ja": LEAST_COSINE} and report["ja"]["false"] is None


def test_negatives_are_checked():
    table = pd.DataFrame([("f", "r", "en", "kilo")], columns=["fact", "relation", "language", "prompt"])
    check_negatives(None)
    check_negatives(table)
    check_negatives(table.head(0))
    with pytest.raises(InputError, match=r"negatives: found .*expected .*fact relation language prompt"):
        check_negatives(table.drop(columns="relation"))
    with pytest.raises(InputError, match="negatives, relation: found nan"):
        check_negatives(table.assign(relation=np.nan))
    with pytest.raises(InputError, match="negatives: found 'str'"):
        check_negatives("kilo")
