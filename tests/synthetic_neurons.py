"""Made-up attributions with known language-agnostic neurons: to compare localizers where the truth is known.

One fact, seven languages, 3,000 neurons. 12 neurons serve every language, 75 decoys serve one to four. A query the model
does not know has weak effects, a smaller scale and a high entropy; every query has 25 strong outliers of its own.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from knlib.attribution import Attributions

LANGUAGES, NEURONS, TRUE = 7, 3000, 12


@dataclass(frozen=True)
class Setting:
    """How many queries a language has (range), how probable an unknown one is, languages with none known."""

    unknown: float = 0.25
    queries: tuple[int, int] = (2, 6)
    silent: int = 0
    honest: bool = True  # False: the entropy says nothing about what is unknown


SETTINGS = {
    "25 % unknown": Setting(),
    "50 % unknown": Setting(unknown=0.5),
    "2-3 queries": Setting(queries=(2, 3)),
    "2 languages all unknown": Setting(silent=2),
    "50 %, entropy unrelated": Setting(unknown=0.5, honest=False),
}


def synthetic(setting: Setting, seed: int) -> tuple[Attributions, pd.DataFrame, np.ndarray]:
    """Attributions, queries (with `entropy`), and bool [neurons]: which serve every language."""
    draw = np.random.default_rng(seed)
    effect = np.zeros((LANGUAGES, NEURONS))
    order = draw.permutation(NEURONS)
    true, few, four = np.split(order[: TRUE + 75], [TRUE, TRUE + 60])
    strength = draw.uniform(0.3, 1, TRUE)
    effect[:, true] = np.maximum(strength * (1 + 0.15 * draw.normal(size=(LANGUAGES, TRUE))), 0.12)
    for decoys, sizes, top in ((few, (1, 2, 3), 1.2), (four, (4,), 1.0)):
        for neuron in decoys:
            chosen = draw.choice(LANGUAGES, draw.choice(sizes), replace=False)
            effect[chosen, neuron] = draw.uniform(0.3, top)
    silent = set(draw.choice(LANGUAGES, setting.silent, replace=False).tolist())
    scores, rows = [], []
    for k in range(LANGUAGES):
        for number in range(draw.integers(setting.queries[0], setting.queries[1] + 1)):
            unknown = k in silent or draw.random() < setting.unknown
            value = effect[k] * (0.15 if unknown else 1) * (1 + 0.35 * draw.normal(size=NEURONS))
            value += 0.03 * draw.normal(size=NEURONS)
            value[draw.choice(NEURONS, 25, replace=False)] += draw.uniform(0.3, 1.2, 25)
            scores.append(value * np.exp(draw.normal() - 2 * unknown))
            uncertain = unknown if setting.honest else draw.random() < setting.unknown
            entropy = np.clip((0.8 if uncertain else 0.25) + 0.12 * draw.normal(), 0.01, 0.99)
            rows.append((f"l{k}/{number}", "fact", "relation", f"l{k}", "answer", entropy))
    queries = pd.DataFrame(rows, columns=["query", "fact", "relation", "language", "answer", "entropy"])
    truth = np.zeros(NEURONS, bool)
    truth[true] = True
    return attributions_of(np.array(scores)[:, None, :], queries["query"]), queries, truth


def attributions_of(scores: np.ndarray, names, probability=None) -> Attributions:
    """`Attributions` with these scores [queries, layers, neurons], as if a model had made them."""
    names = list(names)
    coordinates = {"query": names, "layer": np.arange(scores.shape[1])}
    zero = xr.DataArray(np.zeros(scores.shape[:2]), dims=("query", "layer"), coords=coordinates)
    p = np.full(len(names), 0.5) if probability is None else np.asarray(probability, dtype=float)
    return Attributions(
        scores=xr.DataArray(scores, dims=("query", "layer", "neuron"),
                            coords=coordinates | {"neuron": np.arange(scores.shape[2])}),
        probability=xr.DataArray(p, dims=("query",), coords={"query": names}),
        completeness_gap=zero, error_estimate=zero, provenance={},
    )  # fmt: skip


def f1(found: np.ndarray, truth: np.ndarray) -> float:
    """2 * right / (found + true): 0 where nothing is found."""
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


def average_precision(score: np.ndarray, truth: np.ndarray) -> float:
    """Sum over thresholds of precision times gain in recall."""
    right, found = _by_threshold(score, truth)
    return float((right / found * np.diff(right, prepend=0)).sum() / truth.sum())


def best_f1(score: np.ndarray, truth: np.ndarray) -> float:
    """The F1 of the best threshold on a score, known only to who knows the truth."""
    right, found = _by_threshold(score, truth)
    return float((2 * right / (found + truth.sum())).max())


def _by_threshold(score: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """True neurons found, and neurons found, at every threshold that parts the scores, from the highest."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    return np.cumsum(truth[order])[last], np.arange(1, len(order) + 1)[last]
