"""What a gate lets through, by threshold: shares are those of a count by hand."""

import edit_tables
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.cache import Entry, end_states, wording
from knlib.editing.cached_change import CachedChange
from knlib.editing.gate_calibration import RelationGate
from knlib.errors import InputError
from knlib.scoreboard.gate_rates import acting_facts, acting_rates, gate_rates, question_margins, rates_at_thresholds

RELATIONS = {f"{relation}:{key}": relation for relation in "rs" for key in edit_tables.NAMES}


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def ending(table):
    """Prompts that end in the relation's name, so that random weights tell relations apart."""
    words = table["prompt"].str.split()
    return table.assign(prompt=words.str[0] + " " + words.str[2] + " " + words.str[1])


def queries(*templates):
    tables = [edit_tables.queries(*templates, relation=relation, new=False) for relation in "rs"]
    return ending(pd.concat(tables, ignore_index=True))


def questions():
    """Of every fact two paraphrases, and the other relation of its subject; what the gate is not for is asked, too."""
    own = queries("held0", "held1").assign(kind="generality")
    own["edit"] = own["fact"]
    other = queries("locate").assign(kind="same_subject")
    other["edit"] = other["fact"].map(lambda fact: {"r": "s", "s": "r"}[fact[0]] + fact[1:])
    far = own.head(3).assign(kind="unrelated")
    return pd.concat([own, far, other], ignore_index=True).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def model():
    return tiny_model("gpt2")


@pytest.fixture
def gate(model):
    return RelationGate.calibrated(model, queries("request", "held0", "locate"), layer=1, false_hits=0.2)


def by_hand(model, gate, language, kind, theta):
    """Share let through of one language and kind, one question after another."""
    found = []
    for row in questions().query("language == @language and kind == @kind").itertuples():
        state = end_states(model, [row.prompt], gate.layer)
        found.append(
            float(gate.probe.margin(state, [wording(model, row.prompt, row.subject)], RELATIONS[row.edit])) >= theta
        )
    return sum(found) / len(found), len(found)


def test_margins_are_for_the_relation_of_the_edit(model, gate):
    found = question_margins(model, gate, questions(), RELATIONS)
    assert found["kind"].value_counts().to_dict() == {"generality": 32, "same_subject": 16}
    # A paraphrase asks for the edit's relation, a neighbour of the same subject for the other one.
    mean = found.groupby("kind")["margin"].mean()
    assert mean["generality"] > 0 > mean["same_subject"]
    turned = question_margins(model, gate, questions(), {edit: "rs"[name == "r"] for edit, name in RELATIONS.items()})
    np.testing.assert_allclose(turned["margin"], -found["margin"])  # of two relations


def test_rates_are_those_of_a_count_by_hand(model, gate):
    table = gate_rates(model, gate, questions(), RELATIONS, points=21)
    assert list(table) == ["language", "theta", "hits", "false_hits"] and len(table) == 2 * 21
    for language, own in table.groupby("language"):
        # Between two grid points, the first and last of which are margins themselves: equal up to rounding of batches.
        for row in own.iloc[1:-1].itertuples():
            assert row.hits == by_hand(model, gate, language, "generality", row.theta)[0]
            assert row.false_hits == by_hand(model, gate, language, "same_subject", row.theta)[0]
    # Something is told apart at all.
    assert table["false_hits"].between(0.1, 0.9).any() and (table["hits"] > table["false_hits"]).any()


def test_a_higher_threshold_lets_less_through(model, gate):
    margins = question_margins(model, gate, questions(), RELATIONS)["margin"]
    for _, own in gate_rates(model, gate, questions(), RELATIONS).groupby("language"):
        assert own["theta"].is_monotonic_increasing and len(own) == 41
        assert own["theta"].iloc[[0, -1]].tolist() == [margins.min(), margins.max()]
        for name in ("hits", "false_hits"):
            assert own[name].is_monotonic_decreasing and own[name].iloc[0] == 1 > own[name].iloc[-1]


