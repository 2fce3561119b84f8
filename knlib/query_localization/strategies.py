"""Which neurons an edit of a fact changes: by its own query, by all its queries, by consistency, by chance (spec, 5.3)."""

from dataclasses import dataclass

import numpy as np

from ..controls import Pairs, activation_matched, generator
from ..errors import InputError, Literal
from . import cas
from .scores import threshold_sets, top_sets

STRATEGIES = ("self", "union", "intersection", "refine", "top_mean", "cas_paper", "cas", "t_bound",
              "cas_minus_relation", "random")  # fmt: skip
THRESHOLD = 0.3  # share of a query's largest score above which a neuron is the query's
REFINE = 0.5


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a fact's sets are made of: its queries of part A alone.

    `scores` [queries, layers, neurons]: attributions over the query's largest (`relative`); `own`: number of the request among
    these queries; `activations` [queries, layers, neurons]: where the answer is predicted; `relation_total` [layers, neurons]
    and `relation_facts`: sum of the mean scores over all facts of the relation, and how many they are.
    """

    fact: str
    scores: np.ndarray
    own: int
    activations: np.ndarray
    relation_total: np.ndarray
    relation_facts: int


def relative(scores: np.ndarray) -> np.ndarray:
    """Scores [queries, layers, neurons] over the query's largest; 0 for a query without a positive one."""
    largest = scores.max((1, 2), keepdims=True)
    return np.where(largest > 0, scores / np.where(largest > 0, largest, 1), 0)


def typical_size(scores: np.ndarray, *, threshold: float = THRESHOLD) -> int:
    """Median number of neurons of a query above `threshold`, of relative scores [queries, layers, neurons]; at least 1.

    Example
    -------
    >>> typical_size(relative(found.scores.values))
    15
    """
    return max(1, round(float(np.median([len(members) for members in threshold_sets(scores, threshold)]))))


def strategy_scores(fitted: Fitted, strategy: str, *, ratio: float = cas.RATIO, p: float = REFINE) -> np.ndarray:
    """What a strategy ranks neurons by, [layers, neurons]: all but `random`, which ranks nothing.

    `self`: the request's scores; `union`, `intersection`: largest and smallest over queries; `refine`: the r-th largest with
    r = floor(p k) + 1 (above it in more than the share p of queries); `top_mean`: the mean; `cas_paper`: consistency-aware on
    activations as they are; `cas`: on scores, with b2 = `ratio` * b1; `t_bound`, `cas_minus_relation`: see `cas`.
    Raises `InputError` for other names.

    Example
    -------
    >>> strategy_scores(fitted, "refine").shape
    (8, 768)
    """
    s = fitted.scores
    if strategy == "refine":
        return np.sort(s, axis=0)[-(int(np.floor(p * len(s))) + 1)]
    rules = {
        "self": lambda: s[fitted.own], "union": lambda: s.max(0), "intersection": lambda: s.min(0),
        "top_mean": lambda: s.mean(0), "cas_paper": lambda: cas.weighted(fitted.activations),
        "cas": lambda: cas.weighted(s, b1=1.0, b2=ratio), "t_bound": lambda: cas.t_bound(s),
        "cas_minus_relation": lambda: cas.minus_relation(s, fitted.relation_total, fitted.relation_facts),
    }  # fmt: skip
    if strategy not in rules:
        raise InputError("strategy", found=strategy, expected=Literal("one of refine " + " ".join(rules)))
    return rules[strategy]()


def top(scores: np.ndarray, m: int) -> Pairs:
    """The m neurons of largest score, ties to the lower (layer, neuron); scores [layers, neurons]."""
    return _pairs(top_sets(scores[None], m)[0], scores.shape[1])


def above(scores: np.ndarray, share: float) -> Pairs:
    """The neurons above `share` of the largest score; none where no score is above 0."""
    return _pairs(threshold_sets(scores[None], share)[0], scores.shape[1])


def _pairs(flat: np.ndarray, neurons: int) -> Pairs:
    return tuple((int(i) // neurons, int(i) % neurons) for i in flat)


def chosen(fitted: Fitted, strategy: str, m: int, *, ratio: float = cas.RATIO, seed: int = 0) -> Pairs:
    """The m neurons of a strategy.

    `random`: for every neuron of `self` another one of its layer with a similar activation, drawn by seed, fact and m: a control
    that acts as much, at places that nothing speaks for.

    Example
    -------
    >>> len(chosen(fitted, "cas", 15))
    15
    """
    if strategy == "random":
        pairs = top(strategy_scores(fitted, "self"), m)
        return matched(fitted, pairs, seed, m)
    return top(strategy_scores(fitted, strategy, ratio=ratio), m)


def matched(fitted: Fitted, pairs: Pairs, seed: int, *names: object) -> Pairs:
    """As many other neurons of the same layers, of similar mean |activation| in part A, drawn by seed, fact and names."""
    return activation_matched(
        pairs, np.abs(fitted.activations).mean(0), generator(seed, fitted.fact, "matched", *names)
    )
