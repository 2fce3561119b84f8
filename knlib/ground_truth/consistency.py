"""Do the phrasings of a fact lead to the same neurons? The consistency scores of query localization, for every planted fact."""

import numpy as np
import pandas as pd

from ..query_localization.scores import overlap_scores, pair_similarities, threshold_sets, top_sets

OVERLAPS = ("cs_1", "cs_2", "jaccard", "do")
# As in `knlib.query_localization.consistency`: above 0.3 of the largest score, or so many of the largest.
SETS = {"threshold": None, "top10": 10, "top50": 50}
NAMES = (*(f"{score} {name}" for name in SETS for score in OVERLAPS), "spearman", "cosine")


def consistency(scores: np.ndarray, languages: np.ndarray) -> dict[str, float]:
    """The consistency scores of one fact, `NAMES`: within each language over its phrasings, mean over languages.

    `scores` [queries, layers, neurons]; `languages` [queries]. NaN where no language has two phrasings. The number of phrasings must be the same
    for facts that are compared: `cs_1` and `cs_2` depend on it. J* is not among them: its ceiling needs runs repeated.

    Example
    -------
    >>> consistency(attributions.scores.values[:6], queries["language"].values[:6])["jaccard top10"]
    0.61
    """
    found = []
    for code in dict.fromkeys(languages):
        own = scores[languages == code]
        if len(own) < 2:
            continue
        values = dict(pair_similarities(own.reshape(len(own), -1)))
        for name, size in SETS.items():
            sets = threshold_sets(own) if size is None else top_sets(own, min(size, own[0].size))
            overlaps = overlap_scores(sets)
            values |= {f"{score} {name}": overlaps[score] for score in OVERLAPS}
        found.append(values)
    return pd.DataFrame(found, columns=list(NAMES), dtype=float).mean().to_dict()