def test_rates_at_the_gates_own_thresholds(model, gate):
    table = rates_at_thresholds(model, gate, questions(), RELATIONS).set_index("language")
    assert sorted(table.index) == ["en", "ja"]
    for language, row in table.iterrows():
        assert row["threshold"] == gate.thresholds[language]
        assert (row["hits"], row["hit_questions"]) == by_hand(model, gate, language, "generality", row["threshold"])
        assert (row["false_hits"], row["false_questions"]) == by_hand(
            model, gate, language, "same_subject", row["threshold"]
        )


def test_a_margin_at_its_threshold_is_let_through(model, gate):
    asked = question_margins(model, gate, questions(), RELATIONS)
    right = asked.query("kind == 'generality'")
    for language, own in right.groupby("language"):
        gate.thresholds[language] = own["margin"].max()
    table = rates_at_thresholds(model, gate, questions(), RELATIONS)
    assert (table["hits"] > 0).all() and (table["hits"] < 1).all()


def test_a_share_without_questions_is_missing(model, gate):
    only = questions().query("kind == 'generality'")
    table = rates_at_thresholds(model, gate, only, RELATIONS)
    assert table["false_hits"].isna().all() and (table["false_questions"] == 0).all() and table["hits"].notna().all()
    assert gate_rates(model, gate, only, RELATIONS)["false_hits"].isna().all()


def cached(model, gate, facts, thresholds):
    """An entry without values for each of the facts, with one key a language."""
    entries = []
    for number, (fact, own) in enumerate(queries("request").query("fact in @facts").groupby("fact")):
        states = torch.nn.functional.normalize(end_states(model, own["prompt"], gate.layer), dim=-1)
        keys = {code: states[[i]] for i, code in enumerate(own["language"])}
        names = {code: (name,) for code, name in zip(own["language"], own["subject"], strict=True)}
        entries.append(Entry(fact, fact, RELATIONS[fact], number, names, keys, {}))
    return CachedChange("lafn", {}, model.name, model.hash, tuple(entries), gate.layer, thresholds, gate.probe)


def test_rates_of_a_cache_with_many_edits_are_those_of_a_count_by_hand(model, gate):
    facts, thresholds = ["r:A", "r:B", "s:A", "s:C"], dict.fromkeys(("en", "ja"), 0.0)
    asked = questions()
    acting = acting_facts(model, cached(model, gate, facts, thresholds), asked["prompt"].tolist())
    for row, found in zip(asked.itertuples(), acting, strict=True):
        # Of the edited facts of this subject that whose relation the probe reads, if it is edited.
        state = end_states(model, [row.prompt], gate.layer)
        own = [
            fact
            for fact in facts
            if fact[2:] == row.fact[2:]
            and float(gate.probe.margin(state, [wording(model, row.prompt, row.subject)], fact[0])) >= 0
        ]
        assert found == (own[0] if own else ""), row.prompt
    rates = acting_rates(model, cached(model, gate, facts, thresholds), asked)
    for language, row in rates.iterrows():
        own = asked.assign(acting=acting)[asked["language"] == language]
        right, wrong = (own[own["kind"] == kind] for kind in ("generality", "same_subject"))
        assert row["hits"] == (right["acting"] == right["fact"]).mean()
        assert row["false_hits"] == ((wrong["acting"] != "") & (wrong["acting"] != wrong["fact"])).mean()
    assert rates["hits"].between(0.1, 0.9).all()
    never = acting_rates(model, cached(model, gate, facts, dict.fromkeys(thresholds, 1e9)), asked)
    assert (never == 0).all(axis=None)
    with pytest.raises(InputError, match="questions: found none of them"):
        acting_rates(model, cached(model, gate, facts, thresholds), asked.query("kind == 'unrelated'"))


def test_refusals(model, gate):
    asked = questions()
    for given, relations, said in (
        (asked.query("kind == 'unrelated'"), RELATIONS, "questions: found none of them"),
        (asked, {"r:A": "r"}, "relations: found none of edit"),
        (asked, RELATIONS | {"r:A": "z"}, "relation: found 'z', expected one of r s"),
        (asked.assign(language="fi"), RELATIONS, "questions, language: found 'fi', expected one of the gate's: en ja"),
    ):
        with pytest.raises(InputError, match=said):
            rates_at_thresholds(model, gate, given, relations)
    with pytest.raises(InputError, match="points: found 1"):
        gate_rates(model, gate, asked, RELATIONS, points=1)
