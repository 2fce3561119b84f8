"""What notebook 04 computes while it runs: a few facts under every experiment, and what the stored results do not hold."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from ..attribution import Attributions
from ..controls import generator
from ..errors import InputError, Literal
from ..models import Model
from ..statistics import mean
from .measure import asked
from .retest import random_like
from .scores import overlap_scores, subsets
from .study import Study, load_study

SCORES = ("cs_1", "cs_2", "jaccard")


def few_facts(
    model: Model, facts: pd.DataFrame, templates: pd.DataFrame, relations: Sequence[str], *, each: int, seed: int = 0
) -> Study:
    """The study on `each` known facts of some relations alone; relations without a known fact have none.

    Raises `InputError` where the benchmark has none of these relations, and where no fact is known.

    Example
    -------
    >>> few_facts(load_model("atlas-gpt2"), *load_atlas(languages=("en",)), ["capital"], each=8).names
    """
    own = [table[table["relation"].isin(relations)] for table in (facts, templates)]
    if not len(own[0]):
        raise InputError("relations", found=list(relations), expected="relations of the facts")
    return load_study(model, *own, facts_each=each, seed=seed)


def extremes(rows: pd.DataFrame, score: str = "jaccard") -> list[str]:
    """The facts with the highest and the lowest score among the rows of a consistency cell (mode `ours`, `top10`, all queries)."""
    own = rows[(rows["mode"] == "ours") & (rows["set"] == "top10") & (rows["part"] == "all")].dropna(subset=[score])
    if len(own) < 2:
        raise InputError("rows", found=Literal(f"{len(own)} facts with a score"), expected="at least two")
    order = own.sort_values(score, kind="stable")["fact"]
    return [order.iloc[-1], order.iloc[0]]


def binned(scores: np.ndarray, members: Sequence[int], *, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A query's scores [layers, neurons] as the largest of every `width` neighbouring neurons over the largest of all, and which
    bins hold one of `members` (flat indices).

    Example
    -------
    >>> values, dots = binned(scores, top_sets(scores[None], 10)[0])
    """
    layers, neurons = scores.shape
    bins = -(-neurons // width)
    padded = np.full((layers, bins * width), -np.inf)
    padded[:, :neurons] = scores
    dots = np.zeros((layers, bins), bool)
    members = np.asarray(members, int)
    dots[members // neurons, members % neurons // width] = True
    return np.maximum(padded.reshape(layers, bins, width).max(2) / scores.max(), 0), dots


def by_number(queries: pd.DataFrame, sets: Sequence[np.ndarray], neurons: int, *, seed: int = 0) -> pd.DataFrame:
    """Overlap scores of k queries for every k: of `one fact`; of `other facts` of its relation, each query another fact with
    another template and object; of `random neurons`, as many in every layer. Columns `k`, `kind`, `score`, `estimate`, `low`, `high`.

    `queries`: of a study; `sets`: flat indices, in their order; `neurons`: in a layer. At most ten choices of k queries a fact; other
    facts as far as there are enough of them.

    Example
    -------
    >>> by_number(study.queries, top_sets(found.scores.values, 10), found.scores.shape[2]).query("k == 4")
    """
    table = queries.assign(place=np.arange(len(queries)))
    rows = []
    for fact, own in table.groupby("fact", sort=False):
        random = dict(zip(own["place"], random_like([sets[i] for i in own["place"]], neurons, generator(seed, fact)), strict=True))  # fmt: skip
        relation = table[table["relation"] == own["relation"].iloc[0]]
        for k in range(2, len(own) + 1):
            draw = generator(seed, fact, k)
            for chosen in subsets(len(own), k, draw):
                places = own["place"].iloc[list(chosen)]
                mixed = _others(relation, own.iloc[list(chosen)], draw)
                kinds = {"one fact": [sets[i] for i in places], "random neurons": [random[i] for i in places],
                         "other facts": [sets[i] for i in mixed]}  # fmt: skip
                for kind, some in kinds.items():
                    if some:
                        found = overlap_scores(some)
                        rows += [{"fact": fact, "k": k, "kind": kind, "score": s, "value": found[s]} for s in SCORES]
    means = pd.DataFrame(rows).groupby(["k", "kind", "score", "fact"])["value"].mean().dropna().reset_index()
    found = []
    for (k, kind, score), own in means.groupby(["k", "kind", "score"]):
        interval = mean(own["value"], own["fact"]) if len(own) > 1 else None
        ends = (interval.low, interval.high) if interval else (np.nan, np.nan)
        found.append(
            {"k": k, "kind": kind, "score": score, "estimate": own["value"].mean(), "low": ends[0], "high": ends[1]}
        )
    return pd.DataFrame(found)


def _others(relation: pd.DataFrame, own: pd.DataFrame, draw: np.random.Generator) -> list[int]:
    """Places of queries with the templates of `own`, the first of its fact, each other of another fact and object; none where there
    are not enough."""
    firsts = relation.drop_duplicates("answer")
    firsts = firsts[firsts["answer"] != own["answer"].iloc[0]]
    if len(firsts) < len(own) - 1:
        return []
    facts = [own["fact"].iloc[0], *firsts["fact"].iloc[draw.permutation(len(firsts))[: len(own) - 1]]]
    keyed = relation.set_index(["fact", "template"])["place"]
    return [int(keyed[key]) for key in zip(facts, own["template"], strict=True)]


def with_options(cell, **options):
    """The cell with other options, for a smaller run.

    Example
    -------
    >>> with_options(CELLS["A1"], retest_facts=1).options
    {'method': 'ig', 'retest_facts': 1}
    """
    return replace(cell, options=cell.options | options)


def gap_to_stored(live: pd.DataFrame, stored: pd.DataFrame, on: list[str], value: str) -> float:
    """The largest difference of a value between rows that were computed now and those stored for the same keys; NaN where no row
    is in both.

    Example
    -------
    >>> gap_to_stored(now.rows, results["C1"].rows, ["fact", "set"], "d_log_p")
    """
    both = [_numbered(table, on)[value] for table in (live, stored)]
    both = pd.concat(both, axis=1, join="inner", keys=["live", "stored"]).dropna()
    return float((both["live"] - both["stored"]).abs().max()) if len(both) else float("nan")


def _numbered(table: pd.DataFrame, on: list[str]) -> pd.DataFrame:
    """Indexed by the keys and the number of a row among those with equal keys."""
    return table.assign(_row=table.groupby(on, dropna=False).cumcount()).set_index([*on, "_row"])


def token_texts(model: Model, query) -> list[str]:
    """The text of every token of a query's first row, for axes."""
    return [model.tokenizer.decode([token]).strip() or "·" for token in asked(model, query).rows[0]]


def attributed(study: Study, found: Attributions, fact: str) -> tuple[pd.DataFrame, np.ndarray]:
    """A fact's queries and their scores, [queries, layers, neurons]."""
    own = study.of([fact])
    return own, found.scores.sel(query=own["query"].tolist()).values
