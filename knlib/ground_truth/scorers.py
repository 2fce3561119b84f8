"""What is compared, by name: ways to score neurons, localizers that start from scores, and their combinations, the rows.

Every method of `knlib.methods.METHODS` and every localizer of `knlib.localization.LOCALIZERS` is here without being named: one that is
registered since has its row.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ..attribution import Attributions
from ..attribution_store import stored_attributions
from ..baselines import shared_start
from ..errors import InputError, Literal
from ..localization import LOCALIZERS
from ..methods import METHODS
from ..models import Model
from ..sites import make_sites

MEAN = "dataset_mean"
# The localizer that adds least to a score: the mean of a fact's queries. Scores are compared by it.
PLAIN = "mean"


@dataclass(frozen=True)
class Scores:
    """`options` of `attribute`; every so many-th fact of a kind in a causal and in a masked model (a masked model reads whole sentences
    anew for each point of a path and each neuron), 0 for none."""

    options: dict = field(default_factory=dict)
    every: int = 1
    every_masked: int = 1


# Integrated gradients from several baselines, with several steps and objectives; `ig_riemann20` as Dai et al. (2022).
SCORES = {
    "ig": Scores(),
    "ig_riemann20": Scores({"quadrature": "riemann", "steps": 20}, every_masked=4),
    "ig_logprob": Scores({"objective": "logprob"}),
    "ig_dataset_mean": Scores({"baseline": MEAN}),
    "ig_mask_words_mean": Scores({"baseline": "mask_words_mean"}),
    "ig_mask_words": Scores({"baseline": "mask_words"}, every=2, every_masked=4),
}
# Methods that need more than a pass or two for a query.
SLOW = {"ablation": (8, 0)}  # half an hour for one planted fact of a shipped masked model (CPU)
# What all localizers start from, beside what is theirs: integrated gradients, and MATRICE's and AMIG's baseline.
STARTS = ("ig", "ig_mask_words")
# Localizers with other options than their own: what each uncertainty buys.
VARIANTS = {
    "re_lcb without query uncertainty": ("re_lcb", {"ablate": ("query",)}),
    "re_lcb without language uncertainty": ("re_lcb", {"ablate": ("language",)}),
    "re_lcb without both": ("re_lcb", {"ablate": ("query", "language")}),
}
# The rows that have a name of their own in the literature.
MATRICE = "re_lcb from ig_mask_words"
ORACLE = "ablation"


def scores() -> dict[str, Scores]:
    """All ways to score, by name: `SCORES`, and every method of `attribute` but `ig`.

    Example
    -------
    >>> list(scores())[-2:]
    ['ablation', 'random']
    """
    others = {name: Scores({"method": name}, *SLOW.get(name, (1, 1))) for name in METHODS if name != "ig"}
    return SCORES | others


def localizers() -> dict[str, tuple[str, dict]]:
    """All localizers that start from scores: name -> (name in `LOCALIZERS`, options).

    Example
    -------
    >>> localizers()["re_lcb"]
    ('re_lcb', {})
    """
    return {name: (name, {}) for name in LOCALIZERS} | VARIANTS


def rows() -> dict[str, tuple[str, str]]:
    """The combinations that are compared: name -> (scores, localizer).

    Every localizer on the scores of `STARTS`, and all other scores with the plain mean over queries, named by the scores alone.

    Example
    -------
    >>> rows()["gradient_x_activation"], rows()["amig from ig"]
    (('gradient_x_activation', 'mean'), ('ig', 'amig'))
    """
    alone = {name: (name, PLAIN) for name in scores()}
    return alone | {f"{name} from {start}": (start, name) for start in STARTS for name in localizers() if name != PLAIN}


def facts_of(name: str, facts: pd.DataFrame, model: Model) -> list[str]:
    """The facts that a score is computed for: all, or every so many-th of each kind where it is slow.

    `facts`: columns `fact`, `kind`. Raises `InputError` for an unknown score.

    Example
    -------
    >>> len(facts_of("ablation", study.facts, study.model)), len(facts_of("ig", study.facts, study.model))
    (32, 236)
    """
    known = scores()
    if name not in known:
        raise InputError("scores", found=name, expected=Literal("one of " + " ".join(known)))
    every = known[name].every if model.kind == "causal" else known[name].every_masked
    place = facts.groupby("kind", sort=False).cumcount()
    return facts.loc[place % every == 0, "fact"].tolist() if every else []


def attributions(
    name: str, model: Model, queries: pd.DataFrame, *, folder, mean: np.ndarray | None = None
) -> Attributions:
    """A score of `scores()` for some queries, [query, layer, neuron], from the resumable store in `folder`.

    `mean`: neurons that paths begin from, of `mean_neurons`, for `ig_dataset_mean`. Raises `InputError` as `attribute`.

    Example
    -------
    >>> attributions("gradient_x_activation", model, queries, folder="runs/scores")
    """
    options = dict(scores()[name].options)
    if options.get("baseline") == MEAN:
        options["baseline"] = mean
    return stored_attributions(model, queries, folder=folder, batch=16, **options)


def mean_neurons(model: Model, queries: pd.DataFrame) -> np.ndarray:
    """Mean over all sites of the queries, [layers, neurons]: the baseline of `ig_dataset_mean`.

    Example
    -------
    >>> mean_neurons(model, queries).shape
    (8, 1144)
    """
    sites = make_sites(model, queries, sites="mean", objective="prob")
    return shared_start(model, sites, MEAN, list(range(model.n_layers))).cpu().numpy()
