"""Consistency-aware scores: neurons that are high and steady over the queries of a fact (spec, 5.2).

All take values [queries, ...] of the queries that a fact's neurons are fitted on, and give a score of the remaining shape.
"""

import numpy as np
from scipy import stats

from ..errors import InputError, Literal

B1, B2 = 0.7, 0.3  # recalled weights of the paper
RATIO = 0.43  # b2 / b1: what a ranking needs of them
SHARE = 0.3  # mode `paper` keeps scores above this share of the largest


def weighted(values: np.ndarray, *, b1: float = B1, b2: float = B2) -> np.ndarray:
    """b1 * mean - b2 * standard deviation over queries, of the population (ddof 0).

    Example
    -------
    >>> float(weighted([3, 0, 0]).round(4))
    0.2757
    """
    values = _checked(values, 1)
    return b1 * values.mean(0) - b2 * values.std(0)


def t_bound(values: np.ndarray, *, level: float = 0.9) -> np.ndarray:
    """Lower bound of the mean over queries: mean - t(level, k-1) * sd / sqrt(k), with the sample's sd. No weight to tune.

    Raises `InputError` for fewer than two queries.

    Example
    -------
    >>> float(t_bound([3, 0, 0]).round(4))
    -0.8856
    """
    values = _checked(values, 2)
    k = len(values)
    return values.mean(0) - stats.t.ppf(level, k - 1) * values.std(0, ddof=1) / np.sqrt(k)


def minus_relation(values: np.ndarray, total: np.ndarray, facts: int) -> np.ndarray:
    """The mean over queries less its mean on the other facts of the relation.

    `total`: the sum of the means of all `facts` facts of the relation, this one among them. A fact alone: its mean.

    Example
    -------
    >>> minus_relation([[1.0], [3.0]], total=[6.0], facts=3)
    array([0.])
    """
    mean = _checked(values, 1).mean(0)
    return mean - (np.asarray(total, dtype=float) - mean) / max(facts - 1, 1)


def _checked(values, least: int) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim < 1 or len(values) < least:
        raise InputError("values", found=Literal(f"shape {values.shape}"), expected=f"at least {least} queries")
    return values
