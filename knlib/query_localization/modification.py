"""B cells: does an edit of a query's own neurons, or of all neurons of a fact's queries, edit the fact? (Spec, 3 and H2.)

Knowledge localization expects that it does, for every phrasing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from .edit_cases import DEFAULTS as SHARED
from .edit_cases import Cases, prepare_cases
from .edit_summary import by_label, counts
from .results import Result
from .strategies import matched, top
from .study import Study

DEFAULTS = SHARED | {"m": 10, "text_tokens": 64}


@dataclass(frozen=True, eq=False)
class Prepared:
    """`rho`: strength of an update's new answer, chosen in part A (0: nothing is updated)."""

    cases: Cases
    rho: float


def prepare(study: Study, options: dict, inputs: dict[str, Result]) -> Prepared:
    cases = prepare_cases(study, options, inputs)
    return Prepared(cases, cases.fitted_rho(options["m"]))


def rows(study: Study, options: dict, prepared: Prepared, facts: Sequence[str]) -> pd.DataFrame:
    """One row per fact, `set` and `condition`: the metrics of `EditTest.compare`.

    `set`: `self` (the best `m` neurons of the request, a query of part A drawn by seed), `union` (the best `m` of each query of
    part A together); `n`: their number; `condition`: `neurons`, or `control`: as many of the same layers and of similar
    activation; `rho`: strength of the new answer, 0 for an erasure.

    Example
    -------
    >>> rows(study, options, prepare(study, options, {}), study.names[:2])[["set", "condition", "generality"]]
    """
    found, cases = [], prepared.cases
    for fact in facts:
        case = cases.case(fact)
        best = [top(scores, options["m"]) for scores in case.fitted.scores]
        own = {"self": best[case.fitted.own], "union": tuple(sorted(set().union(*best)))}
        for name, pairs in own.items():
            control = matched(case.fitted, pairs, options["seed"], name)
            for condition, neurons in (("neurons", pairs), ("control", control)):
                change = cases.changed(case, neurons, prepared.rho)
                names = {"set": name, "condition": condition, "rho": prepared.rho, "n": len(neurons)}
                found.append(case.row(case.metrics(change), **names))
    return pd.DataFrame(found)


def summary(study: Study, options: dict, table: pd.DataFrame) -> dict:
    """For each set: metrics with intervals by label, their controls, what differs between labels and between sets."""
    return {"counts": counts(table), "by_label": by_label(table, seed=options["seed"])}
