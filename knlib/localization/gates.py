"""What a localizer gets to see, and the count of what it does not: scaling, gates on queries, languages and neurons."""

import numpy as np
import pandas as pd

from ..attribution import Attributions
from ..errors import InputError, Literal
from ..languages import LANGUAGES
from .registry import Evidence

# What a row of the report says, and what its count counts.
REASONS = {
    "no_positive_score": "invalid queries: no neuron contributes to the answer",
    "improbable": "invalid queries: the model gives the answer too little probability",
    "no_valid_query": "queries of a language left out, all of them invalid",
    "entropy": "valid queries of a language left out: the model does not know the fact in it",
    "few_languages": "languages left: too few for neurons of scope all",
    "one_family": "languages left, of too few families for neurons of scope all",
    "relation_generic": "neurons dropped that many of the relation's facts have",
    "generic_not_judged": "facts located: too few of them, or of their objects, to tell generic neurons",
    "empty_resamples": "pairs of an empty set and an empty resampled set, left out of the stability",
    "entropy_unknown": "queries that all weigh alike, and no language gated, for want of a column entropy",
}
REPORT_COLUMNS = ["relation", "fact", "language", "reason", "count"]
LEAST_CERTAINTY = 0.05
# A neuron of more than this share of a relation's facts is generic, if there are at least so many facts and objects.
GENERIC_SHARE, GENERIC_LEAST = 0.1, 20
# `knlib.languages` names branches; for what all languages share, these are one family.
INDO_EUROPEAN = ("Germanic", "Romance", "Slavic", "Indo-Aryan")

Report = list[tuple[str, str, str, str, int]]


def gather(
    attributions: Attributions,
    queries: pd.DataFrame,
    *,
    min_gold_prob: float,
    max_entropy: float,
    reach: float | None = None,
) -> tuple[list[Evidence], Report]:
    """The evidence of every fact of the queries, and the report of the queries and languages that were left out.

    A query's scores are divided by its largest one. A query is invalid without a positive score, or if the answer's
    probability (geometric mean over its tokens where the column `n_sites` tells their number) is below `min_gold_prob`. A
    language is left out without a valid query, or if the mean `entropy` of its valid queries is above `max_entropy`.
    Neurons that stay below `reach` in every query are left out (None: none). Facts in order of appearance (with
    none left too, so that they are counted), all else sorted: the order of rows does not matter.

    Raises `InputError` for missing columns, unknown or repeated query ids, probabilities or entropies outside 0 to 1.
    """
    rows = _rows(attributions, queries)
    values = attributions.scores.values
    n_neurons = values.shape[1] * values.shape[2]
    report: Report = [] if "entropy" in queries else [("all", "all", "all", "entropy_unknown", len(rows))]
    found = []
    for fact, group in rows.groupby("fact", sort=False):
        group = group.sort_values(["language", "query"], kind="stable")
        relation = group["relation"].iloc[0]
        scores = values[group["row"].to_numpy()].reshape(len(group), n_neurons).astype(float)
        largest = scores.max(1)
        if not np.isfinite(largest).all():
            raise InputError(f"fact {fact}, attributions", found=Literal("a score that is not finite"),
                             expected="finite scores")  # fmt: skip
        reason = np.where(largest <= 0, "no_positive_score",
                          np.where(group["p"] < min_gold_prob, "improbable", ""))  # fmt: skip
        keep = np.zeros(len(group), bool)
        for language, at in group.reset_index().groupby("language").groups.items():
            for name in ("no_positive_score", "improbable"):
                report.append((relation, fact, language, name, int((reason[at] == name).sum())))
            valid = at[reason[at] == ""]
            if not len(valid):
                report.append((relation, fact, language, "no_valid_query", len(at)))
            elif group["entropy"].iloc[valid].mean() > max_entropy:
                report.append((relation, fact, language, "entropy", len(valid)))
            else:
                keep[valid] = True
        group, scores = group[keep], scores[keep] / np.where(keep, largest, 1)[keep, None]
        columns = np.arange(n_neurons)
        if reach is not None:
            columns = np.flatnonzero(scores.max(0, initial=-np.inf) >= reach)
        languages, codes = np.unique(group["language"].to_numpy(dtype=str), return_inverse=True)
        certainty = np.maximum(1 - group["entropy"].fillna(0).to_numpy(float), LEAST_CERTAINTY)
        found.append(Evidence(fact, relation, tuple(map(str, languages)), scores[:, columns], codes, certainty,
                              np.ones(len(group)), columns))  # fmt: skip
    return found, [row for row in report if row[4] or row[3] == "entropy_unknown"]


