"""Intervals and tests that respect that the queries of one fact are not independent.

All functions take one value per query and the fact each belongs to; facts, not queries, are drawn.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from .errors import InputError, Literal


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval, from `clusters` facts."""

    estimate: float
    low: float
    high: float
    level: float
    clusters: int

    def __str__(self) -> str:
        return f"{self.estimate:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean(values, clusters, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean over all values, with a bootstrap interval over clusters (bias-corrected and accelerated).

    `values`, `clusters`: [queries]. Whole clusters are drawn with replacement (Field and Welsh 2007); larger ones
    weigh more, as in the plain mean. Raises `InputError` for fewer than two clusters, unequal lengths, values not finite.

    Example
    -------
    >>> print(mean([1.0, 2.0, 3.0, 6.0], ["a", "a", "b", "b"], seed=0).estimate)
    3.0
    """
    sums, counts = _cluster_sums(clusters, values)
    return _bootstrap(lambda s, n: s.sum(-1) / n.sum(-1), (sums[0], counts), level, resamples, seed)


def paired_difference(a, b, clusters, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of a - b, values of the same queries under two conditions; as `mean`.

    Example
    -------
    >>> paired_difference([1, 2, 3], [0, 2, 1], ["a", "b", "c"]).estimate
    1.0
    """
    values = np.asarray(a, dtype=float) - _same_length("b", b, a)
    return mean(values, clusters, level=level, resamples=resamples, seed=seed)


def ratio_of_means(a, b, clusters, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """mean(a) / mean(b), with an interval over clusters: a mean of ratios would follow the smallest b.

    Example
    -------
    >>> ratio_of_means([1, 2, 3], [2, 4, 6], ["a", "b", "c"]).estimate
    0.5
    """
    sums, _ = _cluster_sums(clusters, a, b)
    if sums[1].sum() == 0:
        raise InputError("b", found=Literal("values whose mean is 0"), expected="a mean to divide by")
    return _bootstrap(lambda x, y: x.sum(-1) / y.sum(-1), tuple(sums), level, resamples, seed)


def sign_flip_test(a, b, clusters, *, resamples: int = 9999, seed: int = 0) -> float:
    """Two-sided p-value that the paired differences a - b are symmetric about 0, clusters flipped as a whole.

    Exact (all sign patterns) where `resamples` suffice for that.

    Example
    -------
    >>> sign_flip_test([1, 1, 1], [0, 0, 0], ["a", "b", "c"])
    0.25
    """
    sums, _ = _cluster_sums(clusters, np.asarray(a, dtype=float) - _same_length("b", b, a))
    found = stats.permutation_test(
        (sums[0],), lambda x, axis: x.sum(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=resamples, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


@dataclass(frozen=True)
class Null:
    """A statistic, the values it takes where its pairing is random, and the one-sided p-value (greater)."""

    statistic: float
    null: np.ndarray
    p_value: float


def pairing_null(statistic: Callable[[np.ndarray], float], n: int, *, resamples: int = 999, seed: int = 0) -> Null:
    """Is a statistic of pairs larger than with shuffled partners?

    `statistic` gets an order of n partners: `arange(n)` is the observed pairing, the null are random orders. Exact
    (all orders) where `resamples` suffice for that.

    Example
    -------
    >>> a = [{1, 2}, {3, 4}, {5, 6}]  # neuron sets of three facts in English
    >>> b = [{1, 9}, {3, 8}, {5, 7}]  # and in German
    >>> round(pairing_null(lambda order: sum(len(x & b[i]) for x, i in zip(a, order)), 3).p_value, 3)
    0.167
    """
    if n < 2:
        raise InputError("n", found=n, expected="at least two pairs")
    found = stats.permutation_test(
        (np.arange(n),), lambda order: statistic(order.astype(int)), permutation_type="pairings",
        n_resamples=resamples, alternative="greater", rng=np.random.default_rng(seed), vectorized=False,
    )  # fmt: skip
    return Null(float(found.statistic), found.null_distribution, float(found.pvalue))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values adjusted for their number (Holm 1979): below 0.05 they hold together at that level.

    Example
    -------
    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    values = np.asarray(p_values, dtype=float)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise InputError("p_values", found=p_values, expected="numbers from 0 to 1")
    # Not by statsmodels: its multipletests collects garbage at every call, which takes longer than all else here.
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return np.minimum(adjusted, 1)


def _same_length(name: str, values, others) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.shape != np.shape(others) or values.ndim != 1:
        raise InputError(
            name, found=Literal(f"shape {values.shape}"), expected=f"shape {np.shape(others)}: one per query"
        )
    return values


def _cluster_sums(clusters, *columns) -> tuple[list[np.ndarray], np.ndarray]:
    """Sums of every column and counts, per cluster, in the order of first appearance."""
    codes, names = pd.factorize(pd.Series(list(clusters)))
    for column in columns:
        values = _same_length("values", column, codes)
        if not np.isfinite(values).all():
            raise InputError("values", found=Literal("a value that is not finite"), expected="finite values")
    if len(names) < 2:
        raise InputError("clusters", found=Literal(f"{len(names)} cluster(s)"), expected="at least two facts")
    if (codes < 0).any():
        raise InputError("clusters", found=Literal("a missing name"), expected="the fact of every query")
    sums = [np.bincount(codes, weights=np.asarray(c, dtype=float)) for c in columns]
    return sums, np.bincount(codes).astype(float)


def _bootstrap(statistic, data: tuple, level: float, resamples: int, seed: int) -> Interval:
    if not 0 < level < 1:
        raise InputError("level", found=level, expected="a number between 0 and 1")
    estimate = float(statistic(*data))
    with warnings.catch_warnings():
        # All clusters alike: scipy warns and gives NaN; the interval is the point.
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            data, lambda *d, axis: statistic(*d), paired=True, vectorized=True, confidence_level=level,
            n_resamples=resamples, method="BCa", rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    low, high = float(found.low), float(found.high)
    if np.isnan(low) or np.isnan(high):
        low = high = estimate
    return Interval(estimate, low, high, level, len(data[0]))
