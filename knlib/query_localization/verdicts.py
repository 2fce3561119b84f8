"""From results to verdicts: the hypotheses, fixed before any cell ran, and the rules that decide them (spec, 6.3).

A hypothesis is a list of parts, each an estimate with its interval that must lie on one side of a number. All parts must hold;
a part may offer several estimates, of which one is enough. Nothing here reads words: a verdict follows from numbers alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ..errors import InputError, Literal
from ..statistics import holm
from .cells import CELLS, Cell
from .results import Result

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
LEVEL = 0.05


@dataclass(frozen=True)
class Reading:
    """One estimate of a cell's summary: `find(summary)` gives a dictionary with `estimate`, `low`, `high`."""

    text: str
    experiment: str
    options: dict
    find: Callable[[dict], dict | None]
    side: str  # "above" or "below"
    bound: float = 0.0


@dataclass(frozen=True)
class Hypothesis:
    """`parts`: all must hold; each a tuple of readings of which one must. `fails_when`: what would undo the claim, in words."""

    id: str
    claim: str
    parts: tuple[tuple[Reading, ...], ...]
    fails_when: str


def _group(summary: dict, mode: str, name: str) -> dict:
    return next(group for group in summary["groups"] if (group["mode"], group["set"]) == (mode, name))


def _less(summary: dict, measure: str) -> dict | None:
    """`self` less its mass-matched control, plain operator, mode norm at the cell's main alpha (the first of that mode)."""
    wanted = {"mode": "norm", "operator": "plain", "set": "mass_matched"}
    found = [row for row in summary["self_less"] if all(row[key] == value for key, value in wanted.items())]
    return found[0].get(measure) if found else None


def _edit(kind: str) -> tuple[tuple[Reading, ...], ...]:
    def read(text, find, side):
        return Reading(text, "modification", {"edit": kind}, find, side)

    return (
        (read("generality of `self`, inconsistent less consistent facts",
              lambda s: s["by_label"]["inconsistent_less_consistent"]["self"]["neurons"]["generality"], "below"),),
        (read("generality on inconsistent facts, `union` less `self`",
              lambda s: s["by_label"]["inconsistent"]["union_less_self"]["generality"], "above"),),
        (read("locality on inconsistent facts, `union` less `self`",
              lambda s: s["by_label"]["inconsistent"]["union_less_self"]["locality"], "below"),
         read("perplexity on inconsistent facts, `union` relative to `self`",
              lambda s: s["by_label"]["inconsistent"]["union_less_self"]["dppl"], "above")),
    )  # fmt: skip


def _cas(kind: str) -> tuple[tuple[Reading, ...], ...]:
    return tuple(
        (Reading(f"average score, `cas` less `{rival}` of the same size", "cas_editing", {"edit": kind},
                 lambda s, rival=rival: s["main"]["cas"]["1"]["less"][rival]["avg"], "above"),)
        for rival in ("self", "union", "top_mean")
    )  # fmt: skip


_MAPPING = ("mapping", {"factor": 0.0})
_VALUE, _ANSWER = (
    ("synapse_effects", {"factor": 0.0, "read": "value"}),
    ("synapse_effects", {"factor": 0.0, "read": "answer"}),
)
HYPOTHESES = (
    Hypothesis("H1", "most facts are inconsistent", (
        (Reading("share of facts with CS_2 < .3 at 4 phrasings", "consistency", {"method": "ig"},
                 lambda s: _group(s, "ours", "threshold")["inconsistent"], "above", 0.5),),
        (Reading("overlap of a retest less overlap of phrasings", "consistency", {"method": "ig"},
                 lambda s: _group(s, "ours", "top10")["below_ceiling"], "above", 0.1),),
    ), "phrasings overlap as much as a retest of one query does"),
    Hypothesis("H2 erase", "edits of a query's neurons fail on inconsistent facts", _edit("erase"),
               "labels make no difference on the other phrasings"),
    Hypothesis("H2 update", "edits of a query's neurons fail on inconsistent facts", _edit("update"),
               "labels make no difference on the other phrasings"),
    Hypothesis("H3", "neurons belong to the query", (
        (Reading("log p of inconsistent facts, `self` less `neighbour_union` suppressed", *_MAPPING,
                 lambda s: s["self_less"]["inconsistent"].get("neighbour_union"), "below"),),
        (Reading("the same, inconsistent less consistent facts", *_MAPPING,
                 lambda s: s["interaction"].get("neighbour_union"), "below"),),
    ), "a fact's other phrasings need its neurons as much"),
    Hypothesis("H4", "synapses select neurons", (
        (Reading("size of the neurons' values, synapses less others of equal mass", *_VALUE,
                 lambda s: _less(s, "d_size"), "below"),),
        (Reading("log p, synapses less others of equal mass", *_ANSWER, lambda s: _less(s, "d_log_p"), "below"),),
        (Reading("share of the effect on log p that goes through the neurons", *_ANSWER,
                 lambda s: s["mediation"]["share"], "above"),),
    ), "attention of equal mass anywhere does as much, or nothing passes through the neurons"),
    Hypothesis("H5 erase", "consistency-aware selection edits better", _cas("erase"),
               "the mean over phrasings alone does as well"),
    Hypothesis("H5 update", "consistency-aware selection edits better", _cas("update"),
               "the mean over phrasings alone does as well"),
)  # fmt: skip


