"""Whose neurons does a query need: its own, its neighbours', or those they share? (spec, section 3; the C cells)"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..controls import Pairs, activation_matched, generator
from ..errors import InputError, Literal
from ..models import Model
from ..sites import neuron_vectors
from . import consistency
from .intervals import Draws
from .located import located
from .measure import Asked, Change, Measured, asked, measure
from .split import LABELS
from .study import Study

DEFAULTS = {"size": 10, "queries": 2, "share": 0.5, "seed": 0}
SETS = ("self", "neighbour_one", "neighbour_union", "intersection", "refine", "other_fact", "random")
MEASURES = ("d_log_p", "d_log_odds", "flip")
DECIMALS = 5


def mapped_sets(own: np.ndarray, neighbours: np.ndarray, *, size: int, share: float, one: int) -> dict[str, Pairs]:
    """Five sets of exactly `size` neurons: those with the largest value of a score over queries.

    `own` [layers, neurons] and `neighbours` [queries, layers, neurons]: attributions. A query's scores are divided by its
    largest, s; then `self`: s of the query; `neighbour_one`: s of neighbour number `one`; over all neighbours
    `neighbour_union`: the largest s, `intersection`: the smallest, `refine`: the r-th largest, r = floor(share * neighbours) + 1.
    Equal sizes: intersections are small, and would act less for that alone.

    Raises `InputError` for no neighbour, a share outside (0, 1], a size beyond the neurons, a query without a positive score.

    Example
    -------
    >>> sets = mapped_sets(scores[4], scores[:4], size=10, share=0.5, one=2)
    >>> len(sets["intersection"])
    10
    """
    if not len(neighbours) or not 0 < share <= 1 or not 0 < size <= own.size:
        raise InputError("neighbours, share, size", found=(len(neighbours), share, size),
                         expected=f"at least 1, a share up to 1, at most {own.size} neurons")  # fmt: skip
    largest = np.array([own.max(), *neighbours.max((1, 2))])
    if (largest <= 0).any():
        raise InputError("scores", found=Literal("a query without a positive score"), expected="one at least")
    own, others = own / largest[0], neighbours / largest[1:, None, None]
    rank = min(int(share * len(others)) + 1, len(others))
    return {
        "self": top_neurons(own, size), "neighbour_one": top_neurons(others[one], size),
        "neighbour_union": top_neurons(others.max(0), size), "intersection": top_neurons(others.min(0), size),
        "refine": top_neurons(np.sort(others, 0)[-rank], size),
    }  # fmt: skip


def top_neurons(scores: np.ndarray, size: int) -> Pairs:
    """The `size` neurons with the largest scores [layers, neurons], sorted; the earlier of equal ones."""
    order = np.argsort(-scores, axis=None, kind="stable")[:size]
    return tuple(sorted((int(n) // scores.shape[1], int(n) % scores.shape[1]) for n in order))


def tested_queries(study: Study, each: int, seed: int) -> pd.DataFrame:
    """`each` queries of part B of every fact, drawn by seed and fact, with the index that they have in `study.queries`."""
    part = study.queries[study.queries["part"] == "B"]
    kept = []
    for fact, rows in part.groupby("fact", sort=False):
        kept += rows.index[generator(seed, fact, "tested").permutation(len(rows))[:each]].tolist()
    return part.loc[sorted(kept)]


def site_activations(model: Model, query: Asked) -> np.ndarray:
    """Mean |neuron| over the sites of a query, [layers, neurons]."""
    rows, columns = [tuple(query.rows[r]) for r, _, _ in query.sites], [column for _, column, _ in query.sites]
    return neuron_vectors(model, rows, columns).abs().mean(0).cpu().numpy()


def answer_changes(seen: Measured) -> dict[str, np.ndarray]:
    """What changes do to an answer, relative to the first one, for all others.

    `d_log_p` and `d_log_odds` (natural logarithms), and `flip`: all tokens of the answer were the likeliest before, one is no
    more (1 or 0).
    """
    log_p, odds, top = seen.log_p, seen.answer_log_odds, seen.top
    flip = top[0].all() & ~top[1:].all(1)
    return {"d_log_p": log_p[1:] - log_p[0], "d_log_odds": odds[1:] - odds[0], "flip": flip.astype(int)}


def consistent_code(labels: pd.Series, fact: str) -> int | None:
    """A fact's label as rows hold it: 1 consistent, 0 inconsistent, None without a label."""
    return LABELS.index(labels[fact]) ^ 1 if fact in labels else None