def _rows(attributions: Attributions, queries: pd.DataFrame) -> pd.DataFrame:
    """One row per query: `query`, `fact`, `relation`, `language`, `row` of the attributions, `p`, `entropy` (or NaN)."""
    if not isinstance(attributions, Attributions):
        raise InputError("attributions", found=Literal(type(attributions).__name__),
                         expected="Attributions, with the scores of all neurons")  # fmt: skip
    for column in ("query", "fact", "relation", "language", "answer"):
        if column not in queries:
            raise InputError("queries", found=list(queries), expected=f"a column {column}")
    index = pd.Index(attributions.scores["query"].values)
    for name, given in (("queries", pd.Index(queries["query"])), ("attributions, queries", index)):
        if given.has_duplicates:
            raise InputError(name, found=given[given.duplicated()][0], expected="every query id once")
    rows = queries[["query", "fact", "relation", "language"]].reset_index(drop=True)
    rows["row"] = index.get_indexer(rows["query"])
    if (rows["row"] < 0).any():
        raise InputError("queries", found=rows.loc[rows["row"] < 0, "query"].iloc[0],
                         expected="only queries that the attributions hold")  # fmt: skip
    own = "probability" in queries
    p = queries["probability"].to_numpy(float) if own else attributions.probability.values[rows["row"]]
    h = queries["entropy"].to_numpy(float) if "entropy" in queries else np.zeros(len(rows))
    for name, value in (("probability", p), ("entropy", h)):
        bad = ~((value >= 0) & (value <= 1 + 1e-6))
        if bad.any():
            raise InputError(f"query {rows['query'].iloc[int(bad.argmax())]}, {name}", found=float(value[bad][0]),
                             expected="a number from 0 to 1")  # fmt: skip
    rows["p"] = p ** (1 / queries["n_sites"].to_numpy(float)) if "n_sites" in queries else p
    rows["entropy"] = h
    return rows


def lacks_languages(fact: Evidence, min_languages: int, min_families: int) -> str | None:
    """Why a fact gets no neurons of scope `all`: `few_languages`, `one_family`, or None if it gets them.

    The Indo-European languages are one family; a code that `knlib.languages` does not know is a family of its own.
    """
    if not fact.languages or len(fact.languages) < min_languages:
        return "few_languages"
    branches = {LANGUAGES[code].family if code in LANGUAGES else code for code in fact.languages}
    families = {"Indo-European" if branch in INDO_EUROPEAN else branch for branch in branches}
    return "one_family" if len(families) < min_families else None


def relation_generic(table: pd.DataFrame, queries: pd.DataFrame) -> tuple[pd.Series, Report]:
    """Which rows of a neuron table are of neurons that more than 10 % of the relation's located facts have, in a scope.

    Not judged (NA, and in the report) where fewer than 20 facts, or 20 different answers, are located: among few facts a
    single one is more than 10 %, and among few objects the rule would delete the objects' own neurons (Dai et al.'s
    code has the rule without these limits).
    """
    generic = pd.Series(pd.NA, index=table.index, dtype="boolean")
    answers = queries.drop_duplicates(["fact", "language"])[["fact", "language", "answer"]]
    report: Report = []
    for (relation, scope), rows in table.groupby(["relation", "scope"], sort=False):
        located = rows["fact"].unique()
        known = answers[answers["fact"].isin(located)]
        objects = known.groupby("language")["answer"].nunique().max()
        if min(len(located), objects) < GENERIC_LEAST:
            report.append((relation, "all", scope, "generic_not_judged", len(located)))
            continue
        facts = rows.groupby(["layer", "neuron"])["fact"].transform("nunique")
        generic.loc[rows.index] = (facts > GENERIC_SHARE * len(located)).to_numpy()
    return generic, report
