"""E cells: which choice of neurons edits best at an equal budget, and does consistency over queries matter? (Spec, 5 and H5.)"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from . import cas
from .edit_cases import DEFAULTS as SHARED
from .edit_cases import Cases, prepare_cases
from .edit_summary import counts, differences, draws_of, estimates
from .fine_tuning import fine_tuned
from .results import Result
from .strategies import STRATEGIES, above, chosen, strategy_scores, typical_size
from .study import Study

# `facts_each`: of every relation; `times`: budgets, in units of a query's typical number of neurons; `ratios`: b2 / b1 of `cas` at
# that number, beside the default; `swept`: strategies that update there with every strength, and by the rule of mode `paper`.
DEFAULTS = SHARED | {
    "facts_each": 5, "times": [0.5, 1.0, 2.0, 5.0], "ratios": [0.25, 1.0, 2.0],
    "swept": ["self", "union", "cas", "random"], "text_tokens": 64,
}  # fmt: skip
RIVALS = {"cas": ("union", "top_mean", "cas_paper")}  # whom a strategy is compared with beside `self` and `random`
KEY = ["sweep", "strategy", "times", "ratio", "rho"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """`size`: the typical number of neurons of a query, M x 1; `rho`: as in `modification`; `facts`: those that are edited."""

    cases: Cases
    size: int
    rho: float
    facts: frozenset[str]


def prepare(study: Study, options: dict, inputs: dict[str, Result]) -> Prepared:
    cases = prepare_cases(study, options, inputs)
    firsts = study.queries.drop_duplicates("fact")
    facts = frozenset(firsts.groupby("relation", sort=False).head(options["facts_each"])["fact"])
    size = typical_size(cases.scores)
    return Prepared(cases, size, cases.fitted_rho(size), facts)


def rows(study: Study, options: dict, prepared: Prepared, facts: Sequence[str]) -> pd.DataFrame:
    """One row per edited fact and edit: the metrics of `EditTest.compare`.

    `sweep`: `main` (every strategy at every budget), `ratio`, `rho`, `paper` (the update rule of that mode); `strategy`: of
    `strategies.STRATEGIES`, and `cas_paper_threshold` (all above .3 of the largest) and `outside` (`fine_tuned`), which have no
    budget (`times` 0); `n`: neurons edited; `ratio`: b2 / b1 where it counts, else 0; `rho`: strength of the new answer, 0
    where there is none. No row for facts beyond the first `facts_each` of their relation.

    Example
    -------
    >>> rows(study, options, prepare(study, options, {}), study.names[:1]).groupby(["strategy", "times"])["avg"].mean()
    """
    found = [row for fact in facts if fact in prepared.facts for row in _case_rows(study, options, prepared, fact)]
    return pd.DataFrame(found, columns=None if found else ["fact", "relation", "label", *KEY])


def _case_rows(study: Study, options: dict, prepared: Prepared, fact: str) -> list[dict]:
    cases, case, size = prepared.cases, prepared.cases.case(fact), prepared.size
    found, known = [], {}

    def edit(strategy, times, *, sweep="main", ratio=0.0, rho=prepared.rho, m=size):
        ratio = ratio or (cas.RATIO if strategy == "cas" else 0.0)
        if strategy == "cas_paper_threshold":
            pairs = above(strategy_scores(case.fitted, "cas_paper"), cas.SHARE)
        else:
            pairs = chosen(case.fitted, strategy, m, ratio=ratio, seed=options["seed"])
        # Strategies often choose the same neurons.
        if (pairs, rho) not in known:
            known[pairs, rho] = case.metrics(cases.changed(case, pairs, rho))
        names = {"sweep": sweep, "strategy": strategy, "times": times, "ratio": ratio, "rho": rho or 0.0}
        found.append(case.row(known[pairs, rho], **names, n=len(pairs)))

    for times in options["times"]:
        for strategy in STRATEGIES:
            edit(strategy, times, m=max(1, round(times * size)))
    for ratio in options["ratios"]:
        edit("cas", 1.0, sweep="ratio", ratio=ratio)
    if case.edit == "update":
        for strategy in options["swept"]:
            for rho in options["rhos"]:
                edit(strategy, 1.0, sweep="rho", rho=rho)
            edit(strategy, 1.0, sweep="paper", rho=None)
    edit("cas_paper_threshold", 0.0)
    metrics = case.metrics(fine_tuned(study.model, case.request, edit=case.edit))
    found.append(case.row(metrics, sweep="main", strategy="outside", times=0.0, ratio=0.0, rho=0.0, n=0))
    return found


def summary(study: Study, options: dict, table: pd.DataFrame) -> dict:
    """`main`: strategy -> budget -> metrics with intervals, each less `self` and `random` (and `cas` less its rivals) at the same
    budget, paired by fact; `ratio`, `rho`, `paper`: the sweeps; `size`: neurons of budget 1; `rho_main`: of the main rows."""
    draws, found = draws_of(table, seed=options["seed"]), {"main": {}, "ratio": {}, "rho": {}, "paper": {}}
    main = table[table["sweep"] == "main"]
    cells = dict(iter(main.groupby(["strategy", "times"], sort=False)))
    for (name, times), part in cells.items():
        own = {"n": float(part["n"].median()), **estimates(draws, part), "less": {}}
        for other in ("self", "random", *RIVALS.get(name, ())):
            if other != name and (other, times) in cells:
                own["less"][other] = differences(draws, part, cells[other, times])
        found["main"].setdefault(name, {})[_key(times)] = own
    for ratio, part in table[table["sweep"] == "ratio"].groupby("ratio"):
        found["ratio"][_key(ratio)] = estimates(draws, part)
    for sweep in ("rho", "paper"):
        for (name, rho), part in table[table["sweep"] == sweep].groupby(["strategy", "rho"], sort=False):
            found[sweep].setdefault(name, {})[_key(rho)] = estimates(draws, part)
    size = int(main.loc[(main["strategy"] == "self") & (main["times"] == 1.0), "n"].iloc[0])
    return {"counts": counts(table), "size": size, "rho_main": float(main["rho"].max()), **found}


def frontier(table: pd.DataFrame) -> pd.DataFrame:
    """Mean generality and locality of every strategy, budget and strength, and whether no other is better in one and as good in
    the other (`best`); columns `sweep`, `strategy`, `times`, `ratio`, `rho`, `n`, `generality`, `locality`, `best`.

    Example
    -------
    >>> frontier(load_result(CELLS["E1"], options, model).rows).query("best")
    """
    keys = ["sweep", "strategy", "times", "ratio", "rho"]
    points = table.groupby(keys, sort=False)[["n", "generality", "locality"]].mean().reset_index()
    g, l = points["generality"].to_numpy(), points["locality"].to_numpy()  # noqa: E741
    beaten = [bool(((g >= g[i]) & (l >= l[i]) & ((g > g[i]) | (l > l[i]))).any()) for i in range(len(points))]
    return points.assign(best=[not value for value in beaten])


def _key(number: float) -> str:
    return f"{number:g}"
