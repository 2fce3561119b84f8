"""Three plain averages: over all queries, the worst language's, and one that subtracts the spread."""

import numpy as np

from .registry import Evidence, Verdict, register


@register("mean", reach=("t",))
def mean(fact: Evidence, *, t: float = 0.2) -> Verdict:
    """Neurons whose mean over all queries is at least t: one language with a large score can carry a neuron.

    Example
    -------
    >>> localize("mean", attributions, queries, t=0.3)
    """
    by_language = fact.means(fact.scores)
    score = np.average(fact.scores, axis=0, weights=fact.multiplicity)
    return Verdict(score, score >= t, by_language, by_language >= t, fact.scores >= t)


@register("min_lang", reach=("t",))
def min_lang(fact: Evidence, *, t: float = 0.05) -> Verdict:
    """Neurons whose mean is at least t in every language: simple, and hard to beat where t is chosen well.

    Example
    -------
    >>> localize("min_lang", attributions, queries, t=0.1)
    """
    by_language = fact.means(fact.scores)
    score = by_language.min(0)
    return Verdict(score, score >= t, by_language, by_language >= t, fact.scores >= t)


@register("cas", reach=("t",))
def cas(fact: Evidence, *, t: float = 0.2, b: float = 0.5) -> Verdict:
    """Neurons whose mean minus b standard deviations, over all queries, is at least t.

    A consistency-aware score; it is known to have two weights, for mean and spread, but not their values. Only their
    ratio b matters beside t. The standard deviation is the population's (0 for one query).

    Example
    -------
    >>> localize("cas", attributions, queries, b=1.0)
    """
    by_language = fact.means(fact.scores)
    spread = np.sqrt(fact.means((fact.scores - by_language[fact.language]) ** 2))
    mean = np.average(fact.scores, axis=0, weights=fact.multiplicity)
    score = mean - b * np.sqrt(np.average((fact.scores - mean) ** 2, axis=0, weights=fact.multiplicity))
    language_score = by_language - b * spread
    return Verdict(score, score >= t, language_score, language_score >= t, fact.scores >= t)