def by_label(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {name: rows[rows["consistent"] == 1 - number] for number, name in enumerate(LABELS)}


@dataclass(frozen=True, eq=False)
class Prepared:
    """`scores` [query, layer, neuron] of all queries of the study; `labels`: fact -> consistent or inconsistent."""

    scores: np.ndarray
    labels: pd.Series
    tested: pd.DataFrame


def prepare(study: Study, options: dict, inputs: dict) -> Prepared:
    """What all chunks need: attributions, labels of the `ig` cell (the only input), the queries that are tested."""
    (result,) = inputs.values()
    tested = tested_queries(study, options["queries"], options["seed"])
    return Prepared(located(study, "ig").scores.values, consistency.labels(result), tested)


def rows(study: Study, options: dict, prepared: Prepared, facts: list[str]) -> pd.DataFrame:
    """One row per tested query and set: `fact`, `query` (its number in the study), `consistent` (1, 0, or nothing where the fact
    has no label), `set`, and what `answer_changes` gives with the set's neurons times `factor` at the query's sites."""
    found = []
    own = prepared.tested[prepared.tested["fact"].isin(facts)]
    for index, query in zip(own.index, own.itertuples(), strict=True):
        sets = _sets(study, options, prepared, index, query)
        changes = [Change(), *(Change(neurons=pairs, factor=options["factor"]) for pairs in sets.values())]
        effects = answer_changes(measure(study.model, asked(study.model, query), changes))
        head = {"fact": query.fact, "query": index, "consistent": consistent_code(prepared.labels, query.fact)}
        found += [head | {"set": name} | {m: effects[m][i] for m in MEASURES} for i, name in enumerate(sets)]
    table = pd.DataFrame(found, columns=["fact", "query", "consistent", "set", *MEASURES])
    table["consistent"] = table["consistent"].astype("Int64")
    return table.assign(**{m: table[m].astype(float).round(DECIMALS) + 0.0 for m in MEASURES[:2]})


def _sets(study: Study, options: dict, prepared: Prepared, index: int, query) -> dict[str, Pairs]:
    table, size, seed = study.queries, options["size"], options["seed"]
    near = table.index[(table["fact"] == query.fact) & (table["part"] == "A")]
    one = int(generator(seed, query.query, "neighbour_one").integers(len(near)))
    sets = mapped_sets(prepared.scores[index], prepared.scores[near], size=size, share=options["share"], one=one)
    strangers = table.index[
        (table["template"] == query.template) & (table["fact"] != query.fact) & (table["answer"] != query.answer)
    ]
    if len(strangers):
        other = strangers[int(generator(seed, query.query, "other_fact").integers(len(strangers)))]
        sets["other_fact"] = top_neurons(prepared.scores[other], size)
    activations = site_activations(study.model, asked(study.model, query))
    sets["random"] = activation_matched(sets["self"], activations, generator(seed, query.query, "random"))
    return sets


def summary(study: Study, options: dict, rows: pd.DataFrame) -> dict:
    """Means with intervals by label and set, and the median of `d_prob` = (P after - P before) / P before; `self` less each other
    set, paired, in d log p; and by how much these differences differ between inconsistent and consistent facts (`interaction`;
    H3 reads `self_less` of inconsistent facts and `interaction`, both at `neighbour_union`)."""
    draws = Draws(dict(zip(study.queries["fact"], study.queries["relation"], strict=True)), seed=options["seed"])
    effects, differences, gaps = {}, {}, {}
    for label, part in {"all": rows, **by_label(rows)}.items():
        effects[label], differences[label] = {}, {}
        for name, own in part.groupby("set", sort=False):
            effects[label][name] = {m: draws.mean(own[m], own["fact"]) for m in MEASURES}
            effects[label][name]["d_prob"] = draws.median(np.expm1(own["d_log_p"]), own["fact"])
        wide = part.pivot_table(index=["fact", "query"], columns="set", values="d_log_p")
        for name in SETS[1:]:
            if name in wide and "self" in wide:
                gap = (wide["self"] - wide[name]).dropna()
                gaps[label, name] = gap.to_numpy(), gap.index.get_level_values("fact")
                differences[label][name] = draws.mean(*gaps[label, name])
    interaction = {
        name: draws.difference(gaps["inconsistent", name], gaps["consistent", name])
        for name in SETS[1:] if all((label, name) in gaps for label in LABELS)
    }  # fmt: skip
    return {
        "facts": int(rows["fact"].nunique()), "queries": int(rows["query"].nunique()),
        "facts_by_label": {label: int(part["fact"].nunique()) for label, part in by_label(rows).items()},
        "effects": effects, "self_less": differences, "interaction": interaction,
    }  # fmt: skip
