"""From scores of prompts to the neurons of every question, by name: query-relevant neurons and what they are compared with."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import xarray as xr

from ..attribution import Attributions
from ..controls import generator, layer_matched
from ..errors import InputError, Literal
from ..models import Model
from . import class_baselines  # noqa: F401  (registers its scores)
from .baselines import SCORES, TRAITS, score
from .clusters import Cluster, select
from .questions import KEY, question_clusters, questions

# Name -> the scores it starts from and their options.
CLUSTERED = {
    "qrnca": ("knowledge_neurons", {}),
    "qrnca_margin": ("knowledge_neurons", {"objective": "margin"}),
    "qrnca_no_ica": ("knowledge_neurons", {}),
    "qrnca_with_common": ("knowledge_neurons", {}),
    "knowledge_neurons": ("knowledge_neurons", {}),
}
# Drawn by a seed: run with several of them.
DRAWN = ("random", "random_layer_matched")
COLUMNS = ["fact", "language", "layer", "neuron", "score", "rank"]


def names() -> list[str]:
    """Every localizer: those that threshold and cluster, the drawn ones, then one for each other score of the registry.

    Example
    -------
    >>> names()[:2]
    ['qrnca', 'qrnca_margin']
    """
    return list(dict.fromkeys([*CLUSTERED, *DRAWN, *SCORES]))


def starts_from(name: str) -> tuple[str, dict] | None:
    """The score of the registry that a localizer starts from, and its options; None for one that needs none.

    Example
    -------
    >>> starts_from("qrnca_margin")
    ('knowledge_neurons', {'objective': 'margin'})
    """
    _known(name)
    if name in DRAWN:
        return None if name == "random" else CLUSTERED["qrnca"]
    return CLUSTERED.get(name, (name, {}))


def scores_for(name: str, model: Model, prompts: pd.DataFrame) -> xr.DataArray | None:
    """The scores that a localizer starts from, [prompts, layers, neurons], for `find(..., scores=...)`; None: it needs none.

    `qrnca`, `qrnca_no_ica`, `qrnca_with_common`, `knowledge_neurons`, `random_layer_matched` share theirs, so computing them
    once serves all five.

    Example
    -------
    >>> scores = scores_for("qrnca", model, prompts)
    >>> tables = {name: find(name, model, prompts, scores=scores) for name in ("qrnca", "qrnca_no_ica")}
    """
    start = starts_from(name)
    return None if start is None else score(start[0], model, prompts, **start[1])


def find(
    name: str,
    model: Model,
    prompts: pd.DataFrame,
    *,
    top: int | pd.DataFrame | None = None,
    scores: xr.DataArray | None = None,
    t: float = 0.2,
    u: float = 0.3,
    v: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """The neurons of every question, by a localizer of `names()`.

    - `qrnca`: clusters, inverse cluster attribution, no common neurons (Chen et al. 2025, arXiv 2406.10868; t, u, v as in
      `cluster` and `select`). `qrnca_margin`: the same on scores for the margin. `qrnca_with_common`: common neurons stay.
      `qrnca_no_ica`: the v best by `na`, then without the common ones.
    - `knowledge_neurons`: above t times the largest score in at least 2/3 of the wordings (ours, after Dai et al. 2022).
    - `random_layer_matched`: as many as `qrnca` has in every layer, drawn from those that it has not; `random`: `top` of all.
      Both by `seed` and question, whatever the other questions.
    - Any other: the `top` neurons with the largest mean score over the question's prompts (of scores that select, as `lape`
      and `cna` do: those above 0).

    `prompts`: those that localize, a table of `build_multiple_choice`. `top`: the most neurons of a question, a number, or
    a table `fact`, `language`, `size` (`sizes` of another localizer's table); a must for the last kind, None: as found.
    `scores`: of `scores_for` with this name or one that shares them, at least of these prompts.

    Columns: `fact`, `language`, `layer`, `neuron`, `score`, `rank` (from 1; `qrnca`: among the v best, so it has gaps where
    common neurons left); `qrnca`, `qrnca_margin`, `qrnca_with_common` also `na`, `ica`, `cluster_count`,
    `is_common`. Questions stand by fact and language, ties by (layer, neuron).

    Raises `InputError` for unknown names, a `top` that is missing or lacks a question, and as `questions`, `cluster`, `select`,
    `score`.

    Example
    -------
    >>> found = find("qrnca", model, split.localize)
    >>> same_size = find("dla", model, split.localize, top=sizes(found, split.localize))
    """
    _known(name)
    table = questions(prompts)
    limits = _limits(top, table)
    if limits is None and name not in (*CLUSTERED, "random_layer_matched"):
        raise InputError("top", found=None, expected=f"a number, or a table of sizes: {name} has no threshold")
    if name == "random":
        return _drawn(limits, model, seed)
    if scores is None:
        scores = scores_for(name, model, prompts)
    if name == "random_layer_matched":
        return redrawn(find("qrnca", model, prompts, top=top, scores=scores, t=t, u=u, v=v), scores.shape[2], seed)
    clustered = _clusters_of(scores)
    if name == "knowledge_neurons":
        found = _frequent(clustered, scores, prompts, t)
    elif name == "qrnca_no_ica":
        found = _by_share(clustered(prompts, t), u, v)
    elif name in CLUSTERED:
        found = select(clustered(prompts, t), u=u, v=v, drop_common=name != "qrnca_with_common").table
    else:
        found = _ranked(_means(scores, prompts), None, limits)
        if TRAITS[name].selects:
            found = found[found["score"] > 0]
    if limits is not None:
        place = found.groupby(KEY).cumcount()
        most = [limits[key] for key in zip(found["fact"], found["language"], strict=True)]
        found = found[place < most]
    return found.reset_index(drop=True)


def redrawn(found: pd.DataFrame, width: int, seed: int) -> pd.DataFrame:
    """Every question's neurons exchanged for others of their layers, by `seed` and question.

    `found`: a table of `find`; `width`: neurons of a layer. Columns as `find`, scores 0.

    Example
    -------
    >>> redrawn(find("qrnca", model, prompts), model.n_neurons, seed=1)
    """
    parts = [_rows("", "", np.zeros(0, dtype=int), np.zeros(0), width)]
    for (fact, language), own in found.groupby(KEY):
        pairs = tuple(sorted(zip(own["layer"].tolist(), own["neuron"].tolist(), strict=True)))
        drawn = layer_matched(pairs, width, generator(seed, fact, language, "random_layer_matched"))
        neurons = np.array([layer * width + neuron for layer, neuron in drawn])
        parts.append(_rows(fact, language, neurons, np.zeros(len(neurons)), width))
    return pd.concat(parts, ignore_index=True)


def common_neurons(scores: xr.DataArray, prompts: pd.DataFrame, *, t: float = 0.2, u: float = 0.3) -> pd.DataFrame:
    """The neurons in the clusters of more than a share u of the questions: `layer`, `neuron`, `cluster_count`.

    `scores`: of `scores_for("qrnca", ...)`. Raises `InputError` as `select`.

    Example
    -------
    >>> common_neurons(scores_for("qrnca", model, prompts), prompts)
    """
    return select(_clusters_of(scores)(prompts, t), u=u).common


def sizes(found: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
    """How many neurons each question of the prompts has in a table of `find`: `fact`, `language`, `size`, 0 included.

    Example
    -------
    >>> sizes(find("qrnca", model, prompts), prompts)["size"].mean()
    """
    counts = found.groupby(KEY).size()
    table = questions(prompts)[KEY]
    return table.assign(size=[int(counts.get(key, 0)) for key in table.itertuples(index=False, name=None)])


def _known(name: str) -> None:
    if name not in names():
        raise InputError("localizer", found=name, expected=Literal("one of " + " ".join(names())))


def _limits(top: int | pd.DataFrame | None, table: pd.DataFrame) -> dict[tuple[str, str], int] | None:
    """The most neurons of each question."""
    keys = list(table[KEY].itertuples(index=False, name=None))
    if top is None:
        return None
    if isinstance(top, pd.DataFrame):
        if not {*KEY, "size"} <= set(top) or top.duplicated(KEY).any():
            raise InputError("top", found=list(top), expected="columns fact, language, size, every question once")
        limits = dict(zip(zip(top["fact"], top["language"], strict=True), top["size"].tolist(), strict=True))
    elif isinstance(top, int | np.integer) and not isinstance(top, bool):
        limits = dict.fromkeys(keys, int(top))
    else:
        raise InputError("top", found=top, expected="a whole number, or a table of sizes")
    for fact, language in keys:
        if (fact, language) not in limits:
            raise InputError(
                "top", found=Literal(f"no size for question {fact} ({language})"), expected="all questions"
            )
        if limits[fact, language] < 0:
            raise InputError("top", found=limits[fact, language], expected="0 or more")
    return limits


def _clusters_of(scores: xr.DataArray) -> Callable[[pd.DataFrame, float], list[Cluster]]:
    """`question_clusters` of some prompts and t, from scores alone."""
    unknown = xr.full_like(scores[:, 0, 0], np.nan, dtype=float)
    gaps = xr.full_like(scores[:, :, 0], np.nan, dtype=float)
    holder = Attributions(scores, unknown, gaps, gaps, {})
    return lambda prompts, t: question_clusters(holder, prompts, t=t)


def _by_share(clusters: list[Cluster], u: float, v: int) -> pd.DataFrame:
    """The v best by na of each cluster, then without the common ones."""
    common = select(clusters, u=u, v=v).common
    frequent = set((common["layer"] * clusters[0].width + common["neuron"]).tolist())
    parts = []
    for c in clusters:
        best = np.lexsort((c.neurons, -c.na))[:v]
        kept = np.array([n not in frequent for n in c.neurons[best].tolist()], dtype=bool)
        parts.append(_rows(c.fact, c.language, c.neurons[best][kept], c.na[best][kept], c.width)
                     .assign(rank=1 + np.flatnonzero(kept)))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _frequent(clustered: Callable, scores: xr.DataArray, prompts: pd.DataFrame, t: float) -> pd.DataFrame:
    """Neurons above the threshold in at least two thirds of a question's wordings, best mean score first."""
    hits: dict[tuple[str, str], list[np.ndarray]] = {}
    for _, own in prompts.groupby("wording"):
        for c in clustered(own, t):
            hits.setdefault((c.fact, c.language), []).append(c.neurons)
    chosen = {}
    for key, found in hits.items():
        neurons, counts = np.unique(np.concatenate(found), return_counts=True)
        chosen[key] = neurons[3 * counts >= 2 * len(found)]
    return _ranked(_means(scores, prompts), chosen, None)


def _means(scores: xr.DataArray, prompts: pd.DataFrame) -> dict[tuple[str, str], np.ndarray]:
    """Each question's mean score over its prompts, [layers, neurons], by fact and language."""
    rows = {query: i for i, query in enumerate(scores["query"].values.tolist())}
    missing = [query for query in prompts["query"] if query not in rows]
    if missing:
        raise InputError("scores", found=Literal(f"none of query {missing[0]}"), expected="scores of all prompts")
    ordered = prompts.sort_values(["wording", "rotation"])
    return {
        key: scores.values[[rows[q] for q in own["query"]]].mean(0, dtype=np.float64)
        for key, own in ordered.groupby(KEY)
    }


def _ranked(means: dict, chosen: dict | None, limits: dict | None) -> pd.DataFrame:
    """The best neurons by mean score, among those chosen, as many as allowed."""
    parts = []
    for (fact, language), mean in means.items():
        neurons = np.arange(mean.size) if chosen is None else chosen[fact, language]
        values = mean.ravel()[neurons]
        best = np.lexsort((neurons, -values))[: None if limits is None else limits[fact, language]]
        parts.append(_rows(fact, language, neurons[best], values[best], mean.shape[1]))
    return pd.concat(parts, ignore_index=True)


def _drawn(limits: dict, model: Model, seed: int) -> pd.DataFrame:
    """As many neurons as each question may have, of all."""
    parts = []
    for (fact, language), size in sorted(limits.items()):
        draw = generator(seed, fact, language, "random")
        neurons = draw.choice(model.n_layers * model.n_neurons, size, replace=False)
        parts.append(_rows(fact, language, neurons, np.zeros(size), model.n_neurons))
    return pd.concat(parts, ignore_index=True)


def _rows(fact: str, language: str, neurons: np.ndarray, values: np.ndarray, width: int) -> pd.DataFrame:
    layer, neuron = np.divmod(neurons, width)
    return pd.DataFrame({"fact": fact, "language": language, "layer": layer, "neuron": neuron, "score": values,
                         "rank": np.arange(1, len(neurons) + 1)}, columns=COLUMNS)  # fmt: skip
