"""Enhancement: facts that some languages lack, factors chosen on one half and judged on the other; by hand."""

import edit_tables
import pandas as pd
import pytest
from tiny_models import KeepFloat64, tiny_model

from knlib import enhancement as module
from knlib.editing import scale_columns
from knlib.enhancement import best_factor, enhancement, enhancement_groups
from knlib.errors import InputError
from knlib.uses import answers

LOCATED = edit_tables.queries("locate", new=False)
HELD_OUT = edit_tables.queries("held0", "held1", new=False)
OTHERS = edit_tables.queries("held0", relation="s", new=False)
# Which answers are right: A knows one language, B the other, C both, D none of all phrasings in English, one of two in
# Japanese.
RIGHT = {("r:A", "en"): (1, 1), ("r:A", "ja"): (0, 0), ("r:B", "en"): (0, 0), ("r:B", "ja"): (1, 1),
         ("r:C", "en"): (1, 1), ("r:C", "ja"): (1, 1), ("r:D", "en"): (0, 0), ("r:D", "ja"): (0, 1)}  # fmt: skip
NEURONS = pd.DataFrame({"fact": ["r:A", "r:A", "r:B"], "layer": [1, 2, 2], "neuron": [3, 7, 11]})


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


@pytest.fixture
def groups(monkeypatch):
    """The groups of a model that is right where `RIGHT` says so."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "answers", given)
        return enhancement_groups(tiny_model("gpt2"), LOCATED, HELD_OUT, OTHERS, edit_tables.facts())


def given(model, queries, facts):
    place = queries.groupby(["fact", "language"]).cumcount()
    right = [bool(RIGHT[row.fact, row.language][i]) for row, i in zip(queries.itertuples(), place, strict=True)]
    return pd.DataFrame({"right": right}, index=queries.index)


def test_facts_that_one_language_has_and_one_lacks(groups):
    own = groups[groups["group"] != "other"]
    assert set(own["owner"]) == {"r:A", "r:B"} and (own["owner"] == own["fact"]).all()
    kinds = own.groupby(["fact", "language"])["group"].agg(set).to_dict()
    assert kinds == {
        ("r:A", "en"): {"right"},
        ("r:A", "ja"): {"wrong"},
        ("r:B", "en"): {"wrong"},
        ("r:B", "ja"): {"right"},
    }
    assert len(own) == 8
    others = groups[groups["group"] == "other"]
    assert others.groupby("owner")["fact"].agg(set).to_dict() == {"r:A": {"s:A"}, "r:B": {"s:B"}}
    assert sorted(groups.groupby("owner")["half"].agg(set).explode()) == ["dev", "test"]


def test_halves_depend_on_the_seed(monkeypatch):
    monkeypatch.setattr(module, "answers", given)
    halves = {
        tuple(enhancement_groups(tiny_model("gpt2"), LOCATED, HELD_OUT, OTHERS, edit_tables.facts(), seed=seed)["half"])
        for seed in range(6)
    }
    assert len(halves) == 2


def test_what_cannot_be_judged_is_refused(monkeypatch):
    model, facts = tiny_model("gpt2"), edit_tables.facts()
    with pytest.raises(InputError, match="expected templates that were not used to locate"):
        enhancement_groups(model, HELD_OUT, HELD_OUT, OTHERS, facts)
    with pytest.raises(InputError, match="others: found 'r:A', expected facts that are not in held_out"):
        enhancement_groups(model, LOCATED, HELD_OUT, HELD_OUT, facts)
    monkeypatch.setattr(module, "answers", given)
    with pytest.raises(InputError, match=r"held_out: found 1 fact\(s\) that some languages have and some lack"):
        enhancement_groups(model, LOCATED, HELD_OUT[HELD_OUT["fact"] != "r:B"], OTHERS, facts)


def test_best_factor_counts_answers_then_probabilities_of_the_wrong_ones_only():
    rows = [(1.5, "wrong", False, 0.9), (2.0, "wrong", True, 0.2), (3.0, "wrong", True, 0.1), (3.0, "right", True, 1.0)]
    table = pd.DataFrame(rows, columns=["factor", "group", "right_after", "p_answer_after"])
    assert best_factor(table) == 2.0 and best_factor(table[table["factor"] != 2.0]) == 3.0


def test_rows_are_answers_with_scaled_columns_and_the_test_half_has_the_factor_of_the_other(groups):
    model, facts = tiny_model("llama"), edit_tables.facts()
    before = {name: w.clone() for name, w in model.network.state_dict().items()}
    found = enhancement(model, groups, {"LAKN": NEURONS}, facts, factors=(1.5, 8.0), draws=2)
    assert all(w.equal(before[name]) for name, w in model.network.state_dict().items())
    owners = groups.groupby("half")["owner"].first()
    sizes = found.groupby(["half", "condition"]).size()
    own = groups.groupby("half").size()
    assert sizes["dev", "neurons"] == 2 * own["dev"] and sizes["dev", "control"] == 4 * own["dev"]
    assert sizes["test", "neurons"] == own["test"] and sizes["test", "control"] == 2 * own["test"]
    for condition in ("neurons", "control"):
        dev = found[(found["half"] == "dev") & (found["condition"] == condition)]
        test = found[(found["half"] == "test") & (found["condition"] == condition)]
        assert set(dev["factor"]) == {1.5, 8.0} and set(test["factor"]) == {best_factor(dev)}
        assert set(test["owner"]) == {owners["test"]}
    rows = found[(found["condition"] == "neurons") & (found["factor"] == 8.0) & (found["owner"] == owners["dev"])]
    asked = groups[groups["owner"] == owners["dev"]]
    with scale_columns(model, NEURONS[NEURONS["fact"] == owners["dev"]], 8.0):
        expected = answers(model, asked, facts)
    assert rows["p_answer_after"].to_numpy() == pytest.approx(expected["p_answer"].to_numpy(), rel=1e-6)
    assert rows["right_after"].tolist() == expected["right"].tolist()
    assert (found["score"] == found["right_after"].astype(int) - found["right_before"].astype(int)).all()
    assert (found["p_answer_after"] - found["p_answer_before"]).abs().max() > 1e-4


def test_facts_without_neurons_do_not_change_and_arms_are_asked_for(groups):
    model, facts = tiny_model("gpt2"), edit_tables.facts()
    found = enhancement(model, groups, {"none": NEURONS.head(0)}, facts, factors=(2.0,), draws=1)
    assert (found["n"] == 0).all() and found["unchanged"].all() and (found["score"] == 0).all()
    with pytest.raises(InputError, match=r"arms: found \{\}, expected at least one"):
        enhancement(model, groups, {}, facts)
    with pytest.raises(InputError, match="arm LAKN: found"):
        enhancement(model, groups, {"LAKN": NEURONS.drop(columns="fact")}, facts)
    with pytest.raises(InputError, match="factors: found"):
        enhancement(model, groups, {"LAKN": NEURONS}, facts, factors=())
    with pytest.raises(InputError, match="groups: found"):
        enhancement(model, HELD_OUT, {"LAKN": NEURONS}, facts)
    with pytest.raises(InputError, match="groups: found no wrong answer in the half dev"):
        enhancement(model, groups[groups["half"] == "test"], {"LAKN": NEURONS}, facts)
