"""Estimates from the results of many arms: means over edits with intervals, the arms of one mode, which score is whose.

`Results`: arm id -> result. What has no result has no row. The seeds of the random neurons are one arm, `lafn_random`. A
mean is one over edits of means over languages; its interval draws edits, because the questions of one edit go together.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from ..edit_effects import SCORES
from ..edit_questions import EDITED, KINDS
from ..edit_set import LOCALITY
from ..errors import InputError, Literal
from ..languages import LANGUAGES
from ..statistics import mean
from .arms import MODES, NONE
from .results import ArmResult
from .run import BY

Results = Mapping[str, ArmResult]
ANSWERS = ("tokens", "forced", "generated")  # scores of the new answer
WHOLE = "locality"  # its three kinds weigh alike
RANDOM = "lafn_random"


def per_edit(scores: pd.DataFrame, kind: str, score: str) -> pd.Series:
    """A score of every edit, the mean over its languages; NaN values are left out, and edits that have no other.

    `scores`: of one arm. `kind`: of `knlib.edit_questions.KINDS`, or `locality`: its kinds weigh alike, those that an edit
    has. Raises `InputError` for another kind and a score that is not one of `knlib.edit_effects.SCORES`.

    Example
    -------
    >>> per_edit(results["rome"].scores, "reliability", "tokens").mean()
    """
    own = of_kind(scores, kind, score)
    return own.groupby(["edit", "kind"], sort=False)[score].mean().groupby(level="edit", sort=False).mean()


def of_kind(scores: pd.DataFrame, kind: str, score: str) -> pd.DataFrame:
    """The rows of one kind, or of all of `locality`, that have the score; `InputError` for an unknown kind or score."""
    if kind not in (*KINDS, WHOLE):
        raise InputError("kind", found=kind, expected=Literal("one of " + " ".join((*KINDS, WHOLE))))
    if score not in SCORES:
        raise InputError("score", found=score, expected=Literal("one of " + " ".join(SCORES)))
    return scores[scores["kind"].isin(LOCALITY if kind == WHOLE else [kind]) & scores[score].notna()]


def interval(values: pd.Series) -> dict:
    """The mean over edits; without ends where one edit, or edits that are all alike, tell nothing about the spread."""
    found = {"estimate": float(values.mean()), "low": np.nan, "high": np.nan, "edits": len(values)}
    if values.nunique() > 1:
        ends = mean(values, values.index)
        found |= {"low": ends.low, "high": ends.high}
    return found


def named(name: str, values: pd.Series) -> dict:
    """`interval` as three columns: `name`, `name_low`, `name_high`."""
    found = interval(values)
    return {name: found["estimate"], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def as_table(rows: dict, *names: str) -> pd.DataFrame:
    """Rows by key (a tuple where there are several names) as a table with that index, also of no rows."""
    index = pd.MultiIndex.from_tuples(rows, names=names) if len(names) > 1 else pd.Index(list(rows), name=names[0])
    return pd.DataFrame(list(rows.values()), index=index)


def is_seed(name: str) -> bool:
    """Whether an arm is one seed of LAFN's random neurons, such as `lafn_random_3`."""
    return name.startswith(f"{RANDOM}_") and name.removeprefix(f"{RANDOM}_").isdigit()


def simultaneous(results: Results) -> dict[str, pd.DataFrame]:
    """Scores of the arms that edit all languages at once: `none` first, then in the order of `results`; seeds are pooled.

    Example
    -------
    >>> list(simultaneous(results))
    ['none', 'rome', 'lafn', 'lafn_random']
    """
    groups: dict[str, list] = {NONE: []}
    for name, result in results.items():
        if not name.endswith(tuple(f"_{mode}" for mode in MODES[1:])):
            groups.setdefault(RANDOM if is_seed(name) else name, []).append(result.scores)
    seeds = groups.get(RANDOM)
    if seeds:
        groups[RANDOM] = [pd.concat(seeds).groupby(BY, sort=False)[list(SCORES)].mean().reset_index()]
    return {name: parts[0] for name, parts in groups.items() if parts}


def scores_of(results: Results, name: str) -> pd.DataFrame:
    """The scores of one arm, in any mode, or of the pooled seeds; `InputError` for one without a result."""
    found = {name: result.scores for name, result in results.items()} | simultaneous(results)
    if name not in found:
        raise InputError("arm", found=name, expected=Literal("one of " + " ".join(found)))
    return found[name]


def score_for(kind: str, score: str) -> str:
    """Edited facts are read by the score that is asked for, one hop further by `forced`, neighbours by `same`."""
    if score not in ANSWERS:
        raise InputError("score", found=score, expected=Literal("one of " + " ".join(ANSWERS)))
    return score if kind in EDITED else "forced" if kind == "portability" else "same"


def only(scores: pd.DataFrame, names: Iterable[str] | None) -> pd.DataFrame:
    """The rows of these edits; of all where `names` is None."""
    return scores if names is None else scores[scores["edit"].isin(set(names))]


def in_order(languages: Iterable[str]) -> list[str]:
    """Languages in the order of Atlas, others behind them."""
    own = list(dict.fromkeys(languages))
    return [code for code in LANGUAGES if code in own] + [code for code in own if code not in LANGUAGES]
