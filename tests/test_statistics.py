"""Statistics against values counted by hand, and the coverage of the intervals."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from knlib.errors import InputError
from knlib.statistics import holm, mean, paired_difference, pairing_null, ratio_of_means, sign_flip_test


def clustered(rng, clusters=25, size=8):
    """Values whose spread lies between facts (true mean 0), one cluster number per value."""
    names = np.repeat(np.arange(clusters), size)
    return rng.normal(size=clusters)[names] + 0.2 * rng.normal(size=len(names)), names


def test_interval_covers_the_truth_where_the_plain_one_does_not():
    rng, ours, plain, runs = np.random.default_rng(0), 0, 0, 200
    for run in range(runs):
        values, names = clustered(rng)
        found = mean(values, names, resamples=400, seed=run)
        ours += found.low <= 0 <= found.high
        half = 1.96 * values.std() / np.sqrt(len(values))
        plain += abs(values.mean()) <= half
    assert 0.89 <= ours / runs <= 0.99
    assert plain / runs < 0.7


def test_estimates_are_the_plain_ones_with_unequal_clusters():
    values, names = [1.0, 2.0, 6.0, 3.0], ["a", "a", "a", "b"]
    assert mean(values, names).estimate == 3.0
    assert mean(values, names).clusters == 2
    assert paired_difference(values, [0, 0, 0, 4], names).estimate == 2.0
    assert ratio_of_means(values, [2, 2, 2, 18], names).estimate == 0.5


def test_shuffling_queries_within_the_table_changes_nothing_but_the_order_of_facts():
    values, names = clustered(np.random.default_rng(1))
    order = np.concatenate([np.arange(25) * 8 + k for k in range(8)])
    assert mean(values, names, seed=3).low == pytest.approx(mean(values[order], names[order], seed=3).low, rel=1e-9)


def test_paired_difference_removes_what_both_share():
    rng = np.random.default_rng(2)
    shared, names = clustered(rng)
    found = paired_difference(shared + 0.1 + 0.01 * rng.normal(size=len(shared)), shared, names)
    assert 0.09 < found.low < 0.1 < found.high < 0.11
    assert mean(shared, names).high - mean(shared, names).low > 0.3


def test_ratio_interval_widens_with_the_spread_of_its_parts():
    names = np.arange(40)
    rng = np.random.default_rng(3)
    steady = ratio_of_means(np.full(40, 2.0), np.full(40, 4.0), names)
    assert (steady.low, steady.estimate, steady.high) == (0.5, 0.5, 0.5)
    loose = ratio_of_means(2 + rng.normal(size=40), 4 + rng.normal(size=40), names)
    assert loose.low < loose.estimate < loose.high and loose.high - loose.low > 0.05


def test_intervals_are_reproducible_and_widen_with_the_level():
    values, names = clustered(np.random.default_rng(4))
    assert mean(values, names, seed=5) == mean(values, names, seed=5) != mean(values, names, seed=6)
    wide, narrow = mean(values, names, level=0.99), mean(values, names, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_sign_flip_is_the_count_of_all_patterns():
    a, names = np.array([3.0, 1.0, -0.5, 2.0, 0.2, 1.0]), ["a", "a", "b", "c", "d", "d"]
    sums = np.array([4.0, -0.5, 2.0, 1.2])
    flips = np.array(list(product([1, -1], repeat=4))) @ sums
    expected = (np.abs(flips) >= abs(sums.sum()) - 1e-12).mean()
    assert sign_flip_test(a, np.zeros(6), names) == pytest.approx(expected)


def test_sign_flip_is_uniform_without_an_effect():
    rng = np.random.default_rng(7)
    p = [
        sign_flip_test(*(lambda v, n: (v, np.zeros(len(v)), n))(*clustered(rng, 12, 4)), resamples=499, seed=i)
        for i in range(150)
    ]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.05) < 0.12


def test_pairing_null_finds_real_pairs_and_no_others():
    rng = np.random.default_rng(8)
    a = [set(rng.choice(1000, 20, replace=False)) for _ in range(30)]
    b = [set(list(x)[:5]) | set(rng.choice(1000, 15, replace=False)) for x in a]

    def overlap(order, partners=b):
        return sum(len(x & partners[i]) for x, i in zip(a, order, strict=True))

    found = pairing_null(overlap, 30, resamples=199)
    assert found.statistic == overlap(np.arange(30)) and found.p_value == pytest.approx(1 / 200)
    assert len(found.null) == 199 and found.null.max() < found.statistic
    others = [set(rng.choice(1000, 20, replace=False)) for _ in range(30)]
    assert pairing_null(lambda order: overlap(order, others), 30, resamples=199).p_value > 0.02


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_holm_is_that_of_statsmodels():
    draw = np.random.default_rng(0)
    for size in (1, 2, 30):
        values = np.round(draw.random(size) ** 3, 2)  # with ties
        assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: mean([1.0, 2.0], ["a", "a"]), "clusters"),
        (lambda: mean([1.0, 2.0], ["a", None]), "clusters"),
        (lambda: mean([1.0, np.nan], ["a", "b"]), "values"),
        (lambda: mean([1.0], ["a", "b"]), "values"),
        (lambda: paired_difference([1.0, 2.0], [1.0], ["a", "b"]), "b"),
        (lambda: ratio_of_means([1.0, 2.0], [1.0, -1.0], ["a", "b"]), "b"),
        (lambda: mean([1.0, 2.0], ["a", "b"], level=95), "level"),
        (lambda: holm([0.1, 1.2]), "p_values"),
        (lambda: pairing_null(lambda order: 0.0, 1), "n"),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(InputError, match=f"^{match}"):
        call()
