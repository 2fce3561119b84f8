"""Estimates with intervals from rows of edited facts: means, what differs between conditions, sets, and labels."""

import numpy as np
import pandas as pd

from .intervals import Draws

LABELS = ("consistent", "inconsistent")
METRICS = ("reliability", "generality", "locality", "avg", "kl", "dppl", "portability", "reliability_margin",
           "generality_margin", "reliability_dlogp", "generality_dlogp")  # fmt: skip
COMPARED = ("reliability", "generality", "locality", "avg", "dppl", "generality_dlogp")


def draws_of(table: pd.DataFrame, *, seed: int = 0) -> Draws:
    """Bootstrap draws for the facts of the rows: relations, then facts."""
    return Draws(dict(zip(table["fact"], table["relation"], strict=True)), seed=seed)


def counts(table: pd.DataFrame) -> dict[str, int]:
    """Facts in the rows: all, of each label, and without one."""
    label = table.drop_duplicates("fact")["label"]
    known = {name: int((label == name).sum()) for name in LABELS}
    return {"facts": len(label), **known, "unlabelled": len(label) - sum(known.values())}


def estimates(draws: Draws, table: pd.DataFrame) -> dict[str, dict]:
    """Means of the metrics of one condition's rows with 95 % intervals; `dppl`: of all their text together, as one."""
    found = {name: draws.mean(table[name], table["fact"]) for name in METRICS if name != "dppl"}
    found["dppl"] = _as_share(draws.mean(table["loss_after"] - table["loss_before"], table["fact"]))
    return found


def differences(draws: Draws, a: pd.DataFrame, b: pd.DataFrame) -> dict[str, dict]:
    """Metrics of condition a less those of b, paired by fact; each fact has one row in both. `dppl`: of a relative to b."""
    a, b = a.set_index("fact"), b.set_index("fact")
    facts = a.index.intersection(b.index, sort=False)
    a, b = a.loc[facts], b.loc[facts]
    found = {name: draws.mean(a[name] - b[name], facts) for name in COMPARED if name != "dppl"}
    found["dppl"] = _as_share(draws.mean(a["loss_after"] - b["loss_after"], facts))
    return found


def by_label(table: pd.DataFrame, *, seed: int = 0) -> dict:
    """Summary of rows with `set` and `condition` (`neurons`, `control`).

    For all facts and for each label: per set `neurons`, `control` and `less_control` (paired); `union_less_self` (paired). Then
    `inconsistent_less_consistent`: per set what differs between labels, for the neurons and for what they have over their
    control.
    """
    draws, found = draws_of(table, seed=seed), {}
    groups = {"all": table, **{name: table[table["label"] == name] for name in LABELS}}
    for label, part in groups.items():
        # Where no fact has a label its estimates are there all the same, without numbers.
        cells = {
            (name, condition): part[(part["set"] == name) & (part["condition"] == condition)]
            for name in table["set"].unique() for condition in ("neurons", "control")
        }  # fmt: skip
        found[label] = {
            name: {
                **{condition: estimates(draws, cells[name, condition]) for condition in ("neurons", "control")},
                "less_control": differences(draws, cells[name, "neurons"], cells[name, "control"]),
            } for name in table["set"].unique()
        }  # fmt: skip
        found[label]["union_less_self"] = differences(draws, cells["union", "neurons"], cells["self", "neurons"])
    found["inconsistent_less_consistent"] = {
        name: _between(draws, rows, groups) for name, rows in table.groupby("set", sort=False)
    }
    return found


def _between(draws: Draws, rows: pd.DataFrame, groups: dict[str, pd.DataFrame]) -> dict:
    wide = rows.pivot(index="fact", columns="condition", values=[name for name in COMPARED if name != "dppl"])
    found = {}
    for kind in ("neurons", "less_control"):
        found[kind] = {}
        for name in wide.columns.levels[0]:
            values = wide[name]["neurons"] - (wide[name]["control"] if kind == "less_control" else 0)
            parts = [values[values.index.isin(groups[label]["fact"])] for label in reversed(LABELS)]
            found[kind][name] = draws.difference(*((part.to_numpy(), part.index) for part in parts))
    return found


def _as_share(estimate: dict) -> dict:
    """From a difference of mean losses to the relative change of the perplexity."""
    return {
        key: float(np.expm1(value)) if key != "facts" and value is not None else value
        for key, value in estimate.items()
    }
