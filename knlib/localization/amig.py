"""Neurons of one language, and those that languages share, by intersection."""

import numpy as np

from .registry import Evidence, Verdict, register


@register("amig", reach=("t",))
def amig(fact: Evidence, *, t: float | dict[str, float] = 0.2) -> Verdict:
    """Neurons above t in any query of a language; over all languages those found in each.

    Language-independent knowledge neurons (Chen et al. 2024, arXiv 2308.13198), whose attributions start from
    `attribute(..., baseline="mask_words")` and whose intersection is of two languages: `min_languages=2` allows that.
    The published code's thresholds are t = {"en": 0.3, "zh": 0.2}. `score`: the largest scaled score of a
    language's queries, the smallest of these over all languages.

    Example
    -------
    >>> localize("amig", attributions, queries, t={"en": 0.3, "zh": 0.2}, min_languages=2)
    """
    threshold = fact.option("t", t)
    best = fact.per_language(np.max)
    found = best > threshold
    return Verdict(best.min(0), found.all(0), best, found, fact.scores > threshold[fact.language])
