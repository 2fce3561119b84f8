"""What the scoreboard answers: one statement for each of the questions, with its interval, and "undecided" where that says so."""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, mannwhitneyu

from ..controls import generator
from ..query_localization.thresholds import STATIC
from ..statistics import Interval, mean
from .consistency import NAMES
from .estimates import ALL, GROWING, sizes
from .scorers import MATRICE

UNDECIDED = "undecided"
# The row of random scores: a share is never below 0, so that only more than chance says something.
CHANCE = "random"
RESAMPLES = 2000
Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Finding:
    """`question`, `about` (which rows, kinds or scores are compared), the `interval`, and `verdict`: `yes`, `no` or `undecided`."""

    question: str
    about: str
    interval: Interval
    verdict: str

    def __str__(self) -> str:
        return f"{self.question} {self.about}: {self.verdict}, {self.interval}"


def decide(interval: Interval, *, than: float = 0.0) -> str:
    """`yes` where the whole interval is above a number, `no` where it is below, else `undecided`.

    Example
    -------
    >>> decide(Interval(0.1, -0.1, 0.3, 0.95, 20))
    'undecided'
    """
    if interval.low > than:
        return "yes"
    return "no" if interval.high < than else UNDECIDED


def findings_table(findings: list[Finding]) -> pd.DataFrame:
    """One row per finding: `question`, `about`, `verdict`, `estimate`, `low`, `high`, `facts`.

    Example
    -------
    >>> findings_table(questions(tables))
    """
    rows = [
        (f.question, f.about, f.verdict, f.interval.estimate, f.interval.low, f.interval.high, f.interval.clusters)
        for f in findings
    ]
    return pd.DataFrame(rows, columns=["question", "about", "verdict", "estimate", "low", "high", "facts"])


def questions(tables: Tables) -> list[Finding]:
    """All findings; `tables` of `load_results`. What a model's tables lack (a method was left out, too few facts) has none.

    Example
    -------
    >>> for finding in questions(load_results(model)[0]): print(finding)
    """
    facts = tables["facts"]
    return [
        *gradients(facts), *uncertainty(facts), *intersection(facts), *consistency_separates(tables["consistency"]),
        *published_threshold(tables["consistency"]), *synapses(tables["selection"]), *lafn(facts), *fooled(facts), *growth(facts),
    ]  # fmt: skip


def paired(
    facts: pd.DataFrame, a: str, b: str, measure: str, *, scope: str = "all", kind: str = ALL
) -> Interval | None:
    """Mean of a measure of row a less that of row b, on the facts that both have; None for fewer than two facts.

    Example
    -------
    >>> print(paired(tables["facts"], "ig", "gradient_x_activation", "average_precision"))
    0.04 [0.01, 0.07]
    """
    first, second = (_values(facts, row, measure, scope, kind) for row in (a, b))
    both = (first - second).dropna()
    return mean(both, both.index, resamples=RESAMPLES) if len(both) > 1 else None


def unpaired(a: pd.Series, b: pd.Series) -> Interval | None:
    """Mean of a less mean of b, different facts, with a percentile bootstrap over each; None for fewer than two in either.

    Example
    -------
    >>> unpaired(pd.Series([1.0, 1.0]), pd.Series([0.0, 0.0])).low
    1.0
    """
    a, b = a.dropna().to_numpy(float), b.dropna().to_numpy(float)
    if min(len(a), len(b)) < 2:
        return None
    return _stratified(lambda x, y, axis=-1: x.mean(axis) - y.mean(axis), a, b)


def _values(facts: pd.DataFrame, row: str, measure: str, scope: str, kind: str) -> pd.Series:
    """A measure by fact."""
    own = facts[(facts["row"] == row) & (facts["scope"] == scope) & ((facts["kind"] == kind) | (kind == ALL))]
    return own.set_index("fact")[measure].astype(float)


def _findings(question: str, asked: list[tuple[str, Interval | None]], *, than: float = 0.0) -> list[Finding]:
    return [Finding(question, about, i, decide(i, than=than)) for about, i in asked if i is not None]


