"""Knowledge neurons by votes of the queries (Dai et al. 2022, arXiv 2104.08696), intersected over languages."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .registry import Evidence, Verdict, register

# Refinement: the share p moves by this much, at most this often, until the mean number of neurons is in this range.
STEP, MOVES, AIM = 0.05, 6, (2, 5)
# 0.7 * 10 is not 7 in binary.
ROUNDING = 1e-9


def refine_share(facts: Sequence[Evidence], *, refine: bool = False, **options) -> dict:
    """Move p, for a relation and each language apart, until its facts have 2 to 5 neurons on average (Dai et al.'s code).

    Returns the options of `kn_share`, with p as a dict by language if `refine`.
    """
    if not refine:
        return options
    p = {code: fact.option("p", options["p"])[k, 0] for fact in facts for k, code in enumerate(fact.languages)}
    moves = 0
    while moves < MOVES:
        sizes: dict[str, list[int]] = {code: [] for code in p}
        for fact in facts:
            counts = kn_share(fact, **options | {"p": p}).language_found.sum(1)
            for code, count in zip(fact.languages, counts, strict=True):
                sizes[code].append(int(count))
        mean = {code: np.mean(counts) for code, counts in sizes.items()}
        step = {code: STEP * (int(size > AIM[1]) - int(size < AIM[0])) for code, size in mean.items()}
        if not any(step.values()):
            break
        p = {code: min(max(p[code] + step[code], STEP), 1.0) for code in p}
        moves += 1
    return options | {"p": p}


@register("kn_share", tune=refine_share, reach=("t",))
def kn_share(
    fact: Evidence,
    *,
    t: float | dict[str, float] = 0.2,
    p: float | dict[str, float] = 0.7,
    floor: int = 3,
    strict_floor: bool = False,
) -> Verdict:
    """Neurons that reach t in at least a share p of a language's queries; over all languages those found in each.

    At least `floor` of n queries must agree, or all of them where n is smaller: a strict floor of 3, as in Dai et al.'s
    code, finds nothing in a language with two queries. `refine=True` moves p for each relation and language until
    its facts have 2 to 5 neurons on average. `score`: the share of a language's queries that reach t, the
    smallest of these over all languages.

    Example
    -------
    >>> dai = {"refine": True, "strict_floor": True, "min_gold_prob": 0, "max_entropy": 1, "drop_generic": False}
    >>> localize("kn_share", attributions, queries, **dai)  # as Dai et al.'s code, every query counts
    """
    threshold = fact.option("t", t)
    reached = fact.scores >= threshold[fact.language]
    n = fact.counts()[:, None]
    share = fact.means(reached.astype(float))
    least = np.full_like(n, floor) if strict_floor else np.minimum(floor, n)
    needed = np.maximum(np.maximum(fact.option("p", p) * n, least), 1)
    found = share * n >= needed - ROUNDING
    return Verdict(share.min(0), found.all(0), share, found, reached)


def relation_neurons(table: pd.DataFrame, *, share: float = 0.1) -> pd.DataFrame:
    """The neurons found for at least this share of a relation's facts, most frequent first.

    `table`: a neuron table made with `drop_generic=False`. Facts without any neuron are not in it and do not count.
    Returns the columns `relation`, `scope`, `layer`, `neuron`, `facts` (how many), `share`.

    Example
    -------
    >>> relation_neurons(localize("kn_share", attributions, queries, drop_generic=False))
    """
    keys = ["relation", "scope"]
    found = table.groupby([*keys, "layer", "neuron"], as_index=False).agg(facts=("fact", "nunique"))
    total = table.groupby(keys)["fact"].nunique()
    found["share"] = found["facts"] / total.loc[pd.MultiIndex.from_frame(found[keys])].to_numpy()
    found = found[found["share"] >= share - ROUNDING]
    return found.sort_values([*keys, "facts", "layer", "neuron"], ascending=[True, True, False, True, True],
                             ignore_index=True)  # fmt: skip
