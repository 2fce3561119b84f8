"""Who is tried with whose neurons, and what the summary says of it: by hand."""

import numpy as np
import pandas as pd
import pytest
from tiny_models import tiny_model

from knlib.effect_groups import GROUPS, compare_methods, effect_groups, effect_summary, group_effects
from knlib.errors import InputError
from knlib.intervention import effects

FACTS, LANGUAGES = ["cap:A", "cap:B", "cap:C"], ["en", "ja"]


def queries(facts, template, relation="cap"):
    return pd.DataFrame([
        {"query": f"{fact}|{code}/{template}", "fact": fact, "relation": relation, "language": code}
        for fact in facts for code in LANGUAGES
    ])  # fmt: skip


def neurons(without=()):
    rows = [(f, c, 0, i) for i, (f, c) in enumerate((f, c) for f in FACTS for c in LANGUAGES) if (f, c) not in without]
    return pd.DataFrame(rows, columns=["fact", "language", "layer", "neuron"])


def made(without=()):
    others = queries(["cur:X", "cur:Y", "cur:Z", "cur:W"], "held", "cur")
    return effect_groups(neurons(without), queries(FACTS, "train"), queries(FACTS, "held"), others)


def pairs(table, group):
    """(query's fact, query's language) -> (owner, source) of a group."""
    rows = table[table["group"] == group]
    return {(r.fact, r.language): (r.owner, r.source) for r in rows.itertuples()}


def test_partners_go_round():
    table = made()
    assert list(dict.fromkeys(table["group"])) == list(GROUPS)
    assert pairs(table, "same") == pairs(table, "paraphrase") == {(f, c): (f, c) for f in FACTS for c in LANGUAGES}
    assert pairs(table, "language")["cap:B", "en"] == ("cap:B", "ja")
    assert pairs(table, "language")["cap:B", "ja"] == ("cap:B", "en")
    assert {f: pairs(table, "relation")[f, "en"] for f in FACTS} == {
        "cap:A": ("cap:B", "en"), "cap:B": ("cap:C", "en"), "cap:C": ("cap:A", "en")
    }  # fmt: skip
    assert [pairs(table, "other")[f"cur:{x}", "ja"][0] for x in "XYZW"] == [*FACTS, "cap:A"]
    assert table["query"].is_unique and table["query"].iloc[0] == "same|cap:A|en/train"
    assert set(table.loc[table["group"] == "same", "query"].str.split("/").str[1]) == {"train"}


def test_queries_without_neurons_are_left_out():
    table, whole = made(without=[("cap:A", "ja")]), made()
    assert not ((table["owner"] == "cap:A") & (table["source"] == "ja")).any()
    lost = (whole["owner"] == "cap:A") & (whole["source"] == "ja")
    assert len(table) == len(whole) - lost.sum() and lost.sum() == 6


def test_queries_of_localization_may_not_be_evaluated_as_held_out():
    with pytest.raises(InputError, match=r"held_out: found 'cap:A\|en/train'"):
        effect_groups(neurons(), queries(FACTS, "train"), queries(FACTS, "train"), queries(["cur:X"], "held"))
    with pytest.raises(InputError, match="at least two facts"):
        effect_groups(neurons().head(2), queries(FACTS[:1], "train"), queries(FACTS[:1], "held"), queries([], "held"))


def test_summary_is_a_ratio_of_means_and_a_paired_difference():
    rows = []
    for i, owner in enumerate(("a", "b", "c", "d")):
        before = [0.8, 0.4, 0.002, 0.798][i]
        rows += [
            {"group": "same", "query": i, "owner": owner, "condition": condition, "p_before": before,
             "p_after": before * kept, "log_p_after": np.log(before * kept)}
            for condition, kept in (("layer_matched", 0.9), ("neurons", 0.45))
        ]  # fmt: skip
    table = effect_summary(pd.DataFrame(rows).sample(frac=1, random_state=0), ["group"])
    own, control = table.loc[("same", "neurons")], table.loc[("same", "layer_matched")]
    assert own["change"] == pytest.approx(-0.55) and control["change"] == pytest.approx(-0.1)
    assert own["low"] <= own["change"] <= own["high"] < control["low"]
    assert own["log_change"] == pytest.approx(np.log(0.5)) and np.isnan(control["log_change"])
    assert (own["queries"], own["facts"]) == (4, 4)


def test_summary_weighs_by_probability_not_by_query():
    # A mean of ratios would say (-0.5 + 99) / 2; the ratio of means follows what is probable.
    rows = [
        {"group": "g", "query": q, "owner": q, "condition": c, "p_before": b, "p_after": a, "log_p_after": np.log(a)}
        for c in ("neurons", "layer_matched") for q, b, a in (("x", 0.9, 0.45), ("y", 0.001, 0.1))
    ]  # fmt: skip
    table = effect_summary(pd.DataFrame(rows), ["group"])
    assert table.loc[("g", "neurons"), "change"] == pytest.approx((0.55 - 0.901) / 0.901)
    assert table.loc[("g", "neurons"), "log_change"] == 0


def asked(table):
    """Prompts for the tiny model, different for every row."""
    words = ["bada", "kilo", "nu", "sipo", "ta", "mira"]
    prompts = [f"{words[i % 6]} {words[i // 6 % 6]}" for i in range(len(table))]
    return table.assign(prompt=prompts, space="", answer=["pe", "mota"] * (len(table) // 2), suffix=".")


def test_group_effects_scale_the_owners_neurons():
    model, table = tiny_model("gpt2"), asked(made())
    found = group_effects(model, table, neurons(), factors=(0.0, 3.0), seed=2)
    assert len(found) == 2 * 2 * len(table) and set(found["condition"]) == {"neurons", "layer_matched"}
    pool = neurons().set_index(["fact", "language"])
    own = found[found["condition"] == "neurons"].set_index(["query", "factor"])
    for row in table[table["query"].str.contains("cap:B|en", regex=False)].itertuples():
        pair = pool.loc[(row.owner, row.source)]
        one = table[table["query"] == row.query]
        alone = effects(model, one, pair[["layer", "neuron"]].to_frame().T.assign(fact=one["fact"].iloc[0]),
                        factor=3.0, controls=(), match=("fact",))  # fmt: skip
        assert own.loc[(row.query, 3.0), "p_after"] == pytest.approx(alone["p_after"].item(), rel=1e-5)
    assert (found["owner"] == found["query"].map(table.set_index("query")["owner"])).all()


def test_methods_are_asked_where_they_have_neurons():
    model, held = tiny_model("gpt2"), asked(queries(FACTS, "held"))
    each = neurons(without=[("cap:A", "ja")])
    everywhere = pd.DataFrame({"fact": ["cap:A", "cap:A", "cap:B"], "layer": [0, 1, 2], "neuron": [4, 4, 4]})
    lonely = neurons().head(1)
    table = compare_methods(model, {"each": each, "all": everywhere, "lonely": lonely}, held)
    assert table.index.unique("method").tolist() == ["each", "all"]
    assert table.loc[("each", "neurons"), ["queries", "facts", "neurons"]].tolist() == [5, 3, 1]
    assert table.loc[("all", "neurons"), ["queries", "facts", "neurons"]].tolist() == [4, 2, 1.5]
    assert compare_methods(model, {"lonely": lonely}, held).empty