def _kinds(facts: pd.DataFrame) -> list[str]:
    return [ALL, *dict.fromkeys(facts["kind"])]


def gradients(facts: pd.DataFrame) -> list[Finding]:
    """Is integrated gradients better than one backward pass? Difference of average precision and of precision at k."""
    asked = [(f"{kind}, {measure}", paired(facts, "ig", "gradient_x_activation", measure, kind=kind))
             for kind in _kinds(facts) for measure in ("average_precision", "at_k")]  # fmt: skip
    return _findings("Is integrated gradients better than one backward pass?", asked)


def uncertainty(facts: pd.DataFrame) -> list[Finding]:
    """Do query and language uncertainty buy precision, and where? MATRICE less itself without one, by kind."""
    start = MATRICE.removeprefix("re_lcb")
    asked = [(f"{what} uncertainty, {kind}, {measure}", paired(facts, MATRICE, f"re_lcb without {name}{start}", measure, kind=kind))
             for what, name in (("query", "query uncertainty"), ("language", "language uncertainty"), ("either", "both"))
             for kind in _kinds(facts) for measure in ("precision", "at_k")]  # fmt: skip
    return _findings("Does uncertainty buy precision?", asked)


def intersection(facts: pd.DataFrame) -> list[Finding]:
    """Does the intersection over languages lose true neurons? Recall of the mean's own set less that of an intersection's.

    On facts whose neurons serve all languages, where nothing need be lost.
    """
    asked = [(f"{name}, {kind}", paired(facts, "ig", f"{name} from ig", "recall", kind=kind))
             for name in ("kn_share", "amig", "min_lang") for kind in ("agnostic", "redundant", "distributed")]  # fmt: skip
    return _findings("Does the intersection lose true neurons?", asked)


def consistency_separates(table: pd.DataFrame, start: str = "ig") -> list[Finding]:
    """Which consistency score separates agnostic from query facts? Its AUROC less .5, for every score."""
    asked = [(name, _stratified(_auroc_less_half, *own)) for name in NAMES if (own := _two_kinds(table, name, start))]
    return _findings("Does the consistency score separate agnostic from query facts?", asked)


def best_thresholds(table: pd.DataFrame, start: str = "ig") -> pd.DataFrame:
    """At which threshold each consistency score separates agnostic from query facts best (Youden), with bootstrap intervals.

    Columns: `score`, `threshold`, `low`, `high`, `balanced_accuracy` at it (optimistic: of the same facts).

    Example
    -------
    >>> best_thresholds(tables["consistency"]).sort_values("balanced_accuracy")
    """
    rows = []
    for name in NAMES:
        if own := _two_kinds(table, name, start):
            interval = _stratified(_youden, *own, vectorized=False)
            accuracy = _balanced(*own, threshold=interval.estimate)
            rows.append((name, interval.estimate, interval.low, interval.high, accuracy))
    return pd.DataFrame(rows, columns=["score", "threshold", "low", "high", "balanced_accuracy"])


def published_threshold(table: pd.DataFrame, start: str = "ig") -> list[Finding]:
    """Is the published split right? Balanced accuracy at .3 less .5, for the scores that have been split there."""
    asked = [(f"{name} at {STATIC}", _stratified(lambda a, b, axis=-1: _balanced(a, b, axis, threshold=STATIC) - 0.5, *own))
             for name in ("cs_1 threshold", "cs_2 threshold") if (own := _two_kinds(table, name, start))]  # fmt: skip
    return _findings("Is the published threshold better than a coin?", asked)


