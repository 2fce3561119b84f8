"""From measures of facts to estimates with intervals: the scoreboard's table, and what decisions and stabilities amount to."""

import numpy as np
import pandas as pd

from ..errors import InputError
from ..statistics import Interval, mean, ratio_of_means
from .metrics import CURVE, MEASURES

RESAMPLES = 1000
ALL = "all"
# Types that are planted with different numbers of neurons, each in one group for what is asked.
GROWING = ("language", "agnostic", "distributed")
COLUMNS = ["row", "kind", "scope", "measure", "estimate", "low", "high", "facts"]


def board(measured: pd.DataFrame, *, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Means of all measures with 95 % bootstrap intervals over facts, `COLUMNS`: by row, kind (and over all kinds) and scope.

    `measured`: columns `row`, `fact`, `kind`, `scope` and `MEASURES`. Facts without a value (a precision of no neurons) do not count;
    `low`, `high` are NaN for a single fact.

    Example
    -------
    >>> board(measured).query("measure == 'average_precision' and kind == 'all' and scope == 'all'")
    """
    both = pd.concat([measured, measured.assign(kind=ALL)], ignore_index=True)
    found = []
    for (row, kind, scope), part in both.groupby(["row", "kind", "scope"], sort=False):
        for measure in MEASURES:
            values = part[["fact", measure]].dropna()
            if len(values):
                interval = _interval(values[measure], values["fact"], resamples)
                found.append((row, kind, scope, measure, interval.estimate, interval.low, interval.high, len(values)))
    return pd.DataFrame(found, columns=COLUMNS)


def _interval(values: pd.Series, facts: pd.Series, resamples: int = RESAMPLES) -> Interval:
    if facts.nunique() < 2:
        return Interval(float(values.mean()), np.nan, np.nan, 0.95, facts.nunique())
    return mean(values, facts, resamples=resamples)


def sizes(measured: pd.DataFrame) -> pd.Series:
    """By fact, how many planted neurons serve one of its languages: so many does the row `truth` take.

    Example
    -------
    >>> sizes(tables["facts"]).value_counts()
    """
    own = measured[(measured["row"] == "truth") & (measured["scope"] == "language")]
    return own.set_index("fact")["selected"].round().astype(int)


def by_size(measured: pd.DataFrame, measure: str, *, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Means of a measure by row, kind (of `GROWING`) and number of planted neurons: `row`, `kind`, `neurons`, `estimate`, `low`, `high`, `facts`.

    Each language alone (scope `language`), so that a neuron of one language counts as much as one of all. `measured`: `facts` of
    `load_results`.

    Example
    -------
    >>> by_size(tables["facts"], "average_precision").query("row == 'ig'")
    """
    own = measured[(measured["scope"] == "language") & measured["kind"].isin(GROWING)]
    own = own.assign(neurons=own["fact"].map(sizes(measured))).dropna(subset=[measure, "neurons"])
    found = []
    for (row, kind, neurons), part in own.groupby(["row", "kind", "neurons"], sort=False):
        interval = _interval(part[measure], part["fact"], resamples)
        found.append((row, kind, int(neurons), interval.estimate, interval.low, interval.high, len(part)))
    table = pd.DataFrame(found, columns=["row", "kind", "neurons", "estimate", "low", "high", "facts"])
    order = {kind: place for place, kind in enumerate(GROWING)}
    return table.sort_values(["kind", "neurons"], key=lambda c: c.map(order) if c.name == "kind" else c, kind="stable",
                             ignore_index=True)  # fmt: skip


def curves(measured: pd.DataFrame) -> pd.DataFrame:
    """Mean interpolated precision at ten levels of recall, by row, kind and scope: columns `row`, `kind`, `scope`, `CURVE`.

    Example
    -------
    >>> curves(measured).query("kind == 'query'")
    """
    return measured.groupby(["row", "kind", "scope"], sort=False, as_index=False)[list(CURVE)].mean()


def confusion(decisions: pd.DataFrame) -> pd.DataFrame:
    """How many facts of a kind get each decision: `row`, `kind`, `decision`, `facts`, `share` (of the kind's facts).

    `decisions`: columns `row`, `fact`, `kind`, `decision`.

    Example
    -------
    >>> confusion(decisions).query("row == 'ig'").pivot(index="kind", columns="decision", values="facts")
    """
    counts = decisions.groupby(["row", "kind", "decision"], sort=False)["fact"].nunique().rename("facts").reset_index()
    total = counts.groupby(["row", "kind"])["facts"].transform("sum")
    return counts.assign(share=counts["facts"] / total)


def calibration(stable: pd.DataFrame, *, resamples: int = RESAMPLES) -> pd.DataFrame:
    """With which frequency a neuron is true that resampled queries find again with a stated frequency, with intervals over facts.

    `stable`: columns `row`, `fact`, `kind`, `scope`, `bin`, `stated`, `neurons`, `true` (of `stability_bins`). One row per row, scope
    and bin, over all kinds: `stated` (mean frequency), `estimate`, `low`, `high` (share of true neurons), `neurons`, `facts`.

    Example
    -------
    >>> calibration(stable).query("row == 're_lcb from ig_mask_words' and scope == 'all'")
    """
    found = []
    for (row, scope, number), part in stable.groupby(["row", "scope", "bin"], sort=False):
        share = part["true"].sum() / part["neurons"].sum()
        low = high = np.nan
        if part["fact"].nunique() > 1:
            interval = ratio_of_means(part["true"], part["neurons"], part["fact"], resamples=resamples)
            low, high = interval.low, interval.high
        found.append((row, scope, int(number), part["stated"].sum() / part["neurons"].sum(), share, low, high,
                      int(part["neurons"].sum()), part["fact"].nunique()))  # fmt: skip
    columns = ["row", "scope", "bin", "stated", "estimate", "low", "high", "neurons", "facts"]
    return pd.DataFrame(found, columns=columns)


def agreement_board(agreed: pd.DataFrame, *, resamples: int = RESAMPLES) -> pd.DataFrame:
    """Mean agreement with the oracle on facts that were not planted: `scores`, `measure`, `estimate`, `low`, `high`, `facts`.

    `agreed`: columns `scores`, `fact`, `spearman`, `top`.

    Example
    -------
    >>> agreement_board(agreed).query("measure == 'spearman'")
    """
    if not {"scores", "fact", "spearman", "top"} <= set(agreed):
        raise InputError("agreed", found=list(agreed), expected="columns scores fact spearman top")
    found = []
    for name, part in agreed.groupby("scores", sort=False):
        for measure in ("spearman", "top"):
            values = part[["fact", measure]].dropna()
            if len(values):
                interval = _interval(values[measure], values["fact"], resamples)
                found.append((name, measure, interval.estimate, interval.low, interval.high, len(values)))
    return pd.DataFrame(found, columns=["scores", "measure", "estimate", "low", "high", "facts"])
