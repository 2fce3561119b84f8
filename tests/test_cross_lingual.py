"""Kinds, layers and overlaps of the neurons of two languages, counted by hand; chance levels that are chance."""

import numpy as np
import pandas as pd
import pytest

from knlib.chance import mixed_facts, redrawn
from knlib.cross_lingual import (
    KINDS,
    language_counts,
    layer_counts,
    layer_profile,
    overlap_matrix,
    overlap_summary,
    pair_overlaps,
    shared_facts,
    shared_neurons,
)
from knlib.errors import InputError
from knlib.neuron_sets import neuron_sets


def fact(name, object_id, **objects):
    return {"fact": name, "relation": name.split(":")[0], "object_id": object_id,
            "object": {code: (text,) for code, text in objects.items()}}  # fmt: skip


FACTS = pd.DataFrame([
    fact("r:A", "x", en="Lima", de="LIMA", ja="リマ"),
    fact("r:B", "y", en="Cairo", de="Kairo", ja="カイロ"),
    fact("r:C", "x", en="Lima", de="Lima", ja="リマ"),
    fact("q:D", "z", en="Euro", de="Euro", ja="ユーロ"),
])  # fmt: skip


def neurons(rows):
    """From {(fact, scope): "layer.neuron ..."}."""
    return pd.DataFrame(
        [(name, scope, *map(int, pair.split("."))) for (name, scope), pairs in rows.items() for pair in pairs.split()],
        columns=["fact", "scope", "layer", "neuron"],
    )


TABLE = neurons({
    ("r:A", "en"): "0.1 0.2 1.1", ("r:A", "de"): "0.1 1.1", ("r:A", "ja"): "1.1 1.9", ("r:A", "all"): "1.1",
    ("r:B", "en"): "0.1 0.7", ("r:B", "de"): "0.7 0.8 0.9", ("r:B", "all"): "1.4",
    ("r:C", "en"): "0.1 0.2", ("r:C", "de"): "1.1", ("r:C", "ja"): "0.2",
    ("q:D", "en"): "0.1", ("q:D", "de"): "0.1",
})  # fmt: skip


def test_layer_counts_hold_every_fact_kind_and_layer():
    counts = layer_counts(TABLE, ["r:A", "r:B", "r:none"], 3)
    assert len(counts) == 3 * 3 * 3
    found = counts.set_index(["fact", "kind", "layer"])["neurons"].sort_index()
    # r:A: 0.2 in en alone, 1.9 in ja alone, 0.1 in two, 1.1 over all. r:B: 1.4 over all, though in no language's own set.
    assert found["r:A", "specific"].tolist() == [1, 1, 0]
    assert found["r:A", "partial"].tolist() == [1, 0, 0]
    assert found["r:A", "agnostic"].tolist() == [0, 1, 0]
    assert found["r:B", "specific"].tolist() == [3, 0, 0] and found["r:B", "agnostic"].tolist() == [0, 1, 0]
    assert found["r:none"].sum() == 0


def test_layer_profile_is_the_mean_over_facts_inside_its_interval():
    counts = layer_counts(TABLE, ["r:A", "r:B", "r:none"], 2)
    profile = layer_profile(counts)
    assert profile.index.unique("kind").tolist() == list(KINDS)
    assert profile.loc[("specific", 0), "mean"] == pytest.approx(4 / 3)
    assert profile.loc[("agnostic", 0), ["mean", "low", "high"]].tolist() == [0, 0, 0]
    low, high = profile.loc[("specific", 0), ["low", "high"]]
    assert 0 <= low < 4 / 3 < high <= 3


def test_language_counts_are_per_fact_and_leave_scope_all_out():
    counts = language_counts(TABLE, ["r:A", "r:B", "r:C", "q:D"], 3)
    # One language: r:A 0.2 1.9, r:B 0.1 0.8 0.9, r:C 0.1 1.1. Two: r:A 0.1, r:B 0.7, r:C 0.2, q:D 0.1. Three: r:A 1.1.
    assert counts.to_dict() == {1: 7 / 4, 2: 4 / 4, 3: 1 / 4}


