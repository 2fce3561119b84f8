"""From scores of a question's wordings to its query-relevant neurons: cluster, inverse cluster attribution, common neurons.

As tf-idf discounts words, a neuron found for many questions says little of any of them (Chen et al. 2025, arXiv 2406.10868,
section 3; their code thresholds each wording before it normalizes, and so do we).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import InputError, Literal

ICA = ("query", "class")
# With fewer clusters every neuron of one has ln(|C| / (cnt + 1)) <= 0.
LEAST_CLUSTERS = 3
# A class has a neuron where more than this share of its clusters does.
CLASS_SHARE = 0.1
COLUMNS = ["fact", "language", "layer", "neuron", "score", "na", "ica", "cluster_count", "is_common", "rank"]


@dataclass(frozen=True, eq=False)
class Cluster:
    """The coarse neuron set of one question: `neurons` [n] flat, ascending (layer * width + neuron); `na` [n] sums to 1."""

    fact: str
    language: str
    kind: str
    neurons: np.ndarray
    na: np.ndarray
    width: int


@dataclass(frozen=True, eq=False)
class Selection:
    """`table`: the final neurons, a row per (question, neuron); `common`: the common ones (`layer`, `neuron`,
    `cluster_count`), most frequent first; `sizes`: how many each question keeps (`fact`, `language`, `kind`, `size`).
    """

    table: pd.DataFrame
    common: pd.DataFrame
    sizes: pd.DataFrame


def cluster(fact: str, language: str, kind: str, scores: np.ndarray, *, t: float = 0.2) -> Cluster:
    """The neurons that reach the threshold in any wording of a question, and their share of the summed scores.

    `scores` [wordings, layers, neurons]: mean over each wording's rotations, signed. In a wording count the neurons strictly above
    t times its largest score, none where no score is above 0; `na` is what they sum to, over all the cluster has. `kind`: the
    question's class (relation, subject, language).

    Raises `InputError` for another shape, scores that are not finite, t outside [0, 1).

    Example
    -------
    >>> found = cluster("f", "en", "capital", np.array([[[1, 0.3, 0.2, -0.5]], [[0.5, 0.05, 0.2, 0]], [[0.4, 0.3, 0, 0]]]))
    >>> found.neurons, found.na.round(4)
    (array([0, 1, 2]), array([0.7037, 0.2222, 0.0741]))
    """
    where = f"question {fact} ({language})"
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 3 or not scores.size:
        raise InputError(
            f"{where}, scores", found=Literal(f"shape {scores.shape}"), expected="[wordings, layers, neurons]"
        )
    if not np.isfinite(scores).all():
        raise InputError(f"{where}, scores", found=Literal("a score that is not finite"), expected="finite scores")
    if not 0 <= t < 1:
        raise InputError("t", found=t, expected="at least 0 and below 1")
    flat = scores.reshape(len(scores), -1)
    top = flat.max(1, keepdims=True)
    reached = (flat > t * top) & (top > 0)
    neurons = np.flatnonzero(reached.any(0))
    raw = (flat * reached)[:, neurons].sum(0)
    # Every summand is above 0, so the sum is, wherever there is a neuron.
    return Cluster(fact, language, kind, neurons, raw / raw.sum() if len(raw) else raw, scores.shape[2])


def select(
    clusters: list[Cluster], *, u: float = 0.3, v: int = 20, ica: str = "query", drop_common: bool = True
) -> Selection:
    """The query-relevant neurons of every question: the v best by na times ica, without those common to many questions.

    With |C| clusters, all classes pooled, and cnt(n) those that have neuron n: ica(n) = ln(|C| / (cnt(n) + 1)); only scores above 0 go
    on. Common are neurons with cnt(n) > int(u * |C|); they leave the v best, and nobody takes their place. Ties go
    to the lower (layer, neuron). `ica="class"`: ln(classes / (1 + classes where more than 10 % of the clusters have n)),
    which does not discount a neuron for being shared within one class.

    Columns: `fact`, `language`, `layer`, `neuron`, `score`, `na`, `ica`, `cluster_count` (cnt), `is_common`, `rank` (from 1,
    among the v best). `drop_common=False` keeps the common ones, marked.

    Raises `InputError` for fewer than three clusters (classes with `ica="class"`): nothing could be selected; the same question
    twice; u outside [0, 1], or a share of less than one question; v below 1.

    Example
    -------
    >>> select(clusters).table.groupby(["fact", "language"]).head(3)
    """
    _check(clusters, u, v, ica)
    every = np.concatenate([c.neurons for c in clusters])
    neurons, position, counts = np.unique(every, return_inverse=True, return_counts=True)
    common = counts > int(u * len(clusters))
    weight = np.log(len(clusters) / (counts + 1)) if ica == "query" else _class_weight(clusters, position, len(neurons))
    parts, sizes, start = [], [], 0
    for c in clusters:
        own = position[start : start + len(c.neurons)]
        start += len(c.neurons)
        score = c.na * weight[own]
        best = np.lexsort((c.neurons, -score))[:v]
        best = best[score[best] > 0]
        rank = np.arange(1, len(best) + 1)
        if drop_common:
            kept = ~common[own[best]]
            best, rank = best[kept], rank[kept]
        layer, neuron = np.divmod(c.neurons[best], c.width)
        at = own[best]
        parts.append(pd.DataFrame({
            "fact": c.fact, "language": c.language, "layer": layer, "neuron": neuron, "score": score[best], "na": c.na[best],
            "ica": weight[at], "cluster_count": counts[at], "is_common": common[at], "rank": rank,
        }))  # fmt: skip
        sizes.append((c.fact, c.language, c.kind, len(best)))
    return Selection(pd.concat(parts, ignore_index=True)[COLUMNS], _common_table(neurons[common], counts[common], clusters),
                     pd.DataFrame(sizes, columns=["fact", "language", "kind", "size"]))  # fmt: skip


def _check(clusters: list[Cluster], u: float, v: int, ica: str) -> None:
    if ica not in ICA:
        raise InputError("ica", found=ica, expected=Literal("one of " + " ".join(ICA)))
    if not 0 <= u <= 1:
        raise InputError("u", found=u, expected="from 0 to 1")
    if not isinstance(v, int | np.integer) or v < 1:
        raise InputError("v", found=v, expected="a whole number of at least 1")
    what, count = ("questions", len(clusters)) if ica == "query" else ("classes", len({c.kind for c in clusters}))
    if count < LEAST_CLUSTERS:
        raise InputError("clusters", found=Literal(f"{count} {what}"),
                         expected=f"at least {LEAST_CLUSTERS}: with fewer no neuron has a score above 0")  # fmt: skip
    if len({c.width for c in clusters}) > 1:
        raise InputError("clusters", found=Literal("different numbers of neurons a layer"), expected="one model")
    seen = set()
    for c in clusters:
        if (c.fact, c.language) in seen:
            raise InputError("clusters", found=Literal(f"question {c.fact} ({c.language}) twice"), expected="each once")
        seen.add((c.fact, c.language))
    if u > 0 and int(u * len(clusters)) < 1:
        raise InputError("u", found=Literal(f"{u} of {len(clusters)} questions"),
                         expected="one question or more: else every neuron counts as common")  # fmt: skip


def _class_weight(clusters: list[Cluster], position: np.ndarray, neurons: int) -> np.ndarray:
    """ln(classes / (1 + classes that have the neuron)), [neurons]."""
    kinds, kind_of = np.unique([c.kind for c in clusters], return_inverse=True)
    repeated = np.repeat(kind_of, [len(c.neurons) for c in clusters])
    counts = np.zeros((len(kinds), neurons))
    np.add.at(counts, (repeated, position), 1)
    having = (counts > CLASS_SHARE * np.bincount(kind_of)[:, None]).sum(0)
    return np.log(len(kinds) / (1 + having))


def _common_table(neurons: np.ndarray, counts: np.ndarray, clusters: list[Cluster]) -> pd.DataFrame:
    order = np.lexsort((neurons, -counts))
    layer, neuron = np.divmod(neurons[order], clusters[0].width)
    return pd.DataFrame({"layer": layer, "neuron": neuron, "cluster_count": counts[order]})


def walk(
    clusters: list[Cluster], fact: str, language: str, *, u: float = 0.3, v: int = 20, ica: str = "query"
) -> pd.DataFrame:
    """One question on its way from cluster to final set: all its neurons with a score above 0, best first.

    Columns as of `select`, `rank` among all, and `final`: whether the neuron is among the v best and not common. Raises
    `InputError` as `select`, and for a question without cluster.

    Example
    -------
    >>> walk(clusters, "capital:FR", "en").query("final")["rank"].tolist()
    [2]
    """
    if all((c.fact, c.language) != (fact, language) for c in clusters):
        raise InputError("question", found=Literal(f"{fact} ({language})"), expected="one with a cluster")
    _check(clusters, u, v, ica)
    everything = max(1, *(len(c.neurons) for c in clusters))
    found = select(clusters, u=u, v=everything, ica=ica, drop_common=False).table
    own = found[(found["fact"] == fact) & (found["language"] == language)].reset_index(drop=True)
    return own.assign(final=(own["rank"] <= v) & ~own["is_common"])


def mean_sizes(sizes: pd.DataFrame) -> pd.DataFrame:
    """Neurons per question of each class, and over all (`kind` = "all"): columns `kind`, `questions`, `mean_size`.

    A question that keeps none counts with 0.

    Example
    -------
    >>> mean_sizes(selection.sizes)
    """
    by_kind = sizes.groupby("kind", as_index=False)["size"].agg(questions="size", mean_size="mean")
    return pd.concat([by_kind, pd.DataFrame({"kind": ["all"], "questions": [len(sizes)], "mean_size": [sizes["size"].mean()]})],
                     ignore_index=True)  # fmt: skip
