"""Which type of fact a localizer's answer amounts to: which queries and languages speak for the neurons that it takes."""

import numpy as np

from ..localization.registry import Evidence, Verdict

# Above this share of the languages a neuron serves all of them, as in MATRICE's default rho.
MOST = 0.8
# Below this share of a language's phrasings a neuron serves phrasings, not the fact.
PHRASINGS = 0.5


def decision(fact: Evidence, verdict: Verdict) -> str:
    """The type that a verdict claims: `agnostic`, `language`, `half`, `query`, or `none` where it has no neurons.

    Over the neurons that it found over all languages, or if there are none in any language: `query` where in the languages that speak for a neuron less than half of the
    phrasings do (median over neurons), else by the share of languages that speak for it (median): all but a fifth
    `agnostic`, one `language`, between `half`. Ours: no published method states its rule.

    Example
    -------
    >>> decision(evidence, LOCALIZERS["mean"].find(evidence))
    'agnostic'
    """
    taken = np.flatnonzero(verdict.found if verdict.found.any() else verdict.language_found.any(0))
    if not len(taken):
        return "none"
    reached = verdict.reached[:, taken].astype(float)
    phrasings = fact.means(reached)  # [languages, neurons]: share of a language's queries
    speaking = phrasings > 0
    languages = speaking.sum(0)
    within = np.divide(phrasings.sum(0), languages, out=np.zeros(len(taken)), where=languages > 0)
    if np.median(within) < PHRASINGS:
        return "query"
    middle = float(np.median(languages))
    if middle >= MOST * len(fact.languages):
        return "agnostic"
    return "language" if middle <= 1 else "half"
