"""Cells A: do the queries of a fact lead to the same neurons? Overlap of their sets, between a null and a ceiling.

In mode `ours` all facts, in mode `paper` some of each relation (`paper_facts`). Sets: `threshold` (above t of the query's largest
score), `top10`, `top50` (equal sizes). Part `all` is every query of a fact; the parts `A` and `B` are scored for the set that
labels the facts (mode `ours`, `top10`).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..attribution import Attributions
from ..controls import generator
from .intervals import Draws
from .located import located
from .results import Result
from .retest import null_edits, null_overlap, random_like, retest_overlap, rounded_weights
from .scores import fixed_k, j_star, overlap_scores, pair_similarities, threshold_sets, top_sets
from .split import LABELS, kappa, label_facts, welch
from .study import PART_A, Study
from .thresholds import STATIC, SWEEP, bimodality, inconsistent, otsu

# Facts of every relation: scored in mode `paper`, asked again in mode `ours` and in mode `paper`. Few in the latter, whose 20
# to 50 points cost more than all else in an encoder.
FACTS = {"paper_facts": 5, "retest_facts": 2, "paper_retests": 1}
DEFAULTS = {"method": "ig", "t": 0.3, "fixed_k": PART_A, "seed": 0} | FACTS
SETS = {"threshold": None, "top10": 10, "top50": 50}
# The set by which facts are labelled.
LABELLING = ("ours", "top10")
SCORES = ("cs_1", "cs_2", "cs_1_k4", "cs_2_k4", "jaccard", "do", "j_random", "j_null", "j_ceil", "j_star", "size",
          "spearman", "cosine", "gap")  # fmt: skip
COLUMNS = ["fact", "relation", "language", "method", "mode", "set", "part", "k", *SCORES, "ceil_by", "retested"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """By mode: `queries` and their attributions `found`; by (mode, set): `sets`, of each query; by (mode, set, part): `null`
    by fact and `ceiling` by relation (`j_ceil`, `ceil_by`, `retested`)."""

    queries: dict[str, pd.DataFrame]
    found: dict[str, Attributions]
    sets: dict[tuple[str, str], list[np.ndarray]]
    null: dict[tuple[str, str, str], pd.Series]
    ceiling: dict[tuple[str, str, str], pd.DataFrame]


def prepare(study: Study, options: dict, inputs: dict) -> Prepared:
    """Attributions in both modes, neuron sets, null and ceiling; resumable by the store of attributions."""
    order = _order(study, options["seed"])
    queries = {"ours": study.queries, "paper": study.of(_first(order, options["paper_facts"]))}
    numbers = {"ours": options["retest_facts"], "paper": options["paper_retests"]}
    again = {mode: study.of(_first(order, number)) for mode, number in numbers.items()}
    edited, rounded = (
        null_edits(study.model, pd.concat(again.values()).drop_duplicates("query")),
        rounded_weights(study.model),
    )
    found, sets, null, ceiling = {}, {}, {}, {}
    for mode, asked in queries.items():
        method = options["method"]
        found[mode] = located(study, method, mode, queries=asked)
        asked_again = again[mode].loc[again[mode].index.isin(asked.index)]
        retests = {
            "points": (asked_again, {"finer": True}),
            "weights": (asked_again, {"model": rounded}),
            "edit": (edited.loc[edited.index.isin(asked_again.index)], {}),
        }
        repeated = {
            name: (own, located(study, method, mode, queries=own, **how))
            for name, (own, how) in retests.items() if len(own)
        }  # fmt: skip
        for name in SETS:
            sets[mode, name] = make_sets(found[mode], name, options["t"])
            new = {by: (own, make_sets(result, name, options["t"])) for by, (own, result) in repeated.items()}
            for part in parts_of(mode, name):
                key = (mode, name, part)
                null[key] = null_overlap(*_of_part(asked, sets[mode, name], part))
                ceiling[key] = _ceiling(asked, sets[mode, name], new, part)
    return Prepared(queries, found, sets, null, ceiling)


def make_sets(found: Attributions, name: str, t: float) -> list[np.ndarray]:
    """The neuron set of every query as flat indices, by a name of `SETS`."""
    size = SETS[name]
    return threshold_sets(found.scores.values, t) if size is None else top_sets(found.scores.values, size)


def parts_of(mode: str, name: str) -> tuple[str, ...]:
    return ("all", "A", "B") if (mode, name) == LABELLING else ("all",)


def rows(study: Study, options: dict, prepared: Prepared, facts: list[str]) -> pd.DataFrame:
    """One row per fact, mode, set and part: `COLUMNS`.

    `k`: queries; `cs_1` ... `size`: see `overlap_scores`; `cs_1_k4`, `cs_2_k4`: at a fixed number of queries; `j_random`: overlap
    of random neurons of the same layers; `j_null`, `j_ceil`, `j_star`: the two ends and J between them (`ceil_by`: the retest
    with the least overlap, of `retested` facts of the relation); `spearman`, `cosine`: of whole attribution vectors;
    `gap`: the largest completeness gap of the queries.
    """
    found = []
    for mode, queries in prepared.queries.items():
        places = pd.Series(np.arange(len(queries)), index=queries.index)
        for fact in facts:
            asked = queries[queries["fact"] == fact]
            own = {"all": asked} | {part: asked[asked["part"] == part] for part in parts_of(*LABELLING)[1:]}
            at = {part: places[queries.index].to_numpy() for part, queries in own.items()}
            alike = {part: _similarities(prepared.found[mode], i) for part, i in at.items() if len(i)}
            for name in SETS if len(asked) else ():
                for part in parts_of(mode, name):
                    row = _row(options, prepared, (mode, name, part), own[part], at[part])
                    found.append(row | alike[part])
    return pd.DataFrame(found, columns=COLUMNS)


def _row(options: dict, prepared: Prepared, key: tuple[str, str, str], queries: pd.DataFrame, at: np.ndarray) -> dict:
    mode, name, part = key
    fact, relation, language = queries.iloc[0][["fact", "relation", "language"]]
    sets = [prepared.sets[mode, name][i] for i in at]
    scores = overlap_scores(sets)
    few = fixed_k(sets, options["fixed_k"], generator(options["seed"], fact, "subsets"))
    neurons = prepared.found[mode].scores.shape[2]
    random = random_like(sets, neurons, generator(options["seed"], fact, mode, name, part, "random"))
    ceiling = prepared.ceiling[key].loc[relation].to_dict()
    null = prepared.null[key][fact]
    return {
        "fact": fact, "relation": relation, "language": language, "method": options["method"], "mode": mode, "set": name,
        "part": part, "k": len(sets), **scores, "cs_1_k4": few["cs_1"], "cs_2_k4": few["cs_2"],
        "j_random": overlap_scores(random)["jaccard"], "j_null": null, **ceiling,
        "j_star": float(j_star(scores["jaccard"], null, ceiling["j_ceil"])),
    }  # fmt: skip


def _similarities(found: Attributions, at: np.ndarray) -> dict:
    """What does not depend on a set: of some queries' vectors, and their largest completeness gap."""
    alike = pair_similarities(found.scores.values[at].reshape(len(at), -1))
    return alike | {"gap": float(found.completeness_gap.values[at].max())}


