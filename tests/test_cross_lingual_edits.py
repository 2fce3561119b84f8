"""Edits in one language, asked in all: who is asked what, with whose neurons, and with which result; by hand."""

import edit_tables
import numpy as np
import pandas as pd
import pytest
from tiny_models import KeepFloat64, tiny_model

from knlib.cross_lingual_edits import GROUPS, cross_lingual_edits, edit_arms, edit_groups
from knlib.editing import value_edit
from knlib.errors import InputError
from knlib.perplexity import text_loss
from knlib.uses import answers


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


EDITS = edit_tables.queries("request", languages=("en",))
LOCATED = edit_tables.queries("locate")
HELD_OUT = edit_tables.queries("held0", "held1")
OTHERS = edit_tables.queries("held0", relation="s", new=False)


def groups():
    return edit_groups(EDITS, LOCATED, HELD_OUT, OTHERS)


def asked(table, group):
    """owner -> the facts it asks in a group."""
    rows = table[table["group"] == group]
    return rows.groupby("owner")["fact"].agg(lambda facts: sorted(set(facts))).to_dict()


def test_groups_go_from_the_request_to_other_relations():
    table = groups()
    assert list(dict.fromkeys(table["group"])) == [name for name in GROUPS if name in set(table["group"])]
    own = {f"r:{key}": [f"r:{key}"] for key in "ABCD"}
    assert asked(table, "request") == asked(table, "paraphrase") == own
    assert set(table.loc[table["group"] == "request", "template"]) == {"r/en/request"}
    assert set(table.loc[table["group"] == "paraphrase", "language"]) == {"en"}
    elsewhere = table[table["group"].isin(["language", "same_string"])]
    assert set(elsewhere["language"]) == {"ja"} and len(elsewhere) == 8
    # "pe" is the same word in both languages: the old object of A, and the new one of whoever got it.
    alike = {"r:A", *EDITS.loc[EDITS["new"] == "pe", "fact"]}
    assert set(table.loc[table["group"] == "same_string", "owner"]) == alike
    assert (table["same_string"] == table["group"].isin(["request", "paraphrase", "same_string"])).all()


def test_locality_asks_the_next_fact_for_the_owners_new_object():
    table = groups()
    following = {"r:A": ["r:B"], "r:B": ["r:C"], "r:C": ["r:D"], "r:D": ["r:A"]}
    donors = {row.fact: f"r:{row.new_id}" for row in EDITS.itertuples()}
    # A fact whose answer is the owner's new object would be no test of locality.
    assert asked(table, "relation") == {o: f for o, f in following.items() if [donors[o]] != f}
    assert asked(table, "other") == {f"r:{key}": [f"s:{key}"] for key in "ABCD" if donors[f"r:{key}"] != f"r:{key}"}
    names = HELD_OUT.drop_duplicates(["fact", "language"]).set_index(["fact", "language"])["new"]
    for row in table[table["group"].isin(["relation", "other"])].itertuples():
        assert row.new == names[row.owner, row.language] != row.answer


def test_a_single_edit_has_no_partner_and_no_neighbours():
    table = edit_groups(EDITS.head(1), LOCATED, HELD_OUT[HELD_OUT["fact"] == "r:A"], OTHERS)
    assert "relation" not in set(table["group"]) and set(table["owner"]) == {"r:A"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"located": HELD_OUT}, "expected templates that were not used to locate"),
        ({"located": EDITS}, "found 'r/en/request', expected templates"),
        ({"located": OTHERS}, "found 's/en/held0', expected templates"),
        ({"edits": HELD_OUT[HELD_OUT["language"] == "en"].drop_duplicates("fact")}, "found 'r/en/held0'"),
        ({"edits": pd.concat([EDITS, EDITS.head(1)])}, "edits: found 'r:A', expected each fact once"),
        ({"edits": EDITS.drop(columns="new")}, "edits: found"),
        ({"held_out": HELD_OUT.drop(columns="new")}, "held_out: found"),
        ({"others": HELD_OUT}, "others: found 'r', expected queries of relations without an edit"),
    ],
)
def test_tables_that_would_test_what_was_located_are_refused(change, message):
    given = {"edits": EDITS, "located": LOCATED, "held_out": HELD_OUT, "others": OTHERS} | change
    with pytest.raises(InputError, match=message):
        edit_groups(**given)


