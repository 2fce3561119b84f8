"""Language-agnostic neurons by a lower confidence bound on the score in a language not seen.

The method of MATRICE's abstract (Cao et al., arXiv 2411.17401: uncertainty across queries and languages during
localization), with an estimator of this project: the paper's own is not public. With attributions of
`attribute(..., baseline="mask_words")` the two together are what this workbook calls MATRICE.
"""

import math

import numpy as np

from ..errors import InputError, Literal
from .random_effects import random_effects
from .registry import Evidence, Verdict, register

ABLATIONS = ("certainty", "query", "language")


@register("re_lcb", reach=("t", "t_language"))
def re_lcb(
    fact: Evidence,
    *,
    t: float = 0.1,
    t_language: float = 0.2,
    rho: float = 0.8,
    kappa: float = 1.0,
    k_max: int | None = 20,
    ablate: tuple[str, ...] = (),
) -> Verdict:
    """Neurons whose score, less what queries and languages leave open, is at least t.

    S = mu - kappa sqrt(tau2 + SE2): the lower end of what to expect in a new language (tau2, not tau2 / L). A
    neuron is language-agnostic if S >= t and its bound S_l = m_l - kappa sqrt(UQ_l) is positive in at least a share `rho`
    of the languages; the `k_max` largest S are kept. In one language: S_l >= `t_language`. `ablate`: leave out
    `certainty` (all queries weigh alike), `query` or `language` uncertainty; all three: the mean of language means.
    t, kappa and rho are this project's choices, not calibrated on any model.

    Example
    -------
    >>> localize("re_lcb", attributions, queries, t=0.15, ablate=("language",))
    """
    for name in ablate:
        if name not in ABLATIONS:
            raise InputError("ablate", found=name, expected=Literal("one of " + " ".join(ABLATIONS)))
    if kappa < 0:
        raise InputError("kappa", found=kappa, expected="0 or more: the bound is a lower one")
    certainty = np.ones_like(fact.certainty) if "certainty" in ablate else fact.certainty
    estimate = random_effects(fact.scores, fact.language, fact.multiplicity * certainty,
                              query_variance="query" not in ablate, language_variance="language" not in ablate)  # fmt: skip
    lower = estimate.m - kappa * np.sqrt(estimate.uq)
    score = estimate.mu - kappa * np.sqrt(estimate.tau2 + estimate.se2)
    positive = lower > 0
    found = (score >= t) & (positive.sum(0) >= math.ceil(rho * len(fact.languages) - 1e-9))
    if k_max is not None and found.sum() > k_max:
        order = np.argsort(-np.where(found, score, -np.inf), kind="stable")
        found = np.zeros_like(found)
        found[order[:k_max]] = True
    return Verdict(score, found, lower, lower >= t_language, fact.scores >= t, support=positive)
