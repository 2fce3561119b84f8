"""Would other wordings have found the same neurons? A bootstrap of the queries, without computing attributions again."""

from dataclasses import replace
from zlib import crc32

import numpy as np

from .registry import Evidence, Localizer, Verdict


def stability(
    localizer: Localizer, fact: Evidence, options: dict, verdict: Verdict, *, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each neuron, and how much of each set, is found again from resampled queries.

    Queries are drawn with replacement within every language; how often one was drawn multiplies its weight. Row 0 is
    the set over all languages, row 1 + k that of language k. Returns `frequency` [sets, neurons]: the share of
    resamples that find the neuron; `jaccard` [sets]: mean overlap with the set found from all queries; `empty`
    [sets]: resamples in which both are empty, left out of the mean (NaN if there is no other).
    The draws depend on the seed and the fact's name alone.
    """
    draw = np.random.default_rng([seed, crc32(fact.fact.encode())])
    counts = np.zeros((resamples, len(fact.language)))
    for k in range(len(fact.languages)):
        at = np.flatnonzero(fact.language == k)
        counts[:, at] = draw.multinomial(len(at), np.full(len(at), 1 / len(at)), size=resamples)
    whole = _sets(verdict)
    often = np.zeros(whole.shape)
    overlaps = np.full((resamples, len(whole)), np.nan)
    for b, multiplicity in enumerate(counts):
        again = _sets(localizer.find(replace(fact, multiplicity=multiplicity), **options))
        often += again
        union = (whole | again).sum(1)
        np.divide((whole & again).sum(1), union, out=overlaps[b], where=union > 0)
    used = (~np.isnan(overlaps)).sum(0)
    jaccard = np.where(used > 0, np.nansum(overlaps, 0) / np.maximum(used, 1), np.nan)
    return often / resamples, jaccard, resamples - used


def _sets(verdict: Verdict) -> np.ndarray:
    """bool [1 + languages, neurons]."""
    return np.vstack([verdict.found[None], verdict.language_found])