def test_arms_are_scopes_and_at_most_k_of_the_best():
    arms = edit_arms(edit_tables.neurons(), EDITS)
    pairs = {name: table.groupby("fact")[["layer", "neuron"]].apply(lambda t: sorted(map(tuple, t.to_numpy().tolist())))
             for name, table in arms.items()}  # fmt: skip
    assert pairs["KN source"].to_dict() == {"r:A": [(1, 0), (2, 0)], "r:B": [(1, 2), (2, 1)], "r:D": [(1, 6), (2, 3)]}
    assert pairs["KN union"]["r:B"] == [(1, 2), (1, 3), (2, 1)] and pairs["KN union"]["r:C"] == [(1, 5), (2, 2)]
    assert pairs["LAKN"].to_dict() == {"r:A": [(2, 0)], "r:B": [(2, 1)], "r:C": [(2, 2)], "r:D": [(2, 3)]}
    target = arms["KN target"]
    assert target[target["language"] == "en"][["fact", "layer", "neuron"]].reset_index(drop=True).equals(
        arms["KN source"].reset_index(drop=True))  # fmt: skip
    best = edit_arms(edit_tables.neurons(), EDITS, k=1)
    assert best["KN union"].set_index("fact").loc["r:B"].tolist() == [1, 2]
    assert len(best["KN target"]) == 7 and len(best["KN source"]) == 3
    shuffled = edit_arms(edit_tables.neurons().sample(frac=1, random_state=2), EDITS, k=1)
    assert all(shuffled[name].sort_values("fact")["neuron"].tolist() == table.sort_values("fact")["neuron"].tolist()
               for name, table in best.items() if name != "KN target")  # fmt: skip


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_every_row_is_the_answer_of_the_model_edited_for_its_owner_alone(kind):
    model, facts, table = tiny_model(kind), edit_tables.facts(), groups()
    arms = edit_arms(edit_tables.neurons(), EDITS)
    found = cross_lingual_edits(model, EDITS, table, arms, facts, draws=2, l2=5.0)
    assert len(found) == len(table) * len(arms) * 3
    key = ["arm", "condition", "draw", "owner", "group", "query"]
    assert not found.duplicated(key).any()
    plain = answers(model, table, facts)
    rows = found.set_index(key).sort_index()
    for arm, condition in (("LAKN", "neurons"), ("KN target", "neurons"), ("KN union", "neurons")):
        for number in range(0, len(table), 5):
            query = table.iloc[[number]]
            owner, language = query["owner"].item(), query["language"].item()
            own = arms[arm][arms[arm]["fact"] == owner]
            own = own[own["language"] == language] if "language" in own else own
            with value_edit(model, EDITS[EDITS["fact"] == owner], own, l2=5.0):
                after = answers(model, query, facts).iloc[0]
            row = rows.loc[(arm, condition, 0, owner, query["group"].item(), query["query"].item())]
            assert row["p_new_after"] == pytest.approx(after["p_new"], rel=1e-6)
            assert row["p_answer_before"] == pytest.approx(plain["p_answer"].iloc[number], rel=1e-6)
            assert (row["right_after"], row["success_after"], row["n"]) == (after["right"], after["success"], len(own))
            local = row.name[4] in ("relation", "other")
            assert row["score"] == (row["unchanged"] if local else row["success_after"])
    # A random model gives hardly any probability to any answer of several syllables.
    assert (np.log(found["p_new_after"]) - np.log(found["p_new_before"])).abs().max() > 0.1


def test_facts_without_neurons_are_left_as_they_are_and_controls_are_as_many():
    model, table = tiny_model("gpt2"), groups()
    arms = edit_arms(edit_tables.neurons(), EDITS)
    found = cross_lingual_edits(model, EDITS, table, {"KN source": arms["KN source"]}, edit_tables.facts(), draws=3)
    empty = found[found["owner"] == "r:C"]
    assert (empty["n"] == 0).all() and empty["unchanged"].all() and len(empty) == 4 * (table["owner"] == "r:C").sum()
    rest = found[found["owner"] != "r:C"]
    assert (rest["n"] == 2).all() and not rest["p_new_after"].equals(rest["p_new_before"])
    before = {name: w.clone() for name, w in model.network.state_dict().items()}
    again = cross_lingual_edits(model, EDITS, table, {"KN source": arms["KN source"]}, edit_tables.facts(), draws=3)
    pd.testing.assert_frame_equal(found, again)
    assert all(w.equal(before[name]) for name, w in model.network.state_dict().items())
    other = cross_lingual_edits(
        model, EDITS, table, {"KN source": arms["KN source"]}, edit_tables.facts(), draws=3, seed=1
    )
    own = found["condition"] == "neurons"
    assert other[own].equals(found[own]) and not other[~own].equals(found[~own])


def test_an_arm_may_have_its_own_editor_and_text_is_read_under_every_edit():
    model, table, calls = tiny_model("gpt2"), groups(), []
    arms = edit_arms(edit_tables.neurons(), EDITS)
    arms = {"LAKN": arms["LAKN"], "again": arms["LAKN"], "KN source": arms["KN source"]}

    def editor(model, edit, neurons, **options):
        calls.append((edit["fact"].item(), len(neurons)))
        return value_edit(model, edit, neurons, **options)

    text = ["kilo sipo ba pe.", "mira da"]
    found = cross_lingual_edits(
        model, EDITS, table, arms, edit_tables.facts(), editors={"again": editor}, sentences=text, draws=1
    )
    parts = {name: rows.drop(columns="arm").reset_index(drop=True) for name, rows in found.groupby("arm")}
    own = parts["again"]["condition"] == "neurons"  # controls are drawn anew for every arm
    pd.testing.assert_frame_equal(parts["again"][own], parts["LAKN"][own])
    assert calls == [(fact, 1) for fact in EDITS["fact"] for _ in range(2)]
    loss = text_loss(model, text)
    with value_edit(model, EDITS.head(1), arms["LAKN"]):
        expected = text_loss(model, text) - loss
    rows = found[(found["owner"] == "r:A") & (found["condition"] == "neurons") & (found["arm"] == "LAKN")]
    assert np.allclose(rows["d_loss"], expected) and abs(expected) > 1e-6
    empty = found[(found["owner"] == "r:C") & (found["arm"] == "KN source")]
    assert (empty["d_loss"] == 0).all()


def test_bad_arms_are_named():
    model, facts = tiny_model("gpt2"), edit_tables.facts()
    with pytest.raises(InputError, match=r"arms: found \{\}, expected at least one"):
        cross_lingual_edits(model, EDITS, groups(), {}, facts)
    with pytest.raises(InputError, match="arm LAKN: found"):
        cross_lingual_edits(model, EDITS, groups(), {"LAKN": pd.DataFrame({"layer": [0]})}, facts)
    with pytest.raises(InputError, match="groups: found"):
        cross_lingual_edits(model, EDITS, HELD_OUT, edit_arms(edit_tables.neurons(), EDITS), facts)