def test_pairs_by_hand():
    pairs = pair_overlaps(TABLE, FACTS, ("en", "de", "ja")).set_index(["fact", "a", "b"])
    # r:B has nothing in ja, q:D neither: no row there.
    assert set(pairs.index) == {("r:A", "en", "de"), ("r:B", "en", "de"), ("r:C", "en", "de"), ("q:D", "en", "de"),
                                ("r:A", "en", "ja"), ("r:C", "en", "ja"), ("r:A", "de", "ja"), ("r:C", "de", "ja")}  # fmt: skip
    row = pairs.loc["r:A", "en", "de"]
    assert row["same"] == pytest.approx(2 / 3)
    # r:C has the same answer: A.en and C.de share 1.1 of 3; C.en and A.de share 0.1 of 3.
    assert row["same_answer"] == pytest.approx(np.mean([1 / 3, 1 / 3]))
    # r:B has another: A.en and B.de share nothing; B.en and A.de share 0.1 of 3.
    assert row["other_answer"] == pytest.approx(np.mean([0, 1 / 3]))
    assert row["alike"] and row["same_script"] and row["group"] == "same script, spelled alike"
    assert pairs.loc["r:B", "en", "de"]["group"] == "same script, spelled differently"
    assert pairs.loc["r:A", "en", "ja"]["group"] == "other script, spelled differently"
    # A.de and the other's ja: none, for B has no neurons in ja; B.de and A.ja share nothing.
    assert pairs.loc["r:A", "de", "ja"]["other_answer"] == 0
    alone = pairs.loc["q:D", "en", "de"]
    assert alone["same"] == 1 and np.isnan(alone["same_answer"]) and np.isnan(alone["other_answer"])


def test_order_of_languages_names_the_pair_and_changes_nothing_else():
    one = pair_overlaps(TABLE, FACTS, ("en", "de")).set_index("fact")
    other = pair_overlaps(TABLE, FACTS, ("de", "en")).set_index("fact")
    assert (other["a"] == "de").all() and (other["b"] == "en").all()
    for column in ("same", "same_answer", "other_answer"):
        assert one[column].to_numpy() == pytest.approx(other[column].to_numpy(), nan_ok=True)


def test_unknown_fact_is_named():
    with pytest.raises(InputError, match="table, fact: found 'q:D'"):
        pair_overlaps(TABLE, FACTS.head(3), ("en", "de"))


def test_overlap_summary_is_paired_and_needs_two_facts():
    pairs = pair_overlaps(TABLE, FACTS, ("en", "de", "ja"))
    summary = overlap_summary(pairs)
    # q:D has no control; r:B alone is spelled differently in one script.
    assert summary.index.tolist() == ["same script, spelled alike", "other script, spelled differently"]
    row = summary.loc["same script, spelled alike"]
    assert row["facts"] == 2 and row["pairs"] == 2
    # r:C: same 0; other: C.en with B.de none, B.en with C.de none.
    assert row["same"] == pytest.approx((2 / 3 + 0) / 2) and row["other"] == pytest.approx((1 / 6 + 0) / 2)
    assert row["difference"] == pytest.approx(row["same"] - row["other"])
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    # Both facts have a twin, each other; in the other script too.
    assert row["twins"] == 2 and row["twin"] == pytest.approx(1 / 3) and row["twin_same"] == pytest.approx(1 / 3)
    assert overlap_summary(pairs.head(0)).columns.tolist() == summary.columns.tolist()


