"""Results of many arms on one model as tables, a row an arm: the scoreboard, its ceiling, locality by kind, the target.

Means and intervals are those of `estimates`.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ..edit_questions import EDITED
from ..edit_set import LOCALITY
from .arms import NONE
from .estimates import (
    WHOLE,
    Results,
    as_table,
    in_order,
    interval,
    is_seed,
    named,
    of_kind,
    only,
    per_edit,
    score_for,
    scores_of,
    simultaneous,
)

COLUMNS = ("reliability", "generality", WHOLE, *LOCALITY, "portability")
MEASURABLE = 0.5  # of the portability ceiling
NOTHING = "–"


def scoreboard(
    results: Results, score: str = "tokens", names: Iterable[str] | None = None, *, seeds: bool = False
) -> pd.DataFrame:
    """Reliability, generality, locality as a whole and by kind, and portability, one row per arm of `simultaneous`.

    Each column with `_low` and `_high`, the 95 % interval over edits (NaN for fewer than two edits, or all alike);
    `reliability_worst`, `reliability_worst_language` and so for generality; `edits`, their number. `score`: of `ANSWERS`,
    for reliability and generality. `names`: only these edits, e.g. those known before; arms on others have no row.
    `seeds`: with a row for every random seed, too. Raises `InputError` for another score.

    Example
    -------
    >>> scoreboard(results, "forced", names=study.known)[["reliability", "edits"]]
    """
    parts, rows = simultaneous(results), {}
    if seeds:
        parts |= {name: result.scores for name, result in results.items() if is_seed(name)}
    for name, scores in parts.items():
        own = only(scores, names)
        row = {"edits": own["edit"].nunique()}
        for kind in COLUMNS:
            row |= named(kind, per_edit(own, kind, score_for(kind, score)))
        for kind in EDITED:
            means = of_kind(own, kind, score).groupby("language", sort=False)[score].mean()
            row[f"{kind}_worst"] = means.min()
            row[f"{kind}_worst_language"] = means.idxmin() if len(means) else ""
        if row["edits"]:
            rows[name] = row
    return as_table(rows, "arm")


def scoreboard_text(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `scoreboard` for reading: `97 [95, 99]`, in per cent.

    Example
    -------
    >>> scoreboard_text(scoreboard(results)).loc["rome", "reliability"]
    '97 [95, 99]'
    """
    found = {}
    for kind in COLUMNS:
        percent = (table[[kind, f"{kind}_low", f"{kind}_high"]] * 100).to_numpy()
        ends = ["" if np.isnan(low) else f" [{low:.0f}, {high:.0f}]" for _, low, high in percent]
        found[kind] = [
            NOTHING if np.isnan(row[0]) else f"{row[0]:.0f}{end}" for row, end in zip(percent, ends, strict=True)
        ]
    for kind in EDITED:
        pairs = zip(table[f"{kind}_worst_language"], table[f"{kind}_worst"], strict=True)
        found[f"worst {kind}"] = [f"{code} {value * 100:.0f}" if code else NOTHING for code, value in pairs]
    return pd.DataFrame(found | {"edits": table["edits"].to_numpy()}, index=table.index)


def ceiling(results: Results) -> pd.DataFrame:
    """How often the unedited model answers questions as those of portability about unedited facts, in all and by language.

    Columns `estimate`, `low`, `high`, `edits`, `verdict`: below `MEASURABLE`, portability is "not measurable", rather than
    0. Raises `InputError` without a result for `none`.

    Example
    -------
    >>> ceiling(results).loc["all", "verdict"]
    'not measurable'
    """
    scores, rows = of_kind(scores_of(results, NONE), "ceiling", "forced"), {}
    for language in ("all", *in_order(scores["language"])):
        own = scores if language == "all" else scores[scores["language"] == language]
        rows[language] = interval(per_edit(own, "ceiling", "forced"))
        reached = rows[language]["estimate"] >= MEASURABLE
        rows[language]["verdict"] = "measurable" if reached else "not measurable"
    return as_table(rows, "language")


def by_locality(results: Results) -> pd.DataFrame:
    """What became of neighbours, index (arm, kind): `same`, `kept` (of those right before) and `kl`, with intervals.

    Example
    -------
    >>> by_locality(results).loc[("rome", "same_subject"), "same"]
    """
    rows = {}
    for name, scores in simultaneous(results).items():
        for kind in LOCALITY:
            values = {score: per_edit(scores, kind, score) for score in ("same", "kept", "kl")}
            rows[name, kind] = {"edits": len(values["same"])}
            for score in values:
                rows[name, kind] |= named(score, values[score])
    return as_table(rows, "arm", "kind")


def target(
    results: Results, reliability: float = 0.95, generality: float = 0.85, locality: float = 0.90, score: str = "tokens"
) -> pd.DataFrame:
    """Which arms reach all three bars: the three means, whether each is reached (`yes`, `no`), and `all`.

    Example
    -------
    >>> target(results).query("all == 'yes'").index.tolist()
    ['lafn_all']
    """
    bars, rows = {"reliability": reliability, "generality": generality, WHOLE: locality}, {}
    for name, scores in simultaneous(results).items():
        values = {kind: per_edit(scores, kind, score_for(kind, score)).mean() for kind in bars}
        reached = {f"{kind} >= {bar:g}": values[kind] >= bar for kind, bar in bars.items()}
        reached["all"] = all(reached.values())
        rows[name] = values | {key: "yes" if value else "no" for key, value in reached.items()}
    return as_table(rows, "arm")
