"""What changing a question's neurons does to its own answer, less what it does to others': R, U, S, PCR, flips.

Intervals are over questions, not prompts: the prompts of a question ask the same thing.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from ..errors import InputError, Literal
from ..statistics import Interval

# Less change than this, in percent, is no denominator.
LEAST_CHANGE = 0.5
# Probabilities nearer to 0 or 1 are rounding of float32; log-odds stop there.
ROUNDING = 1e-7
GROUPS = ("own", "other")


@dataclass(frozen=True)
class Specificity:
    """Changes of P(right letter), in percent of what it was, with intervals over questions.

    `related` (R): on the question's own test prompts, 100 * mean(change) / mean(p). `unrelated` (U): the same on questions of other
    classes. `specificity` (S): R - U, above 0 for enhance and below 0 for suppress where neurons are specific. `pcr`:
    |R| / |U| of Chen et al. (2025), where |U| is at least 0.5 % and its interval excludes 0; else its estimate is NaN and `low` is
    |R| over the largest |U| of the interval: the ratio is above that. `related_mean`, `unrelated_mean`: 100 * mean(change / p),
    which follows the smallest p. `..._odds`: R, U, S as mean changes of the log-odds.
    """

    related: Interval
    unrelated: Interval
    specificity: Interval
    pcr: Interval
    related_mean: Interval
    unrelated_mean: Interval
    related_odds: Interval
    unrelated_odds: Interval
    specificity_odds: Interval


def specificity(effects: pd.DataFrame, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Specificity:
    """R, U, S and PCR of one operation with paired bootstrap intervals: each draw takes whole questions, for all numbers.

    `effects`: a row per prompt: `question` (whose neurons were changed), `group` (`own` prompts, or `other` questions'), `before` and
    `after` (P of the prompt's right letter). The unit is the question: its prompts are averaged first, so that neither their
    number nor a copy of them counts. Intervals are percentiles.

    Raises `InputError` for missing columns, fewer than two questions, one without `own` or `other` prompts, values that are no
    probabilities.

    Example
    -------
    >>> found = specificity(pd.DataFrame({"question": list("aabb"), "group": ["own", "other"] * 2,
    ...                                   "before": [0.5] * 4, "after": [0.6, 0.5, 0.7, 0.5]}))
    >>> found.related.estimate, found.unrelated.estimate
    (30.0, 0.0)
    """
    _check(effects, ["question", "group"])
    if not effects["group"].isin(GROUPS).all():
        wrong = effects.loc[~effects["group"].isin(GROUPS), "group"].iloc[0]
        raise InputError("effects, group", found=wrong, expected=Literal("own or other"))
    means = question_means(effects, ["question", "group"]).unstack("group")
    lacking = means.index[means["p"].reindex(columns=list(GROUPS)).isna().any(axis=1)]
    if len(lacking):
        raise InputError(f"effects, question {lacking[0]}", found=Literal("prompts of one group only"),
                         expected="own and other ones")  # fmt: skip
    weights = _weights(len(means), draws, seed)
    values = {}
    for group in GROUPS:
        part = {name: means[name][group].to_numpy() for name in ("change", "p", "relative", "odds")}
        values[group] = 100 * (weights @ part["change"]) / (weights @ part["p"])
        values[group, "mean"] = 100 * (weights @ part["relative"]) / len(means)
        values[group, "odds"] = weights @ part["odds"] / len(means)

    def interval(drawn):
        return _interval(drawn, level, len(means))

    related, unrelated = interval(values["own"]), interval(values["other"])
    return Specificity(
        related, unrelated, interval(values["own"] - values["other"]),
        _pcr(values["own"], values["other"], related, unrelated, interval),
        interval(values["own", "mean"]), interval(values["other", "mean"]),
        interval(values["own", "odds"]), interval(values["other", "odds"]),
        interval(values["own", "odds"] - values["other", "odds"]),
    )  # fmt: skip


def _pcr(own, other, related: Interval, unrelated: Interval, interval) -> Interval:
    if abs(unrelated.estimate) >= LEAST_CHANGE and unrelated.low * unrelated.high > 0:
        with np.errstate(divide="ignore"):
            return interval(np.abs(own) / np.abs(other))
    largest, size = max(abs(unrelated.low), abs(unrelated.high)), abs(related.estimate)
    bound = size / largest if largest else (np.inf if size else np.nan)
    return Interval(np.nan, bound, np.inf, related.level, related.clusters)


@dataclass(frozen=True, eq=False)
class FactLanguage:
    """`cells`: a row per (`same_fact`, `same_language`) with `estimate`, `low`, `high` (percent, as R) and `pairs`; `fact`: what sharing
    the fact adds in another language; `language`: what sharing the language adds for another fact.
    """

    cells: pd.DataFrame
    fact: Interval
    language: Interval


def fact_language(effects: pd.DataFrame, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> FactLanguage:
    """The 2 x 2 table: do a question's neurons change the same fact in other languages, or other facts in its language?

    `effects`: a row per prompt: `fact`, `language` (of the question whose neurons were changed), `tested_fact`, `tested_language`,
    `before`, `after`. Fact effect = (same fact, other language) - (other, other); language effect = (other fact, same
    language) - (other, other); both in points of percent. Intervals over changed questions, paired.

    Raises `InputError` for missing columns, a cell without prompts, fewer than two questions.

    Example
    -------
    >>> found = fact_language(effects)
    >>> print(found.fact, found.language)
    """
    _check(effects, ["fact", "language", "tested_fact", "tested_language"])
    table = effects.assign(question=effects["fact"].astype(str) + "|" + effects["language"].astype(str),
                           same_fact=effects["fact"] == effects["tested_fact"],
                           same_language=effects["language"] == effects["tested_language"])  # fmt: skip
    means = question_means(table, ["question", "same_fact", "same_language"]).unstack(["same_fact", "same_language"])
    names = [(True, True), (True, False), (False, True), (False, False)]
    weights, drawn, rows = _weights(len(means), draws, seed), {}, []
    for name in names:
        if name not in means["p"]:
            said = f"{'same' if name[0] else 'other'} fact, {'same' if name[1] else 'other'} language"
            raise InputError("effects", found=Literal(f"no prompt of {said}"), expected="some in each of four cells")
        # A question without such prompts adds nothing to either sum.
        change, p = (means[column][name].fillna(0).to_numpy() for column in ("change", "p"))
        with np.errstate(invalid="ignore"):
            drawn[name] = 100 * (weights @ change) / (weights @ p)
        found = _interval(drawn[name], level, int((p > 0).sum()))
        pairs = int(((table["same_fact"] == name[0]) & (table["same_language"] == name[1])).sum())
        rows.append((*name, found.estimate, found.low, found.high, pairs))
    neither = drawn[False, False]
    return FactLanguage(
        pd.DataFrame(rows, columns=["same_fact", "same_language", "estimate", "low", "high", "pairs"]),
        _interval(drawn[True, False] - neither, level, len(means)), _interval(drawn[False, True] - neither, level, len(means)),
    )  # fmt: skip


def wilson(successes: int, total: int, *, level: float = 0.95) -> Interval:
    """A share with its Wilson interval; NaN in [0, 1] of nothing.

    Example
    -------
    >>> print(wilson(8, 10))
    0.8 [0.49, 0.943]
    """
    if not 0 <= successes <= total:
        raise InputError("successes", found=successes, expected=f"from 0 to {total}")
    if not total:
        return Interval(np.nan, 0.0, 1.0, level, 0)
    low, high = proportion_confint(successes, total, alpha=1 - level, method="wilson")
    return Interval(successes / total, float(low), float(high), level, int(total))


def flips(before, after) -> dict[str, Interval]:
    """How often answers changed: `to_right`, of those that were wrong, and `to_wrong`, of those that were right.

    `before`, `after`: booleans, one per prompt: whether the most probable of the four letters was the right one.

    Example
    -------
    >>> flips([True, True, False], [True, False, True])["to_wrong"].estimate
    0.5
    """
    before, after = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if before.shape != after.shape or before.ndim != 1:
        raise InputError(
            "after", found=Literal(f"shape {after.shape}"), expected=f"shape {before.shape}: one per prompt"
        )
    return {"to_right": wilson(int((~before & after).sum()), int((~before).sum())),
            "to_wrong": wilson(int((before & ~after).sum()), int(before.sum()))}  # fmt: skip


def _check(effects: pd.DataFrame, columns: list[str]) -> None:
    for column in [*columns, "before", "after"]:
        if column not in effects:
            raise InputError("effects", found=list(effects), expected=f"a column {column}")
    for column in ("before", "after"):
        values = effects[column].to_numpy(dtype=float)
        if not ((values >= 0) & (values <= 1)).all():  # NaN is neither
            raise InputError(f"effects, {column}", found=Literal("a value outside [0, 1]"), expected="probabilities")


def question_means(effects: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means over the prompts of each group: `change` and `p` of P(right letter), `odds` (change of the log-odds), `relative` (change / p).

    `effects`: of `letter_effects`. `by` has `question`. Raises `InputError` for fewer than two of them.

    Example
    -------
    >>> question_means(effects, ["condition", "question"])["odds"]
    """
    before, after = (effects[c].to_numpy(dtype=float) for c in ("before", "after"))
    odds = [np.log(p / (1 - p)) for p in (np.clip(v, ROUNDING, 1 - ROUNDING) for v in (before, after))]
    table = effects[by].assign(change=after - before, p=before, odds=odds[1] - odds[0],
                               relative=(after - before) / np.maximum(before, ROUNDING))  # fmt: skip
    means = table.groupby(by, sort=True)[["change", "p", "relative", "odds"]].mean()
    if means.index.get_level_values("question").nunique() < 2:
        raise InputError("effects", found=Literal("fewer than two questions"), expected="questions to draw from")
    return means


@lru_cache(maxsize=2)  # most rows of a table are of the same questions
def _weights(questions: int, draws: int, seed: int) -> np.ndarray:
    """How often each question was drawn, [1 + draws, questions]; row 0 is the sample itself."""
    drawn = np.random.default_rng(seed).multinomial(questions, np.full(questions, 1 / questions), size=draws)
    return np.concatenate([np.ones((1, questions), dtype=drawn.dtype), drawn]).astype(float)


def _interval(values: np.ndarray, level: float, clusters: int) -> Interval:
    """Of [1 + draws] values, the first being the estimate; draws without a value (a cell was empty) are left out."""
    low, high = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values[0]), float(low), float(high), level, clusters)