def test_overlap_matrix_is_symmetric():
    pairs = pair_overlaps(TABLE, FACTS, ("en", "de", "ja"))
    matrix = overlap_matrix(pairs, "same", ("ja", "en", "de"))
    assert matrix.index.tolist() == matrix.columns.tolist() == ["ja", "en", "de"]
    # en, ja: r:A 1 of 4, r:C 1 of 2.
    assert matrix.loc["en", "ja"] == matrix.loc["ja", "en"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert np.isnan(np.diag(matrix)).all()


def test_shared_neurons_of_two_languages():
    shared = shared_neurons(TABLE, "en", "ja")
    found = {(row.fact, row.layer, row.neuron): row.kind for row in shared.itertuples()}
    assert found == {("r:A", 1, 1): "agnostic", ("r:C", 0, 2): "partial"}
    table = shared_facts(shared_neurons(TABLE, "en", "de"), FACTS, "en", "de")
    assert table.loc["r:A"].tolist() == ["Lima", "LIMA", 2, "0·1 1·1"]
    assert table["shared"].tolist() == [2, 1, 1]
    assert shared_facts(shared.head(0), FACTS, "en", "ja").empty


def test_redrawn_keeps_sizes_and_layers_and_nothing_else():
    many = pd.DataFrame(
        [(f"r:{i}", scope, layer, n) for i in range(20) for scope in ("en", "ja") for layer, n in
         ((0, 0), (0, 1), (2, 0), (2, 1), (2, 2))], columns=["fact", "scope", "layer", "neuron"],
    )  # fmt: skip
    found = redrawn(many, 50)
    assert found[["fact", "scope", "layer"]].equals(many[["fact", "scope", "layer"]])
    assert found["neuron"].between(0, 49).all() and not found.duplicated().any()
    assert found.equals(redrawn(many, 50)) and not found.equals(redrawn(many, 50, seed=1))
    # The draws depend on the set's name, not on its place.
    back = redrawn(many[::-1], 50).sort_index()
    assert neuron_sets(back, ["fact", "scope"]).keys() == neuron_sets(found, ["fact", "scope"]).keys()
    # Two random sets of 2 and 3 of 50: 2 * 2 / 50 + 3 * 3 / 50 = 0.26 shared on average.
    sets = neuron_sets(found, ["fact", "scope"])
    shared = np.mean([len(sets[f"r:{i}", "en"] & sets[f"r:{i}", "ja"]) for i in range(20)])
    assert 0 <= shared < 0.8
    with pytest.raises(InputError, match="n_neurons: found 2, expected at least 3"):
        redrawn(many, 2)


def test_mixed_facts_exchange_within_relation_and_language():
    queries = pd.DataFrame([
        {"query": f"{r}:{i}|{code}/{k}", "fact": f"{r}:{i}", "relation": r, "language": code}
        for r, n in (("r", 8), ("q", 1)) for i in range(n) for code in ("en", "ja", "ru") for k in range(2)
    ])  # fmt: skip
    mixed = mixed_facts(queries, seed=3)
    assert set(mixed["relation"]) == {"r"} and len(mixed) == 8 * 3 * 2
    assert mixed["query"].tolist() == queries.loc[queries["relation"] == "r", "query"].tolist()
    for code, rows in mixed.groupby("language"):
        # A permutation: each fact's two queries stay together, and every name is used once.
        own = rows["query"].str.split("|").str[0]
        pairs = set(zip(own, rows["fact"], strict=True))
        assert len(pairs) == 8 and {b for _, b in pairs} == {f"r:{i}" for i in range(8)}, code
    who = mixed.assign(own=mixed["query"].str.split("|").str[0]).groupby(["fact", "language"])["own"].first().unstack()
    assert (who["en"] == who["ja"]).mean() < 0.7 and (who["en"] == who["ru"]).mean() < 0.7
    assert mixed.equals(mixed_facts(queries, seed=3))
    with pytest.raises(InputError, match="no relation with two facts"):
        mixed_facts(queries[queries["relation"] == "q"])


def test_mixed_facts_of_facts_that_a_language_lacks():
    queries = pd.DataFrame(
        [(f"r:{i}|{c}", f"r:{i}", "r", c) for i in range(4) for c in ("en", "ja") if (i, c) != (2, "ja")],
        columns=["query", "fact", "relation", "language"],
    )
    mixed = mixed_facts(queries)
    assert len(mixed) == 7 and mixed.groupby("language")["fact"].nunique().to_dict() == {"en": 4, "ja": 3}
