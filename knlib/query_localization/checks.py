"""Checks that critics of knowledge neurons ask for (spec, section 7), on a study small enough to run in a notebook."""

import numpy as np
import pandas as pd

from ..errors import InputError, Literal
from ..statistics import mean
from .mapping import answer_changes, tested_queries, top_neurons
from .measure import Change, asked, measure
from .scores import overlap_scores, top_sets
from .study import Study


def layers_suppressed(study: Study, scores: np.ndarray, *, size: int = 10, seed: int = 0) -> pd.DataFrame:
    """What the best `size` neurons of every layer are worth, one held-out query per fact: `fact`, `layer`, `score`, `d_log_p`.

    `scores` [queries, layers, neurons]: attributions of the study's queries. Neurons are chosen and scored (sum over them) by the
    mean of part A's queries; `d_log_p`: change of log P(answer) when they are suppressed in a query of part B.

    Example
    -------
    >>> explained(layers_suppressed(study, found.scores.values))
    """
    rows = []
    for query, part_a in _tested(study, scores, seed):
        own = part_a.mean(0)
        chosen = [np.argsort(-layer, kind="stable")[:size] for layer in own]
        changes = [
            Change(neurons=tuple((i, int(n)) for n in sorted(best)), factor=0.0) for i, best in enumerate(chosen)
        ]
        found = answer_changes(measure(study.model, asked(study.model, query), [Change(), *changes]))["d_log_p"]
        rows += [(query.fact, i, float(own[i][best].sum()), float(found[i])) for i, best in enumerate(chosen)]
    return pd.DataFrame(rows, columns=["fact", "layer", "score", "d_log_p"])


def explained(table: pd.DataFrame) -> dict[str, float]:
    """How much of `d_log_p` (of `layers_suppressed`) linear models explain, R^2: by `layer` alone, by `layer and score`, by `score`.

    Localization that says where to edit adds to the layer (Hase et al. 2023, arXiv 2301.04213).

    Example
    -------
    >>> explained(table)["layer and score"] - explained(table)["layer"]
    """
    layer, score = pd.get_dummies(table["layer"], dtype=float).to_numpy(), table[["score"]].to_numpy()
    one = np.ones((len(table), 1))
    models = {"layer": layer, "layer and score": np.hstack([layer, score]), "score": np.hstack([one, score])}
    return {name: _r_squared(design, table["d_log_p"].to_numpy()) for name, design in models.items()}


def _r_squared(design: np.ndarray, values: np.ndarray) -> float:
    if np.ptp(values) == 0:
        raise InputError("d_log_p", found=Literal("one and the same value"), expected="different ones to explain")
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(1 - rest.var() / values.var())


def redundancy(study: Study, scores: np.ndarray, *, size: int = 10, seed: int = 0) -> pd.DataFrame:
    """Change of log P(answer) when a query's best `size` neurons, its next `size`, or both are suppressed; intervals over facts.

    Rows `first`, `second`, `both`, `both less the sum`; columns `estimate`, `low`, `high`. Below 0 in the last row, each set stood in
    for the other: sets that store one fact twice (Chen et al. 2024, arXiv 2402.13731), a rival reading of phrasings whose best
    neurons differ.

    Example
    -------
    >>> redundancy(study, found.scores.values).round(2)
    """
    rows, facts, places = [], [], dict(zip(study.queries.index, range(len(study.queries)), strict=True))
    for query, _ in _tested(study, scores, seed):
        own = scores[places[query.Index]]
        both = top_neurons(own, 2 * size)
        first = top_neurons(own, size)
        second = tuple(pair for pair in both if pair not in set(first))
        changes = [Change(), *(Change(neurons=pairs, factor=0.0) for pairs in (first, second, both))]
        found = answer_changes(measure(study.model, asked(study.model, query), changes))["d_log_p"]
        rows.append([*found, found[2] - found[0] - found[1]])
        facts.append(query.fact)
    names = ["first", "second", "both", "both less the sum"]
    found = {name: mean(values, facts) for name, values in zip(names, np.transpose(rows), strict=True)}
    table = {name: {key: getattr(i, key) for key in ("estimate", "low", "high")} for name, i in found.items()}
    return pd.DataFrame.from_dict(table, orient="index")


