"""Consistency scores, thresholds, labels and inference of the Query Localization study: known answers of its specification."""

import numpy as np
import pandas as pd
import pytest

from knlib.errors import InputError
from knlib.query_localization.inference import mixed_model, relation_draws
from knlib.query_localization.scores import (
    expected_cs_2,
    fixed_k,
    j_star,
    overlap_scores,
    pair_similarities,
    refine,
    subsets,
    threshold_sets,
    top_sets,
)
from knlib.query_localization.split import LABELS, circular_welch, kappa, label_facts, welch
from knlib.query_localization.thresholds import SWEEP, bimodality, inconsistent, otsu, sweep

BY_HAND = ["abc", "abd", "ae"]
OTSU = [0.05, 0.06, 0.07, 0.08, 0.3, 0.32, 0.35]
# Spec, table 2.5: (common neurons, pool) -> CS_2 at these numbers of queries.
QUERIES = (2, 4, 8, 12, 17)
TABLE = {
    (0, 200): (0.026, 0.076, 0.170, 0.258, 0.357),
    (5, 200): (0.345, 0.237, 0.198, 0.212, 0.248),
    (2, 2000): (0.113, 0.065, 0.044, 0.042, 0.046),
}


def random_sets(common, pool, k, draw, size=10):
    rest = np.arange(common, pool)
    return [[*range(common), *draw.choice(rest, size - common, replace=False).tolist()] for _ in range(k)]


# Scores


def test_scores_by_hand():
    found = overlap_scores(BY_HAND)
    assert found == pytest.approx({"cs_1": 0.2, "cs_2": 0.4, "jaccard": 1 / 3, "do": 0.5625, "size": 8 / 3}, abs=1e-12)
    assert refine(BY_HAND, 0.5) == {"a", "b"} and refine(BY_HAND, 0.7) == {"a"}
    assert j_star(1 / 3, 0.05, 0.90) == pytest.approx(1 / 3, abs=1e-12)


def test_two_queries_have_one_overlap():
    draw = np.random.default_rng(0)
    for _ in range(50):
        a, b = (set(draw.choice(30, draw.integers(1, 20), replace=False).tolist()) for _ in range(2))
        found = overlap_scores([a, b])
        assert found["cs_1"] == found["cs_2"] == found["jaccard"] == len(a & b) / len(a | b)


def test_equal_disjoint_and_reordered_sets():
    names = ("cs_1", "cs_2", "jaccard", "do")
    assert [overlap_scores(["ab"] * 4)[n] for n in names] == [1, 1, 1, 1]
    assert [overlap_scores(["ab", "cd", "ef"])[n] for n in names] == [0, 0, 0, 0]
    sets = random_sets(3, 40, 6, np.random.default_rng(1))
    again = [list(reversed(sets[i])) for i in (3, 1, 5, 0, 2, 4)]
    assert overlap_scores(again) == pytest.approx(overlap_scores(sets), abs=1e-14)


def test_duplicates_within_a_set_count_once():
    assert overlap_scores([["a", "a", "b"], ["a"]])["jaccard"] == 0.5
    assert refine([["a", "a"], ["b"], ["b"]], 0.5) == {"b"}  # twice in one query is one query


def test_empty_sets_are_undefined_and_one_query_is_an_error():
    empty = overlap_scores([[], []])
    assert all(np.isnan(empty[n]) for n in ("cs_1", "cs_2", "jaccard", "do")) and empty["size"] == 0
    assert overlap_scores(["ab", "", ""])["jaccard"] == 0  # the pair of two empty sets does not count
    with pytest.raises(InputError, match="sets: found 1 of them, expected at least two"):
        overlap_scores(["ab"])
    with pytest.raises(InputError, match="vectors"):
        pair_similarities(np.ones((1, 3)))


def test_the_rescaled_score_has_its_ends_and_needs_a_distance():
    assert j_star(0.05, 0.05, 0.9) == 0 and j_star(0.9, 0.05, 0.9) == 1
    assert np.isnan(j_star(0.5, 0.86, 0.90)) and np.isnan(j_star(0.5, np.nan, 0.9))
    assert np.isfinite(j_star(0.5, 0.85, 0.90))  # .05 itself is enough
    assert np.isnan(j_star([0.2, 0.3], [0.1, 0.9], [0.6, 0.6])).tolist() == [False, True]


def test_refine_of_four_queries_is_one_rule_for_half_and_seven_tenths():
    draw = np.random.default_rng(2)
    for _ in range(20):
        sets = random_sets(1, 14, 4, draw)
        assert refine(sets, 0.5) == refine(sets, 0.7) == {m for m in range(14) if sum(m in s for s in sets) >= 3}
    ten = [["a"]] * 7 + [["b"]] * 3
    assert refine(ten, 0.7) == set() and refine(ten, 0.6) == {"a"}
    with pytest.raises(InputError, match=r"p: found 1\.0"):
        refine(BY_HAND, 1.0)


