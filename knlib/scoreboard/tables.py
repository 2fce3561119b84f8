"""Results of many arms on one model as tables: scores with intervals over edits, matrices of languages, comparisons.

`results`: arm id -> result. What has no result has no row. The seeds of the random neurons are one arm, `lafn_random`. A
mean is one over edits of means over languages; its interval draws edits, because the questions of one edit go together.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar

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
COLUMNS = ("reliability", "generality", WHOLE, *LOCALITY, "portability")
MEASURABLE = 0.5  # of the portability ceiling
EARLY = 10  # edits of a sequence that retention asks about
NOTHING = "–"


def per_edit(scores: pd.DataFrame, kind: str, score: str) -> pd.Series:
    """A score of every edit, the mean over its languages; NaN values are left out, and edits that have no other.

    `scores`: of one arm. `kind`: of `knlib.edit_questions.KINDS`, or `locality`: its kinds weigh alike, those that an edit
    has. Raises `InputError` for another kind and a score that is not one of `knlib.edit_effects.SCORES`.

    Example
    -------
    >>> per_edit(results["rome"].scores, "reliability", "tokens").mean()
    """
    own = _of_kind(scores, kind, score)
    return own.groupby(["edit", "kind"], sort=False)[score].mean().groupby(level="edit", sort=False).mean()


def _of_kind(scores: pd.DataFrame, kind: str, score: str) -> pd.DataFrame:
    if kind not in (*KINDS, WHOLE):
        raise InputError("kind", found=kind, expected=Literal("one of " + " ".join((*KINDS, WHOLE))))
    if score not in SCORES:
        raise InputError("score", found=score, expected=Literal("one of " + " ".join(SCORES)))
    return scores[scores["kind"].isin(LOCALITY if kind == WHOLE else [kind]) & scores[score].notna()]


def _interval(values: pd.Series) -> dict:
    """The mean over edits; without ends where one edit, or edits that are all alike, tell nothing about the spread."""
    found = {"estimate": float(values.mean()), "low": np.nan, "high": np.nan, "edits": len(values)}
    if values.nunique() > 1:
        interval = mean(values, values.index)
        found |= {"low": interval.low, "high": interval.high}
    return found


def _named(name: str, values: pd.Series) -> dict:
    found = _interval(values)
    return {name: found["estimate"], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def _table(rows: dict, *names: str) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples(rows, names=names) if len(names) > 1 else pd.Index(list(rows), name=names[0])
    return pd.DataFrame(list(rows.values()), index=index)


def _is_seed(name: str) -> bool:
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
            groups.setdefault(RANDOM if _is_seed(name) else name, []).append(result.scores)
    seeds = groups.get(RANDOM)
    if seeds:
        groups[RANDOM] = [pd.concat(seeds).groupby(BY, sort=False)[list(SCORES)].mean().reset_index()]
    return {name: parts[0] for name, parts in groups.items() if parts}


def _scores(results: Results, name: str) -> pd.DataFrame:
    found = {name: result.scores for name, result in results.items()} | simultaneous(results)
    if name not in found:
        raise InputError("arm", found=name, expected=Literal("one of " + " ".join(found)))
    return found[name]


def _score_of(kind: str, score: str) -> str:
    """Edited facts are read by the score that is asked for, one hop further by `forced`, neighbours by `same`."""
    if score not in ANSWERS:
        raise InputError("score", found=score, expected=Literal("one of " + " ".join(ANSWERS)))
    return score if kind in EDITED else "forced" if kind == "portability" else "same"


def _only(scores: pd.DataFrame, names: Iterable[str] | None) -> pd.DataFrame:
    return scores if names is None else scores[scores["edit"].isin(set(names))]


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
        parts |= {name: result.scores for name, result in results.items() if _is_seed(name)}
    for name, scores in parts.items():
        own = _only(scores, names)
        row = {"edits": own["edit"].nunique()}
        for kind in COLUMNS:
            row |= _named(kind, per_edit(own, kind, _score_of(kind, score)))
        for kind in EDITED:
            means = _of_kind(own, kind, score).groupby("language", sort=False)[score].mean()
            row[f"{kind}_worst"] = means.min()
            row[f"{kind}_worst_language"] = means.idxmin() if len(means) else ""
        if row["edits"]:
            rows[name] = row
    return _table(rows, "arm")


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
    scores, rows = _of_kind(_scores(results, NONE), "ceiling", "forced"), {}
    for language in ("all", *_in_order(scores["language"])):
        own = scores if language == "all" else scores[scores["language"] == language]
        rows[language] = _interval(per_edit(own, "ceiling", "forced"))
        reached = rows[language]["estimate"] >= MEASURABLE
        rows[language]["verdict"] = "measurable" if reached else "not measurable"
    return _table(rows, "language")


def _in_order(languages: Iterable[str]) -> list[str]:
    """Languages in the order of Atlas, others behind them."""
    own = list(dict.fromkeys(languages))
    return [code for code in LANGUAGES if code in own] + [code for code in own if code not in LANGUAGES]


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
                rows[name, kind] |= _named(score, values[score])
    return _table(rows, "arm", "kind")


def matrix(results: Results, arm: str, kind: str = "reliability", score: str = "tokens") -> pd.DataFrame:
    """Language edited in x language asked in, from `<arm>_single`, and three rows more, all on the edits that all have.

    `all at once`: requests in all languages; `held out`: in all but the one asked in; `not edited`. A row whose result is
    missing is left out. `attrs["edits"]`: their number. Raises `InputError` without `<arm>_single`.

    Example
    -------
    >>> matrix(results, "memit").loc["held out"].mean()
    """
    single = _of_kind(_scores(results, f"{arm}_single"), kind, score)
    sources = {"all at once": arm, "held out": f"{arm}_held_out", "not edited": NONE}
    parts = {row: _of_kind(results[name].scores, kind, score) for row, name in sources.items() if name in results}
    common = set(single["edit"]).intersection(*(part["edit"] for part in parts.values()))
    found = _only(single, common).pivot_table(index="edited_in", columns="language", values=score)
    found = found.reindex(index=_in_order(single["edited_in"]), columns=_in_order(single["language"]))
    for row, part in parts.items():
        found.loc[row] = _only(part, common).groupby("language")[score].mean()
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
    parts = [_of_kind(_scores(results, name), kind, score).set_index(keys)[score] for name in (a, b)]
    both = pd.concat(parts, axis=1, join="inner", keys=["a", "b"])
    if both.empty:
        raise InputError(f"{a}, {b}", found=Literal("no common edit"), expected="arms that ran on the same edits")
    edits = both.groupby(level=["edit", "kind"]).mean().groupby(level="edit").mean()
    found = _interval(edits["a"] - edits["b"])
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
    scores = _scores(results, name)
    # The order of the edits is in the provenance: rows are in the order of the questions.
    early = results[name].provenance["edits"][:EARLY]
    for length, own in scores.groupby("length"):
        row = {"edits": own["edit"].nunique()}
        for kind in (*EDITED, WHOLE):
            row |= _named(kind, per_edit(own, kind, _score_of(kind, score)))
        row |= _named("retention", per_edit(_only(own, early), "reliability", score))
        rows[int(length)] = row | {"d_loss": results[name].costs.get(str(length), {}).get("d_loss", np.nan)}
    return _table(rows, "length")


def costs(results: Results) -> pd.DataFrame:
    """Seconds of search per edit (all its languages) and numbers `touched`, by arm of `simultaneous`; means over seeds."""
    rows = {name: result.costs["1"] for name, result in results.items() if "1" in result.costs}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["seconds", "touched"]).astype(float)
    means = table.groupby(lambda name: RANDOM if _is_seed(name) else name, sort=False).mean()
    return means[means.index.isin(list(simultaneous(results)))].rename_axis("arm")


def shared_split(results: Results, arm: str, shared: pd.DataFrame, score: str = "tokens") -> pd.DataFrame:
    """Reliability and generality apart by whether the language spells the edit's names as another one does.

    `arm`: any id; of `<arm>_single`, languages that were not edited in. `shared`: of `knlib.edit_questions.shared_strings`.
    Index (kind, shared); `estimate`, `low`, `high`, `edits`. Where strings differ, transfer cannot be the strings' doing.

    Example
    -------
    >>> shared_split(results, "memit_held_out", shared_strings(edits.requests)).loc[("reliability", False)]
    """
    scores = _scores(results, arm)
    scores = scores[scores["edited_in"] != scores["language"]].merge(shared, on=["edit", "language"])
    parts = {value: scores[scores["shared"] == value] for value in (True, False)}
    rows = {
        (kind, value): _interval(per_edit(own, kind, _score_of(kind, score)))
        for kind in EDITED for value, own in parts.items()
    }  # fmt: skip
    return _table(rows, "kind", "shared")


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
        values = {kind: per_edit(scores, kind, _score_of(kind, score)).mean() for kind in bars}
        reached = {f"{kind} >= {bar:g}": values[kind] >= bar for kind, bar in bars.items()}
        reached["all"] = all(reached.values())
        rows[name] = values | {key: "yes" if value else "no" for key, value in reached.items()}
    return _table(rows, "arm")