def needed_cells(slot: str) -> list[Cell]:
    """The cells of one model that the hypotheses read."""
    wanted = {cell_of(slot, reading).id for h in HYPOTHESES for part in h.parts for reading in part}
    return [cell for cell in CELLS.values() if cell.id in wanted]


def cell_of(slot: str, reading: Reading) -> Cell:
    """The cell of a model that a reading is taken from."""
    return next(
        c for c in CELLS.values() if (c.slot, c.experiment, c.options) == (slot, reading.experiment, reading.options)
    )


def judge(results: Mapping[str, Result], slot: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Verdicts on the hypotheses for one model, and the readings that they rest on.

    `results`: cell id -> result, at least those of `needed_cells`. Supported: every part's interval lies on the predicted side,
    and so does the hypothesis after Holm's correction over all of them (p of a part from its interval, as if normal; of
    alternatives the best, of parts the worst). Contradicted: a part's interval, or those of all its alternatives, lie wholly
    on the other side. Undecided: anything else, also where a number is missing.

    Returns `(verdicts, readings)`; verdicts: `hypothesis`, `claim`, `verdict`, `p` (Holm), `cells`; readings: `hypothesis`,
    `part`, `reading`, `cell`, `estimate`, `low`, `high`, `predicted`, `holds` (`yes`, `no`, `?`).

    Raises `InputError` for a cell without a result.

    Example
    -------
    >>> verdicts, readings = judge(results, "G")
    """
    rows, found = [], []
    for hypothesis in HYPOTHESES:
        parts = []
        for number, part in enumerate(hypothesis.parts, 1):
            outcomes = []
            for reading in part:
                cell = cell_of(slot, reading)
                if cell.id not in results:
                    raise InputError(
                        "results", found=Literal(f"none of {cell.id}"), expected="the cells of needed_cells"
                    )
                value = reading.find(results[cell.id].summary) or {}
                outcomes.append(_outcome(value, reading))
                rows.append({
                    "hypothesis": hypothesis.id, "part": number, "reading": reading.text, "cell": cell.id,
                    **{key: value.get(key) for key in ("estimate", "low", "high")},
                    "predicted": f"{reading.side} {reading.bound:g}", "holds": _WORDS[outcomes[-1][0]],
                })  # fmt: skip
            signs = [sign for sign, _ in outcomes]
            sign = max(signs) if 1 in signs or len(set(signs)) == 1 else 0
            parts.append((sign, min(p for _, p in outcomes)))
        cells = dict.fromkeys(cell_of(slot, reading).id for part in hypothesis.parts for reading in part)
        found.append({"hypothesis": hypothesis.id, "claim": hypothesis.claim, "signs": [sign for sign, _ in parts],
                      "p": max(p for _, p in parts), "cells": " ".join(cells)})  # fmt: skip
    verdicts = pd.DataFrame(found)
    verdicts["p"] = holm(verdicts["p"])
    verdicts.insert(
        2, "verdict", [_verdict(signs, p) for signs, p in zip(verdicts["signs"], verdicts["p"], strict=True)]
    )
    return verdicts.drop(columns="signs"), pd.DataFrame(rows)


_WORDS = {1: "yes", 0: "?", -1: "no"}


def _outcome(value: dict, reading: Reading) -> tuple[int, float]:
    """1, 0 or -1: the interval is on the predicted side, on neither, on the other; and the one-sided p of the prediction."""
    if any(value.get(key) is None for key in ("estimate", "low", "high")):
        return 0, 1.0
    turn = 1 if reading.side == "above" else -1
    low, high = sorted(turn * (value[key] - reading.bound) for key in ("low", "high"))
    sign = 1 if low > 0 else -1 if high < 0 else 0
    error = (high - low) / (2 * stats.norm.ppf(1 - LEVEL / 2))
    middle = turn * (value["estimate"] - reading.bound)
    if error == 0:
        return sign, float(np.where(middle > 0, 0.0, 1.0))
    return sign, float(stats.norm.sf(middle / error))


def _verdict(signs: list[int], p: float) -> str:
    if -1 in signs:
        return CONTRADICTED
    return SUPPORTED if all(sign == 1 for sign in signs) and p < LEVEL else UNDECIDED
