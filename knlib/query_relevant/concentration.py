"""In which layers neurons lie, and what the sets of classes share: each beside what chance gives.

Columns of an FFN have no order, so where in a layer a neuron stands means nothing; the layer does.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import InputError, Literal
from .questions import KEY

PERMUTATIONS = 1000


def gini(counts) -> float:
    """How unequal counts are: 0 where all are alike, (n - 1) / n where one has all.

    Example
    -------
    >>> gini([0, 0, 0, 8])
    0.75
    """
    counts = np.sort(np.asarray(counts, dtype=float))
    if counts.ndim != 1 or not len(counts) or (counts < 0).any() or not counts.sum():
        raise InputError("counts", found=counts.tolist(), expected="numbers of at least 0, not all 0")
    n = len(counts)
    return float((2 * np.arange(1, n + 1) - n - 1) @ counts / (n * counts.sum()))


@dataclass(frozen=True, eq=False)
class Concentration:
    """`layers`: a row per layer with `layer`, `count`, `null_low`, `null_high` (95 % of placements by chance); `gini` of the counts,
    `null_gini` (mean by chance), `p_value` (one-sided: as concentrated by chance).
    """

    layers: pd.DataFrame
    gini: float
    null_gini: float
    p_value: float


def layer_concentration(
    neurons: pd.DataFrame, n_layers: int, n_neurons: int, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> Concentration:
    """Whether a set of neurons gathers in few layers, against as many neurons placed at random.

    `neurons`: columns `layer`, `neuron`; each neuron counts once, however many questions have it. Chance: the neurons'
    places are permuted over the whole model (layers of equal width: a multivariate hypergeometric draw).

    Raises `InputError` for an empty table, a layer that the model lacks.

    Example
    -------
    >>> layer_concentration(found, model.n_layers, model.n_neurons).p_value
    """
    distinct = neurons[["layer", "neuron"]].drop_duplicates()
    if not len(distinct):
        raise InputError("neurons", found=Literal("no row"), expected="at least one neuron")
    if not distinct["layer"].between(0, n_layers - 1).all():
        raise InputError("neurons, layer", found=int(distinct["layer"].max()), expected=f"0 to {n_layers - 1}")
    counts = np.bincount(distinct["layer"], minlength=n_layers)
    draw = np.random.default_rng(seed)
    null = draw.multivariate_hypergeometric([n_neurons] * n_layers, len(distinct), size=permutations)
    found, chance = gini(counts), np.array([gini(row) for row in null])
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    table = pd.DataFrame({"layer": np.arange(n_layers), "count": counts, "null_low": low, "null_high": high})
    return Concentration(table, found, float(chance.mean()), float((1 + (chance >= found).sum()) / (1 + permutations)))


def class_sets(neurons: pd.DataFrame, classes: pd.Series) -> dict[str, pd.Series]:
    """Each class's neurons, the union over its questions: their summed scores, best first.

    `neurons`: of `find`; `classes`: of each of its rows (a relation, a language). Ties by (layer, neuron).

    Example
    -------
    >>> class_sets(found, found["language"])["en"].index[:3].tolist()
    """
    found = {}
    for kind, own in neurons.groupby(classes.to_numpy()):
        totals = own.groupby(["layer", "neuron"])["score"].sum()
        found[kind] = totals.sort_values(ascending=False, kind="stable")
    return found


def class_overlap(neurons: pd.DataFrame, classes: pd.Series, *, permutations: int = 200, seed: int = 0) -> pd.DataFrame:
    """What the sets of two classes share, at equal sizes, beside the same with permuted classes.

    Every class's set is cut to the smallest set's size, best summed scores first. Chance: the questions exchange their classes.
    Columns: `a`, `b`, `size`, `jaccard`, `coefficient` (shared / size), and of the null `jaccard_null` (mean), `jaccard_low`,
    `jaccard_high` (95 %), `p_lower` (share of permutations that share as little: below 0.05, the classes differ).

    Raises `InputError` for fewer than two classes.

    Example
    -------
    >>> class_overlap(found, found["language"]).pivot(index="a", columns="b", values="jaccard")
    """
    if classes.nunique() < 2:
        raise InputError("classes", found=Literal(f"{classes.nunique()} class"), expected="two or more")
    found = _shared(class_sets(neurons, classes))
    keys = pd.MultiIndex.from_frame(neurons[KEY])
    codes = keys.factorize()[0]
    # A question has one class.
    of = pd.Series(classes.to_numpy()).groupby(codes).first().to_numpy()
    draw, null = np.random.default_rng(seed), []
    for _ in range(permutations):
        mixed = draw.permutation(of)
        null.append(_shared(class_sets(neurons, pd.Series(mixed[codes])))["jaccard"].to_numpy())
    null = np.stack(null)
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    lower = (1 + (null <= found["jaccard"].to_numpy()).sum(0)) / (1 + permutations)
    return found.assign(jaccard_null=null.mean(0), jaccard_low=low, jaccard_high=high, p_lower=lower)


def _shared(sets: dict[str, pd.Series]) -> pd.DataFrame:
    size = min(map(len, sets.values()))
    chosen = {kind: set(own.index[:size]) for kind, own in sets.items()}
    names = sorted(chosen)
    rows = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            shared = len(chosen[a] & chosen[b])
            rows.append((a, b, size, shared / len(chosen[a] | chosen[b]), shared / size))
    return pd.DataFrame(rows, columns=["a", "b", "size", "jaccard", "coefficient"])
