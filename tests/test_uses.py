"""What the three uses share: answers, pairs of before and after, controls, intervals; by hand."""

import edit_tables
import numpy as np
import pandas as pd
import pytest
from tiny_models import tiny_model

from knlib.controls import layer_matched
from knlib.errors import InputError
from knlib.prediction import predict, score_answers
from knlib.uses import answers, before_after, check_disjoint, finding, spelled_alike, use_summary, with_controls


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_answers_are_predictions_with_both_probabilities(kind):
    model, facts = tiny_model(kind), edit_tables.facts()
    queries = edit_tables.queries("held0", "held1").sample(frac=1, random_state=0)
    # A random model has one favourite: make it the new object of some queries.
    favourite = answers(model, queries, facts)["prediction"].where(queries["template"].str.endswith("1"))
    queries["new"] = favourite.fillna(queries["new"])
    found = answers(model, queries, facts)
    predicted = predict(model, queries, facts).set_index(queries.index)
    assert found.index.equals(queries.index)
    assert found["prediction"].equals(predicted["prediction"]) and found["p_answer"].equals(predicted["p_answer"])
    assert (found["right"] == (found["prediction"] == queries["answer"])).all()
    assert (found["success"] == (found["prediction"] == queries["new"])).all() and found["success"].any()
    scores = score_answers(model, queries["prompt"], queries["space"], queries["new"], queries["suffix"])
    assert np.allclose(found["p_new"], np.exp(scores), rtol=1e-9)
    plain = answers(model, queries.drop(columns="new"), facts)
    assert list(plain) == ["prediction", "right", "p_answer"] and plain["right"].equals(found["right"])


def test_a_model_that_answers_the_new_object_everywhere_or_nowhere():
    model, facts, queries = tiny_model("gpt2"), edit_tables.facts(), edit_tables.queries("held0")
    prediction = answers(model, queries, facts)["prediction"]
    assert answers(model, queries.assign(new=prediction), facts)["success"].all()
    other = queries.assign(new=np.where(prediction == "lati", "suda", "lati"))
    found = answers(model, other, facts)
    assert not found["success"].any() and found["p_new"].between(0, 1, inclusive="neither").all()


def test_before_and_after_stand_side_by_side():
    queries = pd.DataFrame({"query": ["q", "r"], "owner": ["f", "f"], "group": "new", "prompt": "x"}, index=[4, 7])
    before = pd.DataFrame({"prediction": ["a", "b"], "right": [True, False], "p_answer": [0.5, 0.1]}, index=[4, 7])
    after = pd.DataFrame({"prediction": ["a", "c"], "right": [True, True], "p_answer": [0.6, 0.3]}, index=[4, 7])
    found = before_after(queries, before, after)
    assert list(found) == ["owner", "group", "query", "unchanged", "right_before", "right_after", "p_answer_before",
                           "p_answer_after"]  # fmt: skip
    assert found["unchanged"].tolist() == [True, False] and found["right_after"].tolist() == [True, True]
    assert found["p_answer_before"].tolist() == [0.5, 0.1]


def test_templates_that_locate_and_test_are_refused():
    locate, test = edit_tables.queries("locate"), edit_tables.queries("held0")
    check_disjoint(locate, test)
    with pytest.raises(InputError, match="found 'r/en/locate', expected templates that were not used to locate"):
        check_disjoint(locate, pd.concat([test, locate.head(1)]))


def test_spelled_alike_looks_at_old_and_new_in_the_language_of_the_edit():
    edits = pd.DataFrame({"fact": ["f", "g"], "answer": ["Paris", "Köln"], "new": ["Lima", "Rom"]})
    queries = pd.DataFrame({
        "fact": ["f", "f", "f", "g", "g"], "answer": ["Paris", "Parijs", "PARIS", "Cologne", "Ko\u0308ln"],
        "new": ["Lime", "Lima", "Lime", "Rome", "Rome"],
    })  # fmt: skip
    assert spelled_alike(queries, edits).tolist() == [True, True, True, False, True]