def _two_kinds(table: pd.DataFrame, name: str, start: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A score of agnostic and of query facts; None with fewer than two of either."""
    own = table[table["scores"] == start].dropna(subset=[name])
    parts = tuple(own.loc[own["kind"] == kind, name].to_numpy(float) for kind in ("agnostic", "query"))
    return parts if min(map(len, parts)) > 1 else None


def _auroc_less_half(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    pairs = a.shape[axis] * b.shape[axis]
    return mannwhitneyu(a, b, axis=axis, method="asymptotic").statistic / pairs - 0.5


def _youden(a: np.ndarray, b: np.ndarray) -> float:
    """The threshold between neighbouring values that most of a reach and most of b do not."""
    values = np.unique(np.concatenate([a, b]))
    cuts = (values[1:] + values[:-1]) / 2 if len(values) > 1 else values
    reached, below = 1 - np.searchsorted(np.sort(a), cuts) / len(a), np.searchsorted(np.sort(b), cuts) / len(b)
    return float(cuts[(reached + below).argmax()])


def _balanced(a: np.ndarray, b: np.ndarray, axis: int = -1, *, threshold: float) -> np.ndarray:
    return ((a >= threshold).mean(axis) + (b < threshold).mean(axis)) / 2


def _stratified(statistic, a: np.ndarray, b: np.ndarray, *, vectorized: bool = True) -> Interval:
    """A percentile bootstrap that draws facts within each of two kinds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all draws alike: the interval is the point
        found = bootstrap((a, b), statistic, vectorized=vectorized, method="percentile", n_resamples=RESAMPLES // 2,
                          rng=generator(0, "stratified")).confidence_interval  # fmt: skip
    return Interval(float(statistic(a, b)), float(found.low), float(found.high), 0.95, len(a) + len(b))


def synapses(table: pd.DataFrame) -> list[Finding]:
    """Do synapses select the planted groups? What controls keep of their activation less what the planted neurons keep."""
    asked = []
    for kind in dict.fromkeys(table["kind"]) if "kind" in table else ():
        own = table[table["kind"] == kind]
        for control in ("matched_attention", "matched_neurons"):
            lost = (own[control] - own["served"]).dropna()
            names = own.loc[lost.index, "fact"]
            if names.nunique() > 1:
                asked.append((f"{kind} facts, against {control}", mean(lost, names, resamples=RESAMPLES)))
    return _findings("Do synapses select the planted groups?", asked)


def lafn(facts: pd.DataFrame) -> list[Finding]:
    """Does LAFN's locator find planted neurons? AUROC less .5, and its own set's precision less that of random neurons."""
    asked = []
    for row in ("lafn", "lafn at the answer"):
        for kind in _kinds(facts):
            values = _values(facts, row, "auroc", "all", kind).dropna() - 0.5
            asked.append(
                (f"{row}, {kind}, auroc", mean(values, values.index, resamples=RESAMPLES) if len(values) > 1 else None)
            )
        asked.append((f"{row}, {ALL}, at_k against random", paired(facts, row, CHANCE, "at_k")))
    return _findings("Does LAFN's locator find planted neurons?", asked)


def fooled(facts: pd.DataFrame) -> list[Finding]:
    """Who is fooled? By `relation`: the share of the k best that is the relation's, not the fact's, less that among random
    neurons; by `redundant`: groups found on agnostic facts less groups found on redundant ones. For every row."""
    found = []
    for row in dict.fromkeys(facts["row"]):
        if row != CHANCE:
            common = paired(facts, row, CHANCE, "common_at_k", kind="relation")
            found += _findings("Who is fooled by relation-level neurons?", [(row, common)])
        both = [_values(facts, row, "groups_at_k", "all", kind) for kind in ("agnostic", "redundant")]
        found += _findings("Who is fooled by redundant neurons?", [(row, unpaired(*both))])
    return found


def growth(facts: pd.DataFrame) -> list[Finding]:
    """Are facts of more neurons found better? Of each type of `GROWING`, the facts with most neurons less those with fewest.

    Each language alone. Within a type nothing but the number differs; types are not compared.
    """
    own = facts[(facts["scope"] == "language") & facts["kind"].isin(GROWING)]
    own, asked = own.assign(neurons=own["fact"].map(sizes(facts))), []
    for (row, kind), part in own.groupby(["row", "kind"], sort=False):
        least, most = (part[part["neurons"] == size] for size in (part["neurons"].min(), part["neurons"].max()))
        if part["neurons"].nunique() > 1:
            asked += [(f"{row}, {measure}, {kind}", unpaired(most[measure], least[measure]))
                      for measure in ("average_precision", "at_k", "recall")]  # fmt: skip
    return _findings("Are facts of more neurons found better?", asked)
