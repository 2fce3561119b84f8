"""Labels from one half of the templates, tests on the other, and why the published test is circular (spec, 2.5 and 2.6)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ..errors import InputError, Literal

LABELS = ("consistent", "inconsistent")
# Between the overlap of other facts of the relation (0) and of retests (1).
HALF = 0.5


def label_facts(j_star: pd.Series, threshold: float = HALF) -> pd.Series:
    """`consistent` where J* reaches the threshold, `inconsistent` below it; facts without a defined J* are left out.

    `j_star`: by fact, of part A alone, so that part B can test what the labels say.

    Example
    -------
    >>> label_facts(pd.Series({"capital:FR": 0.7, "capital:PE": 0.2, "capital:CH": np.nan})).to_dict()
    {'capital:FR': 'consistent', 'capital:PE': 'inconsistent'}
    """
    known = j_star.dropna()
    return pd.Series(np.where(known >= threshold, *LABELS), index=known.index, name="label", dtype=object)


def kappa(a: pd.Series, b: pd.Series) -> float:
    """Cohen's kappa of two labellings, over the facts that both label: 1 full agreement, 0 that of chance.

    NaN where chance alone would agree fully (one label for all), or no fact is in both. Cohen 1960.

    Example
    -------
    >>> kappa(pd.Series(list("xxyy")), pd.Series(list("xyyy")))
    0.5
    """
    both = pd.concat([a, b], axis=1, join="inner", keys=["a", "b"])
    if both.empty:
        return float("nan")
    seen = (both["a"] == both["b"]).mean()
    shares = [both[c].value_counts(normalize=True) for c in ("a", "b")]
    chance = float(shares[0].mul(shares[1], fill_value=0).sum())
    return float((seen - chance) / (1 - chance)) if chance < 1 else float("nan")


@dataclass(frozen=True)
class Welch:
    """Welch's t of consistent against inconsistent facts, its p-value, and how many facts of each there are."""

    t: float
    p: float
    consistent: int
    inconsistent: int


def welch(values, labels) -> Welch:
    """Do consistent facts have larger values than inconsistent ones? Two-sided, unequal variances.

    `values` and `labels` (of `LABELS`) of the same facts, in order. Says nothing where the labels were made from the values:
    see `circular_welch`. NaN for fewer than two facts on a side.

    Example
    -------
    >>> welch([0.9, 0.8, 0.2, 0.1], ["consistent"] * 2 + ["inconsistent"] * 2).t.round(3)
    np.float64(9.899)
    """
    values, labels = np.asarray(values, dtype=float), np.asarray(labels)
    if len(values) != len(labels):
        raise InputError(
            "labels", found=Literal(f"{len(labels)} of them"), expected=f"one for each of {len(values)} values"
        )
    kept = ~np.isnan(values)
    one, other = (values[kept & (labels == name)] for name in LABELS)
    if min(len(one), len(other)) < 2:
        return Welch(float("nan"), float("nan"), len(one), len(other))
    found = stats.ttest_ind(one, other, equal_var=False)
    return Welch(float(found.statistic), float(found.pvalue), len(one), len(other))


def circular_welch(values, threshold: float) -> Welch:
    """The published test: facts are split by the values at a threshold, and the same values compared. Never evidence.

    Example
    -------
    >>> round(circular_welch(np.linspace(0, 1, 1000), 0.3).t, 1)  # no structure at all
    54.7
    """
    values = np.asarray(values, dtype=float)
    return welch(values, np.where(values >= threshold, *LABELS))
