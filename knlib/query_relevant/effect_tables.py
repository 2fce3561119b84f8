"""Effects on letters as tables with intervals: a row per localizer and operation, the 2 x 2 table, flips, doses."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..errors import InputError
from ..statistics import Interval, ratio_of_means
from .metrics import GROUPS, Specificity, fact_language, specificity, wilson

BY = ["condition", "factor"]
SAMPLES = {"held_out": "own", "in_sample": "in_sample"}
SPECIFICITY = {
    "related": "R", "unrelated": "U", "specificity": "S", "pcr": "PCR", "related_mean": "R_mean", "unrelated_mean": "U_mean",
    "related_odds": "R_odds", "unrelated_odds": "U_odds", "specificity_odds": "S_odds",
}  # fmt: skip


def specificity_table(effects: pd.DataFrame, *, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """R, U, S, PCR of every condition and factor, on held-out wordings and on those that localized.

    `effects`: of `letter_effects`. Columns: `condition`, `factor`, `sample` (`held_out`, `in_sample`; U is the same in both),
    `questions`, `neurons` (mean changed), and of each number of `specificity` its estimate, `_low`, `_high`: `R`, `U`, `S`, `PCR`,
    `R_mean`, `U_mean`, `R_odds`, `U_odds`, `S_odds`. Conditions with fewer than two questions have no row.

    Example
    -------
    >>> specificity_table(effects).query("sample == 'held_out' and factor == 2")[["condition", "S", "S_low", "S_high"]]
    """
    rows = []
    for (condition, factor), part in _groups(effects):
        for sample, own in SAMPLES.items():
            chosen = part[part["group"].isin([own, "other"])]
            chosen = chosen.assign(group=np.where(chosen["group"] == own, *GROUPS))
            counts = chosen.groupby("question")["group"].nunique()
            chosen = chosen[chosen["question"].isin(counts.index[counts == 2])]
            if chosen["question"].nunique() < 2:
                continue
            found = specificity(chosen, draws=draws, seed=seed)
            row = {"condition": condition, "factor": factor, "sample": sample, "questions": found.related.clusters,
                   "neurons": chosen["n"].mean()}  # fmt: skip
            rows.append(row | _numbers(found))
    return pd.DataFrame(rows)


def _numbers(found: Specificity) -> dict[str, float]:
    return {
        name + end: getattr(getattr(found, field), part)
        for field, name in SPECIFICITY.items()
        for end, part in (("", "estimate"), ("_low", "low"), ("_high", "high"))
    }


def _groups(effects: pd.DataFrame) -> Iterator[tuple[tuple, pd.DataFrame]]:
    for column in [*BY, "question", "group", "n", "before", "after"]:
        if column not in effects:
            raise InputError("effects", found=list(effects), expected=f"a column {column}: a table of letter_effects")
    yield from effects.groupby(BY, sort=False)


def fact_language_table(effects: pd.DataFrame, *, draws: int = 10_000, seed: int = 0) -> pd.DataFrame:
    """The 2 x 2 table of every condition and factor, on held-out wordings.

    Columns: `condition`, `factor`; `fact`, `language` (the two effects) with `_low`, `_high`; and the cells `same_same`,
    `same_other` (fact, language), `other_same`, `other_other`. A condition that lacks a cell has no row.

    Example
    -------
    >>> fact_language_table(effects)[["condition", "factor", "fact", "fact_low", "fact_high"]]
    """
    rows = []
    for (condition, factor), part in _groups(effects[effects["group"] != "in_sample"]):
        same = part["fact"] == part["tested_fact"], part["language"] == part["tested_language"]
        if pd.DataFrame({"f": same[0], "l": same[1]}).drop_duplicates().shape[0] < 4 or part["question"].nunique() < 2:
            continue
        found = fact_language(part, draws=draws, seed=seed)
        row = {"condition": condition, "factor": factor}
        for name in ("fact", "language"):
            effect: Interval = getattr(found, name)
            row |= {name: effect.estimate, f"{name}_low": effect.low, f"{name}_high": effect.high}
        words = {True: "same", False: "other"}
        for cell in found.cells.itertuples():
            row[f"{words[cell.same_fact]}_{words[cell.same_language]}"] = cell.estimate
        rows.append(row)
    return pd.DataFrame(rows)


def flip_table(effects: pd.DataFrame) -> pd.DataFrame:
    """How often the most probable of four letters changed: on a question's own held-out prompts, and elsewhere.

    One row per condition, factor, `place` (`own`; `elsewhere`, prompts of other classes: collateral) and `flip`: `to_right`,
    of prompts that were wrong, `to_wrong`, of those that were right. Columns `flipped`, `of` (counts of prompts), `share`, `low`,
    `high` (Wilson, 95 %). The same prompt under several seeds or owners counts each time.

    Example
    -------
    >>> flip_table(effects).query("factor == 0 and flip == 'to_wrong'")
    """
    rows = []
    for (condition, factor), part in _groups(effects):
        for place, group in (("own", "own"), ("elsewhere", "other")):
            own = part[part["group"] == group]
            before, after = own["right_before"].to_numpy(bool), own["right_after"].to_numpy(bool)
            for flip, could, did in (("to_right", ~before, after), ("to_wrong", before, ~after)):
                found = wilson(int((could & did).sum()), int(could.sum()))
                rows.append((condition, factor, place, flip, int((could & did).sum()), int(could.sum()),
                             found.estimate, found.low, found.high))  # fmt: skip
    return pd.DataFrame(rows, columns=[*BY, "place", "flip", "flipped", "of", "share", "low", "high"])


def dose_curve(effects: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """What each dose does to P of a question's own letter and of others': for a curve with a band of controls.

    `effects`: of `letter_effects` with `factors=DOSES`; with a column `draw` (seeds of a control) the band is over draws. Columns:
    `condition`, `factor`, `group` (`own`, `other`), `questions`, `change` (percent, ratio of means), `low`, `high` (bootstrap
    over questions, 95 %), `draw_low`, `draw_high` (least and largest of a draw alone).

    Example
    -------
    >>> dose_curve(letter_effects(model, prompts, tried, neurons, factors=DOSES))
    """
    rows = []
    for (condition, factor), whole in _groups(effects):
        for group in GROUPS:
            part = whole[whole["group"] == group]
            if part["question"].nunique() < 2:
                continue
            change = part["after"] - part["before"]
            found = ratio_of_means(change, part["before"], part["question"], resamples=resamples, seed=seed)
            draws = part["draw"] if "draw" in part else pd.Series(0, index=part.index)
            each = change.groupby(draws).sum() / part["before"].groupby(draws).sum()
            values = (found.estimate, found.low, found.high, each.min(), each.max())
            rows.append((condition, factor, group, found.clusters, *(100 * float(v) for v in values)))
    columns = [*BY, "group", "questions", "change", "low", "high", "draw_low", "draw_high"]
    return pd.DataFrame(rows, columns=columns).sort_values([*BY, "group"], kind="stable", ignore_index=True)
