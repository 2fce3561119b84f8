"""How alike are the neuron sets of a fact's neighbour queries? Overlap scores, their size by chance, and set-free ones.

A set is any collection of hashable members, such as (layer, neuron) pairs or numbers. (Spec, section 2; CS_1 and CS_2 after
Chen et al. 2025, arXiv 2405.14117.)
"""

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from itertools import combinations
from math import comb, floor

import numpy as np
from scipy.stats import binom, rankdata

from ..errors import InputError, Literal

Sets = Sequence[Collection[Hashable]]
# J* divides by the distance between ceiling and null; below this it would be noise.
LEAST_RANGE = 0.05
# More subsets of k queries than this are sampled.
SUBSETS = 10


def threshold_sets(scores: np.ndarray, t: float = 0.3) -> list[np.ndarray]:
    """Of every query, the neurons above t times its largest score over all layers; one huge neuron leaves few.

    `scores` [queries, layers, neurons]; returns sorted flat indices (layer * neurons + neuron), empty where no score is above 0.

    Example
    -------
    >>> threshold_sets(np.array([[[1.0, 0.2], [0.31, 0.0]]]))
    [array([0, 2])]
    """
    flat = np.asarray(scores).reshape(len(scores), -1)
    return [np.flatnonzero(row > t * row.max()) if row.max() > 0 else np.arange(0) for row in flat]


def top_sets(scores: np.ndarray, m: int) -> list[np.ndarray]:
    """Of every query, the m neurons with the largest scores (signed), as sorted flat indices: all sets have equal size.

    `scores` [queries, layers, neurons]. Ties take the first neuron. Raises `InputError` for more neurons than there are.

    Example
    -------
    >>> top_sets(np.array([[[1.0, 0.2], [0.31, 0.0]]]), 3)
    [array([0, 1, 2])]
    """
    flat = np.asarray(scores).reshape(len(scores), -1)
    if not 1 <= m <= flat.shape[1]:
        raise InputError("m", found=m, expected=f"from 1 to {flat.shape[1]}, the number of neurons")
    return [np.sort(np.argsort(-row, kind="stable")[:m]) for row in flat]


def overlap_scores(sets: Sets) -> dict[str, float]:
    """The overlap of k sets: `cs_1`, `cs_2`, `jaccard`, `do`, and `size`, their mean number of members.

    - `cs_1`: members of all sets over members of any.
    - `cs_2`: members of more than one set over members of any. Depends on k: see `expected_cs_2`.
    - `jaccard`: mean over pairs of |intersection| / |union|, pairs of two empty sets left out. Does not depend on k.
    - `do`: k / (k - 1) * (1 - |union| / sum of sizes).

    NaN where the union is empty. Raises `InputError` for fewer than two sets: one query says nothing of another.

    Example
    -------
    >>> overlap_scores(["abc", "abd", "ae"])
    {'cs_1': 0.2, 'cs_2': 0.4, 'jaccard': 0.3333333333333333, 'do': 0.5625, 'size': 2.6666666666666665}
    """
    sets = [frozenset(s.tolist() if isinstance(s, np.ndarray) else s) for s in sets]
    k = len(sets)
    if k < 2:
        raise InputError("sets", found=Literal(f"{k} of them"), expected="at least two queries of a fact")
    counts, total = Counter(member for s in sets for member in s), sum(map(len, sets))
    if not counts:
        return {"cs_1": np.nan, "cs_2": np.nan, "jaccard": np.nan, "do": np.nan, "size": 0.0}
    union, often = len(counts), list(counts.values())
    pairs = [len(a & b) / len(a | b) for a, b in combinations(sets, 2) if a or b]
    return {
        "cs_1": sum(n == k for n in often) / union, "cs_2": sum(n > 1 for n in often) / union,
        "jaccard": sum(pairs) / len(pairs), "do": k / (k - 1) * (1 - union / total), "size": total / k,
    }  # fmt: skip


def fixed_k(sets: Sets, k: int, draw: np.random.Generator) -> dict[str, float]:
    """`overlap_scores` of k of the sets, mean over all choices, or over 10 drawn ones where there are more.

    Facts with different numbers of queries become comparable. NaN for fewer sets than k. Choices with an empty union are
    left out.

    Example
    -------
    >>> fixed_k(["ab", "ab", "ab"], 2, np.random.default_rng(0))["cs_2"]
    1.0
    """
    found = [overlap_scores([sets[i] for i in chosen]) for chosen in subsets(len(sets), k, draw)]
    names = ("cs_1", "cs_2", "jaccard", "do", "size")
    kept = [f for f in found if not np.isnan(f["cs_1"])]
    return {name: float(np.mean([f[name] for f in kept])) if kept else np.nan for name in names}