def test_controls_match_layers_are_disjoint_and_depend_on_names_alone():
    model, pairs = tiny_model("gpt2"), ((0, 3), (1, 7), (1, 20))
    found = with_controls(model, pairs, 3, 0, "f", "LAKN")
    assert [row[:2] for row in found] == [("neurons", 0), ("control", 0), ("control", 1), ("control", 2)]
    assert found[0][2] == pairs
    for _, _, drawn in found[1:]:
        assert [layer for layer, _ in drawn] == [0, 1, 1] and not set(drawn) & set(pairs)
    assert len({drawn for _, _, drawn in found}) == 4
    assert with_controls(model, pairs, 2, 0, "f", "LAKN") == found[:3]
    assert with_controls(model, pairs, 2, 1, "f", "LAKN")[1:] != found[1:3]
    assert with_controls(model, (), 1, 0) == [("neurons", 0, ()), ("control", 0, ())]
    assert len(layer_matched(pairs, model.n_neurons, np.random.default_rng(0))) == 3
    with pytest.raises(InputError, match="draws: found 0"):
        with_controls(model, pairs, 0, 0)


def table():
    """Two facts of two questions; three draws of the control; an arm without control."""
    rows = []
    for owner, own in (("f", (1.0, 1.0)), ("g", (0.0, 1.0))):
        for query, value in enumerate(own):
            question = {"owner": owner, "group": "new", "query": query}
            rows.append(question | {"arm": "LAKN", "condition": "neurons", "draw": 0, "score": value})
            rows += [question | {"arm": "LAKN", "condition": "control", "draw": d, "score": s}
                     for d, s in enumerate((0, 0, 0.75))]  # fmt: skip
            rows.append(question | {"arm": "full", "condition": "neurons", "draw": 0, "score": 0.5})
    return pd.DataFrame(rows)


def test_summary_by_hand():
    found = use_summary(table().sample(frac=1, random_state=0), ["arm", "group"])
    own, full = found.loc[("LAKN", "new")], found.loc[("full", "new")]
    assert (own["estimate"], own["control"], own["difference"]) == (0.75, 0.25, 0.5)
    assert own["low"] <= 0.75 <= own["high"] and own["control_low"] == own["control_high"] == 0.25
    assert (own["facts"], own["queries"]) == (2, 4)
    assert full["estimate"] == full["low"] == full["high"] == 0.5
    assert full[["control", "control_low", "difference", "difference_high"]].isna().all()


def test_summary_of_booleans_and_of_one_fact():
    bools = table().assign(right=lambda t: t["score"] > 0.5)
    found = use_summary(bools, ["arm"], "right").loc[("LAKN",)]
    assert found["estimate"] == 0.75 and found["control"] == pytest.approx(1 / 3)
    one = use_summary(table().query("owner == 'g'"), ["arm", "group"]).loc[("LAKN", "new")]
    assert one["estimate"] == 0.5 and one["control"] == 0.25
    assert one[["low", "high", "control_low", "difference_high"]].isna().all() and one["facts"] == 1
    with pytest.raises(InputError, match="expected a column gain"):
        use_summary(table(), ["arm"], "gain")


def test_a_finding_says_which_way_it_went():
    row = pd.Series({"estimate": 0.45, "low": 0.12, "high": 0.78, "control": 0.02, "control_low": 0.0,
                     "control_high": 0.06, "difference": 0.43, "difference_low": 0.1, "difference_high": 0.76})  # fmt: skip
    assert finding(row) == "45 % [12, 78], control 2 % [0, 6], difference +43 [+10, +76]: excludes 0"
    assert finding(row.replace({0.1: -0.1})).endswith("difference +43 [-10, +76]: does not exclude 0")
    assert finding(row.replace({0.1: 0.0})).endswith("does not exclude 0")
    summary = use_summary(table(), ["arm", "group"])
    assert finding(summary.loc[("full", "new")]) == "50 % [50, 50], no control"
    one = use_summary(table().query("owner == 'g'"), ["arm", "group"]).loc[("LAKN", "new")]
    assert finding(one) == "50 %, control 25 %, difference +25: one fact, no interval"
