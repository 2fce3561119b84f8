"""What editing, enhancement and injection share: answers before and after, controls, templates kept apart, intervals."""

import unicodedata

import numpy as np
import pandas as pd

from .controls import Pairs, generator, layer_matched
from .errors import InputError, Literal
from .models import Model
from .prediction import predict, score_answers
from .statistics import mean

# What makes two rows of a use's table the same question under different conditions.
QUESTION = ["owner", "group", "query"]


def answers(model: Model, queries: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """What the model answers as it is now: one row per query, in the order and with the index of `queries`.

    Columns: `prediction` (the best of the relation's objects), `right` (it is `answer`), `p_answer`; with a column `new` in
    the queries also `success` (the prediction is `new`) and `p_new`.

    Example
    -------
    >>> answers(model, queries, facts)["right"].mean()
    """
    found = predict(model, queries, facts[facts["relation"].isin(queries["relation"].unique())])
    found = found.rename(columns={"correct": "right"}).drop(columns="query").set_index(queries.index)
    if "new" in queries:
        found["success"] = found["prediction"] == queries["new"]
        found["p_new"] = found["p_prediction"].where(found["success"])
        rest = queries[~found["success"]]
        if len(rest):
            scores = score_answers(model, rest["prompt"], rest["space"], rest["new"], rest["suffix"])
            found.loc[rest.index, "p_new"] = np.exp(scores)
    return found.drop(columns="p_prediction")


def before_after(queries: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """One row per query: who is asked, and `answers` before and after a change, with `unchanged`: the same prediction.

    All three tables have one index; columns of `answers` get the endings `_before` and `_after`.
    """
    kept = [c for c in ("owner", "group", "query", "fact", "relation", "language", "same_string") if c in queries]
    columns = [c for c in before if c != "prediction"]
    parts = [queries[kept], (before["prediction"] == after["prediction"]).rename("unchanged")]
    parts += [
        table[[c]].add_suffix(ending) for c in columns for table, ending in ((before, "_before"), (after, "_after"))
    ]
    return pd.concat(parts, axis=1)


def check_disjoint(located: pd.DataFrame, tested: pd.DataFrame) -> None:
    """`InputError` where a template that the neurons were located with, or the model trained with, is tested too."""
    shared = set(located["template"]) & set(tested["template"])
    if shared:
        raise InputError(
            "tested queries", found=min(shared), expected="templates that were not used to locate or train"
        )


def spelled_alike(queries: pd.DataFrame, edits: pd.DataFrame) -> np.ndarray:
    """Whether a query's old or new answer is spelled as in the edit of its fact (NFC, casefolded), bool [queries].

    There the edit may act through the same tokens, and says nothing about a shared fact.
    """

    def plain(text):
        return unicodedata.normalize("NFC", text).casefold()

    known = edits.set_index("fact")[["answer", "new"]].map(plain)
    pairs = queries[["answer", "new"]].map(plain).to_numpy()
    return (pairs == known.loc[queries["fact"]].to_numpy()).any(axis=1)


def with_controls(model: Model, pairs: Pairs, draws: int, *names: object) -> list[tuple[str, int, Pairs]]:
    """`("neurons", 0, pairs)` and `draws` times `("control", draw, pairs)`: as many other neurons of the same layers.

    A draw depends on `names` (a seed, a fact, an arm) and its number alone. Raises `InputError` for less than one draw.
    """
    if draws < 1:
        raise InputError("draws", found=draws, expected="at least one control")
    controls = [layer_matched(pairs, model.n_neurons, generator(0, *names, draw)) for draw in range(draws)]
    return [("neurons", 0, pairs), *(("control", draw, drawn) for draw, drawn in enumerate(controls))]


def check_arms(arms: dict[str, pd.DataFrame]) -> None:
    """`InputError` unless there is an arm, and each is a table of facts' neurons (it may be empty)."""
    if not arms:
        raise InputError("arms", found=arms, expected="at least one table of neurons")
    for name, table in arms.items():
        if not {"fact", "layer", "neuron"} <= set(table):
            raise InputError(f"arm {name}", found=list(table), expected="a table with columns fact layer neuron")


def use_summary(table: pd.DataFrame, by: list[str], value: str = "score") -> pd.DataFrame:
    """Mean of a column for the neurons and their controls, with 95 % bootstrap intervals over facts (`owner`).

    `table`: of `cross_lingual_edits`, `enhancement` or `injection`. Returns one row per group of `by`: `estimate`, `low`,
    `high` (the neurons), `control`, `control_low`, `control_high` (mean over its draws), `difference`, `difference_low`,
    `difference_high` (paired by question), `facts`, `queries`. NaN where there is no control, and for the ends of intervals
    of a single fact. Raises `InputError` for columns that the table lacks.

    Example
    -------
    >>> use_summary(edited, ["arm", "group"])[["estimate", "low", "high", "control"]]
    """
    for column in (*by, value):
        if column not in table:
            raise InputError("table", found=list(table), expected=f"a column {column}")
    rows = {}
    for key, group in table.groupby(by, sort=False, observed=True):
        parts = {name: part.groupby(QUESTION, sort=False)[value].mean() for name, part in group.groupby("condition")}
        own = parts["neurons"].astype(float)
        row = _interval(own, "estimate", "")
        if "control" in parts:
            control = parts["control"].loc[own.index].astype(float)
            row |= _interval(control, "control", "control_") | _interval(own - control, "difference", "difference_")
        rows[key] = row | {"facts": own.index.get_level_values("owner").nunique(), "queries": len(own)}
    summary = pd.DataFrame.from_dict(rows, orient="index")
    summary.index = pd.MultiIndex.from_tuples(rows, names=by)
    ends = [name + end for name in ("control", "difference") for end in ("", "_low", "_high")]
    columns = ["estimate", "low", "high", *ends, "facts", "queries"]
    return summary.reindex(columns=columns)


def finding(row: pd.Series) -> str:
    """A row of `use_summary` as one line, whichever way it went; in per cent, for shares.

    Example
    -------
    >>> finding(use_summary(edited, ["arm", "group"]).loc["LAKN", "language"])
    '45 % [12, 78], control 2 % [0, 6], difference +43 [+10, +76]: excludes 0'
    """
    own = f"{100 * row['estimate']:.0f} %{_ends(row, '')}"
    if pd.isna(row["control"]):
        return f"{own}, no control"
    text = f"{own}, control {100 * row['control']:.0f} %{_ends(row, 'control_')}"
    text += f", difference {100 * row['difference']:+.0f}{_ends(row, 'difference_', '+')}"
    low, high = row["difference_low"], row["difference_high"]
    if pd.isna(low):
        return f"{text}: one fact, no interval"
    return f"{text}: {'excludes' if low * high > 0 else 'does not exclude'} 0"


def _ends(row: pd.Series, prefix: str, sign: str = "") -> str:
    low, high = 100 * row[f"{prefix}low"], 100 * row[f"{prefix}high"]
    return "" if pd.isna(low) else f" [{low:{sign}.0f}, {high:{sign}.0f}]"


def _interval(values: pd.Series, name: str, prefix: str) -> dict[str, float]:
    owners = values.index.get_level_values("owner")
    if owners.nunique() < 2:
        return {name: values.mean(), f"{prefix}low": np.nan, f"{prefix}high": np.nan}
    found = mean(values, owners)
    return {name: found.estimate, f"{prefix}low": found.low, f"{prefix}high": found.high}


def required(name: str, table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    """`InputError` unless the table has the columns and a row."""
    if not set(columns) <= set(table):
        raise InputError(name, found=list(table), expected=f"a table with columns {' '.join(columns)}")
    if not len(table):
        raise InputError(name, found=Literal("no row"), expected="at least one")