def subsets(n: int, k: int, draw: np.random.Generator, *, at_most: int = SUBSETS) -> list[tuple[int, ...]]:
    """All choices of k from n, or `at_most` different ones drawn at random where there are more.

    Example
    -------
    >>> len(subsets(4, 2, np.random.default_rng(0))), len(subsets(8, 4, np.random.default_rng(0)))
    (6, 10)
    """
    if comb(n, k) <= at_most:
        return list(combinations(range(n), k))
    found: dict[tuple[int, ...], None] = {}
    while len(found) < at_most:
        found[tuple(sorted(draw.choice(n, k, replace=False).tolist()))] = None
    return list(found)


def refine(sets: Sets, p: float) -> set:
    """Members of more than a share p of the sets: of at least floor(p * k) + 1.

    Example
    -------
    >>> sorted(refine(["abc", "abd", "ae"], 0.5)), sorted(refine(["abc", "abd", "ae"], 0.7))
    (['a', 'b'], ['a'])
    """
    if not 0 <= p < 1:
        raise InputError("p", found=p, expected="a share from 0, below 1")
    least = floor(p * len(sets) + 1e-9) + 1  # .7 * 10 is not 7 in binary
    counts = Counter(member for s in sets for member in set(s))
    return {member for member, n in counts.items() if n >= least}


def j_star(jaccard, null, ceiling) -> np.ndarray:
    """(J - null) / (ceiling - null): 0 where a fact's queries agree as queries of other facts do, 1 as retests do.

    Numbers or arrays. NaN, undefined, where ceiling and null are less than .05 apart or one is missing.

    Example
    -------
    >>> round(float(j_star(1 / 3, 0.05, 0.90)), 12)
    0.333333333333
    """
    jaccard, null, ceiling = (np.asarray(x, dtype=float) for x in (jaccard, null, ceiling))
    width = ceiling - null
    # A hair of tolerance: .90 - .85 is not .05 in binary.
    wide = width >= LEAST_RANGE - 1e-12
    return np.where(wide, jaccard - null, np.nan) / np.where(wide, width, 1.0)


def expected_cs_2(common: int, pool: int, k: int, *, size: int = 10) -> float:
    """CS_2 to expect of k sets of `size` members: `common` ones in all, the others drawn from the rest of `pool` neurons.

    Expected members of two and more sets over expected members of any; spec, table 2.5: a static threshold mixes the
    number of templates with consistency.

    Example
    -------
    >>> [round(expected_cs_2(0, 200, k), 3) for k in (2, 4, 8, 17)]
    [0.026, 0.076, 0.17, 0.357]
    """
    if not 0 <= common <= size <= pool or pool == common:
        raise InputError(
            "common, size, pool", found=(common, size, pool), expected="common <= size <= pool, common < pool"
        )
    rest = pool - common
    often = binom(k, (size - common) / rest)
    return float((common + rest * often.sf(1)) / (common + rest * often.sf(0)))


def pair_similarities(vectors: np.ndarray) -> dict[str, float]:
    """Mean over all pairs of rows: `spearman` (of ranks) and `cosine`, set-free and without a threshold.

    `vectors` [queries, neurons]. NaN where no pair is defined (constant or zero rows). Raises `InputError` for one row.

    Example
    -------
    >>> pair_similarities(np.array([[1.0, 2.0, 3.0], [1.0, 4.0, 9.0]]))["spearman"]
    1.0
    """
    vectors = np.asarray(vectors, dtype=float)
    if len(vectors) < 2:
        raise InputError("vectors", found=Literal(f"{len(vectors)} row"), expected="at least two queries of a fact")
    ranks = rankdata(vectors, axis=1)
    return {
        "spearman": _mean_cosine(ranks - ranks.mean(1, keepdims=True)),
        "cosine": _mean_cosine(vectors),
    }


def _mean_cosine(rows: np.ndarray) -> float:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (rows / np.where(length > 0, length, 1))[length[:, 0] > 0]
    if len(rows) < 2:
        return float("nan")
    pairs = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    return float(pairs.mean().clip(-1, 1))