def test_sets_by_threshold_and_by_size():
    scores = np.array([[[1.0, 0.3], [0.31, -9.0]], [[-1.0, -2.0], [-3.0, 0.0]]])
    assert [s.tolist() for s in threshold_sets(scores, 0.3)] == [[0, 2], []]  # more than .3, not .3 itself
    assert [s.tolist() for s in top_sets(scores, 2)] == [[0, 2], [0, 3]]  # signed: -9 is not large
    with pytest.raises(InputError, match="m: found 5, expected from 1 to 4"):
        top_sets(scores, 5)


def test_set_free_similarities():
    row = np.array([1.0, 2.0, 3.0, 10.0])
    found = pair_similarities(np.stack([row, row**3, 2 * row]))
    assert found["spearman"] == pytest.approx(1) and found["cosine"] < 0.99
    assert pair_similarities(np.stack([row, -row])) == pytest.approx({"spearman": -1, "cosine": -1})
    assert all(np.isnan(v) for v in pair_similarities(np.zeros((2, 4))).values())
    draw = np.random.default_rng(0).normal(size=(3, 50))
    from scipy.stats import spearmanr

    pairs = [spearmanr(draw[a], draw[b]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
    assert pair_similarities(draw)["spearman"] == pytest.approx(np.mean(pairs))


# What depends on the number of queries


@pytest.mark.parametrize("case", TABLE)
def test_the_table_of_expected_overlaps(case):
    assert [round(expected_cs_2(*case, k), 3) for k in QUERIES] == list(TABLE[case])
    draw, jaccard = np.random.default_rng(0), []
    for k, expected in zip(QUERIES, TABLE[case], strict=True):
        found = [overlap_scores(random_sets(*case, k, draw)) for _ in range(400)]
        assert np.mean([f["cs_2"] for f in found]) == pytest.approx(expected, abs=0.02)
        jaccard.append(np.mean([f["jaccard"] for f in found]))
    assert max(jaccard) - min(jaccard) < 0.02


def test_jaccard_is_its_mean_over_subsets_and_the_others_are_not():
    sets = random_sets(4, 60, 5, np.random.default_rng(3))
    chosen = subsets(5, 4, np.random.default_rng(0))
    assert len(chosen) == 5
    four = fixed_k(sets, 4, np.random.default_rng(0))
    assert four["jaccard"] == pytest.approx(overlap_scores(sets)["jaccard"], abs=1e-12)
    assert abs(four["cs_1"] - overlap_scores(sets)["cs_1"]) > 1e-3


def test_subsets_are_all_or_ten_different_ones_by_seed():
    many = subsets(8, 4, np.random.default_rng(0))
    assert len(many) == len(set(many)) == 10 and all(len(set(s)) == 4 for s in many)
    assert many == subsets(8, 4, np.random.default_rng(0)) != subsets(8, 4, np.random.default_rng(1))
    assert np.isnan(fixed_k(["ab", "ab"], 4, np.random.default_rng(0))["cs_2"])


def test_the_expected_overlap_refuses_impossible_pools():
    for common, pool in ((11, 200), (10, 10), (0, 9)):
        with pytest.raises(InputError, match="common, size, pool"):
            expected_cs_2(common, pool, 4)


# Thresholds


def test_otsu_by_hand():
    assert otsu(OTSU) == pytest.approx(0.19, abs=1e-12)
    assert otsu([*OTSU, np.nan]) == pytest.approx(0.19, abs=1e-12)
    assert otsu([0.4] * 5) is None and otsu([]) is None
    assert otsu([0.0, 1.0, 2.0]) == 0.5  # a tie: the lowest
    weighted = [0.0] * 50 + [0.1] + [1.0] * 3
    assert 0.1 < otsu(weighted) < 1


@pytest.mark.parametrize(("slope", "shift"), [(3.7, -2.0), (0.01, 5.0), (1e3, 0.3)])
def test_otsu_splits_alike_after_an_affine_map(slope, shift):
    draw = np.random.default_rng(0)
    for values in (np.array(OTSU), draw.random(40), draw.beta(0.4, 0.9, 60), np.arange(12) / 12):
        changed = slope * values + shift
        assert ((values > otsu(values)) == (changed > otsu(changed))).all()


def test_two_modes_are_told_from_one():
    draw = np.random.default_rng(0)
    assert bimodality(np.r_[draw.normal(0.2, 0.05, 100), draw.normal(0.7, 0.05, 100)]).bimodal
    one = bimodality(draw.normal(0.4, 0.1, 200))
    assert not one.bimodal and str(one).startswith("not bimodal")
    assert otsu(draw.normal(0.4, 0.1, 200)) is not None  # and yet it splits
    assert not bimodality([0.3] * 9).bimodal
    with pytest.raises(InputError, match="values: found 3 of them"):
        bimodality([0.1, 0.2, 0.3])


def test_shares_by_threshold():
    values = [0.1, 0.3, np.nan, 0.5]
    assert np.array_equal(inconsistent(values), [1, 0, np.nan, 0], equal_nan=True)  # .3 itself is consistent
    table = sweep(values)
    assert tuple(table["threshold"]) == SWEEP == tuple(np.arange(1, 13) * 5 / 100)
    assert table["share"].is_monotonic_increasing
    assert table.set_index("threshold").loc[[0.05, 0.15, 0.6], "share"].tolist() == pytest.approx([0, 1 / 3, 1])


# Labels and the circular test


def test_the_published_test_finds_a_difference_in_nothing():
    found = circular_welch(np.linspace(0, 1, 1000), 0.3)
    assert found.t == pytest.approx(54.7, abs=0.1) and found.p < 1e-6
    assert (found.consistent, found.inconsistent) == (700, 300)


def test_labels_from_other_noise_find_nothing():
    for seed in range(20):
        draw = np.random.default_rng(seed)
        labels = label_facts(pd.Series(draw.random(1000)))
        assert abs(welch(draw.random(1000), labels).t) < 4


def test_labels_leave_out_what_is_undefined():
    found = label_facts(pd.Series({"a": 0.5, "b": 0.49, "c": np.nan}))
    assert found.to_dict() == {"a": "consistent", "b": "inconsistent"}
    assert LABELS == ("consistent", "inconsistent")
    few = welch([0.1, 0.2, 0.9], ["inconsistent", "inconsistent", "consistent"])
    assert np.isnan(few.t) and (few.consistent, few.inconsistent) == (1, 2)


def test_kappa_by_hand():
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: (.7 - .5) / .5.
    a, b = pd.Series(list("y" * 25 + "n" * 25)), pd.Series(list("y" * 20 + "n" * 5 + "y" * 10 + "n" * 15))
    assert kappa(a, b) == pytest.approx(0.4)
    assert kappa(a, a) == 1 and np.isnan(kappa(a[:25], a[:25]))  # one label for all: chance alone agrees
    assert kappa(a, b.sample(frac=1, random_state=0)) == pytest.approx(0.4)  # by fact, not by place
    assert np.isnan(kappa(a[:3], b[10:]))


# Inference


def test_draws_take_relations_whole_then_facts():
    relations = ["a"] * 3 + ["b"] * 5 + ["c"] * 2
    draws = relation_draws(relations, draws=4000)
    sizes = np.array([draws[:, [r == name for r in relations]].sum(1) for name in "abc"])
    assert all(set(np.unique(sizes[i] / n)) <= {0, 1, 2, 3} for i, n in enumerate((3, 5, 2)))
    assert (sizes.T / (3, 5, 2)).sum(1).tolist() == [3.0] * 4000  # three relations in every draw
    assert draws.mean(0) == pytest.approx(np.ones(10), abs=0.1)
    assert np.array_equal(draws, relation_draws(relations, draws=4000))
    assert not np.array_equal(draws, relation_draws(relations, draws=4000, seed=1))


def test_relations_that_differ_widen_the_interval():
    relations = np.repeat(list("abcdef"), 20)
    draw = np.random.default_rng(0)
    spread = draw.normal(size=6).repeat(20) + 0.1 * draw.normal(size=120)
    draws = relation_draws(relations)
    by_relation = (draws @ spread / draws.sum(1)).std()
    shuffled = draw.permutation(spread)
    assert by_relation > 2 * (draws @ shuffled / draws.sum(1)).std()


def test_the_mixed_model_finds_what_was_put_in():
    draw = np.random.default_rng(0)
    base = {r: draw.normal() for r in "abcdefgh"}
    rows = [
        {"relation": r, "model": m, "method": h, "k": 8, "size": s, "cs_2": base[r] + 0.3 * (m == "two") + 0.02 * s + e}
        for r in base for m in ("one", "two") for h in ("ig", "sig") for s, e in draw.normal(0, (1, 0.1), (20, 2))
    ]  # fmt: skip
    found = mixed_model(pd.DataFrame(rows))
    terms = found.terms
    assert terms.loc["C(model)[T.two]", "low"] < 0.3 < terms.loc["C(model)[T.two]", "high"]
    assert terms.loc["size", "estimate"] == pytest.approx(0.02, abs=0.01)
    assert terms.loc["C(method)[T.sig]", "p_holm"] > 0.01 > terms.loc["C(model)[T.two]", "p_holm"]
    assert found.left_out == ("k",) and found.converged and 0.4 < found.relation_sd < 2
    with pytest.raises(InputError, match="table: found 1 relation"):
        mixed_model(pd.DataFrame(rows[:5]))
    with pytest.raises(InputError, match="columns cs_2 k method model relation size"):
        mixed_model(pd.DataFrame(rows).drop(columns="k"))