def _order(study: Study, seed: int) -> pd.DataFrame:
    """The facts of the study in an order by seed, with their relations."""
    facts = study.queries[["fact", "relation"]].drop_duplicates()
    draw = [generator(seed, fact, "consistency").random() for fact in facts["fact"]]
    return facts.assign(draw=draw).sort_values("draw")


def _first(order: pd.DataFrame, number: int) -> list[str]:
    return order.groupby("relation", sort=False).head(number)["fact"].tolist()


def _of_part(queries: pd.DataFrame, sets: list, part: str) -> tuple[pd.DataFrame, list]:
    if part == "all":
        return queries, sets
    kept = (queries["part"] == part).to_numpy()
    return queries[kept], [s for s, keep in zip(sets, kept, strict=True) if keep]


def _ceiling(queries: pd.DataFrame, sets: list, repeated: dict, part: str) -> pd.DataFrame:
    """The least overlap that a relation's retests reach, and which retest it was."""
    place = pd.Series(np.arange(len(queries)), index=queries.index)
    overlaps, asked = {}, {}
    for name, (own, again) in repeated.items():
        own, again = _of_part(own, again, part)
        first = [sets[i] for i in place[own.index]]
        overlaps[name] = retest_overlap(own, first, again)
        asked[name] = own.groupby("relation")["fact"].nunique()
    table = pd.DataFrame(overlaps).reindex(queries["relation"].unique())
    retested = pd.DataFrame(asked).reindex(table.index).max(axis=1).fillna(0).astype(int)
    known = table.notna().any(axis=1)
    least = table[known].idxmin(axis=1).reindex(table.index)
    return pd.DataFrame({"j_ceil": table.min(axis=1), "ceil_by": least, "retested": retested})