def without_relation_neurons(study: Study, scores: np.ndarray, *, size: int = 10, share: float = 0.5) -> pd.DataFrame:
    """Overlap of a fact's phrasings before and after neurons of the relation are left out, by relation.

    A relation's neurons (arXiv 2502.17355): among the best `size` of a query in more than `share` of its facts. Columns: `dropped`
    neurons, `jaccard` and `jaccard_without`, the mean overlap of a fact's queries, and the same of `other` facts under as many
    templates: what is left there is not the relation's.

    Example
    -------
    >>> without_relation_neurons(study, found.scores.values).round(2)
    """
    table, rows = study.queries.assign(place=np.arange(len(study.queries))), {}
    for relation, own in table.groupby("relation", sort=False):
        before = scores[own["place"]]
        sets = top_sets(before, size)
        by_fact = [
            set().union(*(set(sets[i]) for i in np.flatnonzero(own["fact"] == fact))) for fact in own["fact"].unique()
        ]
        counts = pd.Series([neuron for found in by_fact for neuron in found]).value_counts()
        dropped = counts.index[counts > share * len(by_fact)].to_numpy(int)
        after = before.copy()
        after.reshape(len(after), -1)[:, dropped] = -np.inf
        rest = top_sets(after, size)
        rows[relation] = {"dropped": len(dropped), "jaccard": _within(own, sets), "jaccard_without": _within(own, rest),
                          "other": _between(own, sets), "other_without": _between(own, rest)}  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def _within(own: pd.DataFrame, sets: list) -> float:
    groups = [np.flatnonzero(own["fact"] == fact) for fact in own["fact"].unique()]
    return float(np.mean([overlap_scores([sets[i] for i in group])["jaccard"] for group in groups]))


def _between(own: pd.DataFrame, sets: list) -> float:
    """Of queries that each have another fact and another template: fact i + t under template t."""
    facts, templates = list(own["fact"].unique()), list(own["template"].unique())
    place = {key: i for i, key in enumerate(zip(own["fact"], own["template"], strict=True))}
    used = min(len(facts), len(templates))
    groups = [[sets[place[facts[(i + t) % len(facts)], templates[t]]] for t in range(used)] for i in range(len(facts))]
    return float(np.mean([overlap_scores(group)["jaccard"] for group in groups])) if used > 1 else float("nan")


def _tested(study: Study, scores: np.ndarray, seed: int):
    """One query of part B of every fact, and the scores of its fact's queries of part A."""
    if len(scores) != len(study.queries):
        raise InputError(
            "scores", found=Literal(f"{len(scores)} queries"), expected=f"the {len(study.queries)} of the study"
        )
    for query in tested_queries(study, 1, seed).itertuples():
        near = (study.queries["fact"] == query.fact) & (study.queries["part"] == "A")
        yield query, scores[near.to_numpy()]


CHECKS = pd.DataFrame(
    [("X1", "Niu et al. 2024, arXiv 2405.02421", "such scores find syntax too; edits rarely flip the answer",
      "flips beside changes of log P: whose neurons; syntactic pairs: not asked, Atlas has none"),
     ("X2", "Hase et al. 2023, arXiv 2301.04213", "localization does not say where to edit", "below"),
     ("X3", "Wang & Veitch 2025, arXiv 2502.11447", "random places edit as well", "`random` and `control` in every edit"),
     ("X4", "Chen et al. 2024, arXiv 2402.13731", "redundant sets store one fact", "below"),
     ("X5", "arXiv 2502.17355", "relations have neurons of their own", "below, and the strategy `cas_minus_relation`"),
     ("X6", "Yao et al. 2024, arXiv 2405.17969", "circuits found by patching", "not run: it needs another method"),
     ("X7", "MATRICE, arXiv 2411.17401", "selection has an uncertainty; languages beside phrasings", "notebooks 02 and 03")],
    columns=["check", "who", "claim", "where"],
).set_index("check")  # fmt: skip
