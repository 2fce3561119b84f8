"""Results set against each other: languages edited and asked in, two arms, lengths of a sequence, costs, shared strings.

Means and intervals are those of `estimates`.
"""

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar

from ..edit_questions import EDITED
from ..errors import InputError, Literal
from .arms import NONE
from .estimates import (
    RANDOM,
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

EARLY = 10  # edits of a sequence that retention asks about


def matrix(results: Results, arm: str, kind: str = "reliability", score: str = "tokens") -> pd.DataFrame:
    """Language edited in x language asked in, from `<arm>_single`, and three rows more, all on the edits that all have.

    `all at once`: requests in all languages; `held out`: in all but the one asked in; `not edited`. A row whose result is
    missing is left out. `attrs["edits"]`: their number. Raises `InputError` without `<arm>_single`.

    Example
    -------
    >>> matrix(results, "memit").loc["held out"].mean()
    """
    single = of_kind(scores_of(results, f"{arm}_single"), kind, score)
    sources = {"all at once": arm, "held out": f"{arm}_held_out", "not edited": NONE}
    parts = {row: of_kind(results[name].scores, kind, score) for row, name in sources.items() if name in results}
    common = set(single["edit"]).intersection(*(part["edit"] for part in parts.values()))
    found = only(single, common).pivot_table(index="edited_in", columns="language", values=score)
    found = found.reindex(index=in_order(single["edited_in"]), columns=in_order(single["language"]))
    for row, part in parts.items():
        found.loc[row] = only(part, common).groupby("language")[score].mean()
    found.attrs["edits"] = len(common)
    return found


def compare(results: Results, a: str, b: str, kind: str = "reliability", score: str = "tokens") -> pd.Series:
    """Two arms on what both were asked: `estimate` of a - b with `low`, `high`, `edits`, and McNemar's exact test.

    The test takes (edit, language) pairs, a success where the score is 1: `pairs`, `only_a`, `only_b`, `p_value`. Pairs of
    one edit are not independent, so the test is too sure: the interval, over edits, counts. Raises `InputError` for an
    unknown arm, and where no edit is common.

    Example
    -------
    >>> compare(results, "lafn", "lafn_random", "generality")[["estimate", "low", "high"]]
    """
    keys = ["edit", "kind", "language"]
    parts = [of_kind(scores_of(results, name), kind, score).set_index(keys)[score] for name in (a, b)]
    both = pd.concat(parts, axis=1, join="inner", keys=["a", "b"])
    if both.empty:
        raise InputError(f"{a}, {b}", found=Literal("no common edit"), expected="arms that ran on the same edits")
    edits = both.groupby(level=["edit", "kind"]).mean().groupby(level="edit").mean()
    found = interval(edits["a"] - edits["b"])
    right = both == 1
    counts = [[int(((right["a"] == x) & (right["b"] == y)).sum()) for y in (True, False)] for x in (True, False)]
    p_value = float(mcnemar(counts, exact=True).pvalue)
    return pd.Series(found | {"pairs": len(both), "only_a": counts[0][1], "only_b": counts[1][0], "p_value": p_value})


def sequences(results: Results, arm: str, score: str = "tokens") -> pd.DataFrame:
    """`<arm>_sequence` by the number of edits made one after another: reliability, generality, locality with intervals,
    `retention` (reliability of the first `EARLY` edits, now), `d_loss` (nats a token that neutral text lost).

    Example
    -------
    >>> sequences(results, "memit").loc[100, ["reliability", "retention"]]
    """
    name, rows = f"{arm}_sequence", {}
    scores = scores_of(results, name)
    # The order of the edits is in the provenance: rows are in the order of the questions.
    early = results[name].provenance["edits"][:EARLY]
    for length, own in scores.groupby("length"):
        row = {"edits": own["edit"].nunique()}
        for kind in (*EDITED, WHOLE):
            row |= named(kind, per_edit(own, kind, score_for(kind, score)))
        row |= named("retention", per_edit(only(own, early), "reliability", score))
        rows[int(length)] = row | {"d_loss": results[name].costs.get(str(length), {}).get("d_loss", np.nan)}
    return as_table(rows, "length")


def costs(results: Results) -> pd.DataFrame:
    """Seconds of search per edit (all its languages) and numbers `touched`, by arm of `simultaneous`; means over seeds."""
    rows = {name: result.costs["1"] for name, result in results.items() if "1" in result.costs}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["seconds", "touched"]).astype(float)
    means = table.groupby(lambda name: RANDOM if is_seed(name) else name, sort=False).mean()
    return means[means.index.isin(list(simultaneous(results)))].rename_axis("arm")


def shared_split(results: Results, arm: str, shared: pd.DataFrame, score: str = "tokens") -> pd.DataFrame:
    """Reliability and generality apart by whether the language spells the edit's names as another one does.

    `arm`: any id; of `<arm>_single`, languages that were not edited in. `shared`: of `knlib.edit_questions.shared_strings`.
    Index (kind, shared); `estimate`, `low`, `high`, `edits`. Where strings differ, transfer cannot be the strings' doing.

    Example
    -------
    >>> shared_split(results, "memit_held_out", shared_strings(edits.requests)).loc[("reliability", False)]
    """
    scores = scores_of(results, arm)
    scores = scores[scores["edited_in"] != scores["language"]].merge(shared, on=["edit", "language"])
    parts = {value: scores[scores["shared"] == value] for value in (True, False)}
    rows = {
        (kind, value): interval(per_edit(own, kind, score_for(kind, score)))
        for kind in EDITED for value, own in parts.items()
    }  # fmt: skip
    return as_table(rows, "kind", "shared")