def labels(result: Result) -> pd.Series:
    """`consistent` or `inconsistent` by fact, from part A's J* (mode `ours`, `top10`) at .5; undefined J* is left out.

    Example
    -------
    >>> labels(load_result(CELLS["A1"], options, model)).value_counts()
    """
    return _labels(result.rows, "A")


def _labels(table: pd.DataFrame, part: str) -> pd.Series:
    return label_facts(_select(table, *LABELLING, part).set_index("fact")["j_star"])


def _select(table: pd.DataFrame, mode: str, name: str, part: str) -> pd.DataFrame:
    return table[(table["mode"] == mode) & (table["set"] == name) & (table["part"] == part)]


def summary(study: Study, options: dict, rows: pd.DataFrame) -> dict:
    """Estimates with intervals (relations are drawn, then facts): by mode and set, labels, and the test that is circular.

    `groups`: means of the scores; `inconsistent`: the share below .3 of CS_2 at fixed k; `sweep`: the share by threshold; `otsu`
    with its check for two modes; `below_ceiling`: J_ceil - J; counts of undefined scores. `labels`: counts, `kappa` of the
    labels from parts A and B. `welch`: CS_2 of part B split by the labels from part A.
    """
    groups = []
    for (mode, name), table in rows[rows["part"] == "all"].groupby(["mode", "set"], sort=False):
        groups.append({"mode": mode, "set": name} | _group(table, options["seed"]))
    one, other = _labels(rows, "A"), _labels(rows, "B")
    test = _select(rows, *LABELLING, "B").set_index("fact")
    labelled = test.loc[test.index.isin(one.index)]
    return {
        "groups": groups,
        "labels": {name: int((one == name).sum()) for name in LABELS}
        | {
            "undefined": int(_select(rows, *LABELLING, "A")["j_star"].isna().sum()),
            "kappa": _number(kappa(one, other)),
        },
        "welch": _plain(welch(labelled["cs_2"], one[labelled.index])),
    }


def _group(table: pd.DataFrame, seed: int) -> dict:
    draws = Draws(dict(zip(table["fact"], table["relation"], strict=True)), seed=seed)

    def mean(values) -> dict:
        return draws.mean(values, table["fact"])

    threshold, defined = otsu(table["cs_2"]), table["cs_2"].notna().sum()
    modes = bimodality(table["cs_2"], seed=seed) if defined >= 4 else None
    cs_2 = table["cs_2"]
    return {
        "facts": len(table), "relations": int(table["relation"].nunique()),
        "undefined": {c: int(table[c].isna().sum()) for c in ("cs_2", "j_null", "j_ceil", "j_star")},
        **{c: mean(table[c]) for c in SCORES},
        "inconsistent": mean(inconsistent(table["cs_2_k4"], STATIC)),
        "below_ceiling": mean(table["j_ceil"] - table["jaccard"]),
        "above_null": mean(table["jaccard"] - table["j_null"]),
        "sweep": [{"threshold": t} | mean(inconsistent(cs_2, t)) for t in SWEEP],
        "otsu": None if threshold is None else {
            "threshold": threshold, "bimodal": bool(modes and modes.bimodal), "bic_gain": modes.gain if modes else None,
        } | mean(inconsistent(cs_2, threshold)),
        "ceil_by": table.drop_duplicates("relation")["ceil_by"].value_counts().to_dict(),
    }  # fmt: skip


def _plain(found) -> dict:
    return {name: _number(value) for name, value in vars(found).items()}


def _number(value):
    """For JSON, which has no NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value
