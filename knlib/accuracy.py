"""How well a model knows a benchmark: the evaluation set, accuracy with intervals, agreement, calibration."""

import random

import numpy as np
import pandas as pd
from scipy import stats

from .facts import names_table
from .queries import build_queries

# The sets of an evaluation, in the order of tables and figures.
SETS = {
    "train": "trained templates",
    "lead_in": "held-out openings",
    "core": "held-out constructions",
    "withheld": "facts withheld in the language",
}


def evaluation_set(facts: pd.DataFrame, templates: pd.DataFrame, *, facts_per_cell: int, seed: int = 7) -> pd.DataFrame:
    """A fixed sample of queries: per relation and language `facts_per_cell` facts in several phrasings.

    Facts that the language was taught come under two training templates and all held-out ones; facts withheld from it
    (at most as many) under the same two. Adds the column `set`: `train`, `lead_in`, `core` or `withheld`. The same
    seed gives the same set; a smaller one is part of a larger one.
    """
    order = templates[templates["split"] == "train"].groupby(["relation", "language"])["template"]
    chosen = set(order.nth(0)) | set(order.apply(lambda group: group.iloc[len(group) // 2]))
    keep = (templates["split"] == "held_out") | templates["template"].isin(chosen)
    queries, _ = build_queries(facts, templates[keep])
    flags = names_table(facts).set_index(["fact", "language"])["withheld"]
    withheld = flags.loc[pd.MultiIndex.from_frame(queries[["fact", "language"]])].to_numpy()
    parts = []
    for hidden in (False, True):
        group = queries[withheld & (queries["split"] == "train")] if hidden else queries[~withheld]
        for key, cell in group.groupby(["relation", "language"], sort=False):
            names = sorted(cell["fact"].unique())
            random.Random(f"{seed} {key}").shuffle(names)
            part = cell[cell["fact"].isin(names[:facts_per_cell])]
            parts.append(part.assign(set="withheld" if hidden else part["held_out"].fillna("train")))
    return pd.concat(parts, ignore_index=True)


def accuracy(table: pd.DataFrame, by: list[str], *, draws: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Share of correct answers per group, with a 95 % interval from a bootstrap over facts.

    `table` holds the columns `correct` and `fact`. Queries of one fact stand or fall together, so facts are drawn,
    not queries. Returns the columns `accuracy`, `low`, `high`, `facts`, `queries`, indexed by `by`.

    Example
    -------
    >>> accuracy(table, ["language"])  # doctest: +SKIP
    """
    rows = {}
    for key, group in table.groupby(by, sort=False, observed=True):
        per_fact = group.groupby("fact")["correct"].agg(["sum", "count"]).to_numpy(float)
        rows[key] = (*_interval(per_fact, draws, seed), len(per_fact), len(group))
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["accuracy", "low", "high", "facts", "queries"])
    keys = [key if isinstance(key, tuple) else (key,) for key in rows]
    frame.index = pd.MultiIndex.from_tuples(keys, names=by)
    return frame


def _interval(per_fact: np.ndarray, draws: int, seed: int) -> tuple[float, float, float]:
    right, all_ = per_fact.T
    value = right.sum() / all_.sum()
    if len(per_fact) < 2 or right.sum() in (0, all_.sum()):
        # No spread to resample: the exact binomial interval over facts.
        exact = stats.binomtest(round(value * len(per_fact)), len(per_fact)).proportion_ci()
        return value, exact.low, exact.high
    found = stats.bootstrap(
        (right, all_), lambda r, a, axis: r.sum(axis) / a.sum(axis), paired=True, vectorized=True,
        n_resamples=draws, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return value, found.low, found.high


def agreement(table: pd.DataFrame, by: list[str] | None = None) -> pd.Series | float:
    """Share of (fact, language) pairs that get one and the same answer under all their phrasings."""
    same = table.groupby(["fact", "language", *(c for c in by or [] if c not in ("fact", "language"))])["prediction"]
    same = same.nunique().eq(1)
    return float(same.mean()) if not by else same.groupby(level=by, sort=False).mean()


def calibration(table: pd.DataFrame, *, bins: int = 10) -> pd.DataFrame:
    """Accuracy against the stated probability of the prediction, in equal-width bins.

    Columns: `confidence` (mean `p_prediction`), `accuracy`, `queries`; empty bins are left out. The frame's `attrs` hold
    `ece`, the expected calibration error: the mean distance of the two, weighted by queries.
    """
    place = np.minimum((table["p_prediction"].to_numpy() * bins).astype(int), bins - 1)
    found = table.groupby(place).agg(
        confidence=("p_prediction", "mean"), accuracy=("correct", "mean"), queries=("correct", "size")
    )
    gap = (found["confidence"] - found["accuracy"]).abs()
    found.attrs["ece"] = float((gap * found["queries"]).sum() / found["queries"].sum())
    return found


def majority(facts: pd.DataFrame) -> pd.Series:
    """Accuracy of always naming a relation's most frequent object: the baseline of every accuracy, by relation."""
    return facts.groupby("relation", sort=False)["object_id"].agg(lambda ids: ids.value_counts(normalize=True).iloc[0])


def same_string(facts: pd.DataFrame) -> pd.DataFrame:
    """Share of facts whose answer is spelled alike (casefolded) in two languages; languages x languages.

    This is the confound of every claim that a neuron is language-agnostic: one string, one token sequence.
    """
    names = names_table(facts).pivot(index="fact", columns="language", values="object")
    names = names.apply(lambda column: column.str.casefold())[names_table(facts)["language"].unique()]
    return pd.DataFrame({a: {b: (names[a] == names[b]).mean() for b in names} for a in names})
