"""Attributions of the study's queries by the three localizers that it compares (spec, 2.2), in two modes.

`paper` keeps the inherited formula with its path and points; `ours` multiplies by the length of the path, so that scores add
up to the change of the probability, with the engine's adaptive rule.
"""

from pathlib import Path

import numpy as np

from ..attribution import Attributions
from ..attribution_store import RUNS, stored_attributions
from ..baselines import shared_start
from ..errors import InputError, Literal
from ..sites import make_sites
from .study import Study

METHODS = ("ig", "sig", "amig")
MODES = ("ours", "paper")
BATCH = 64


def located(
    study: Study, method: str = "ig", mode: str = "ours", *, folder: str | Path = RUNS, progress: bool = False
) -> Attributions:
    """Scores [query, layer, neuron] of all queries of the study, in their order, from the resumable store in `folder`.

    - `ig`: from zero (Dai et al. 2022, arXiv 2104.08696).
    - `sig`: from the mean neurons of the prompt with one token masked (Enguehard 2023, arXiv 2305.15853).
    - `amig`: from the mean over all sites of the study (Chen et al. 2024, arXiv 2308.13198).

    Raises `InputError` for other methods and modes.

    Example
    -------
    >>> located(study, "ig").scores.sizes
    """
    if method not in METHODS or mode not in MODES:
        raise InputError("method, mode", found=Literal(f"{method}, {mode}"),
                         expected=f"one of {' '.join(METHODS)}, one of {' '.join(MODES)}")  # fmt: skip
    options = _options(study, method, mode)
    return stored_attributions(study.model, study.queries, folder=folder, progress=progress, batch=BATCH, **options)


def _options(study: Study, method: str, mode: str) -> dict:
    paper = {"steps": 20, "sites": "first"}
    if method == "ig":
        return {} if mode == "ours" else paper | {"quadrature": "linspace"}
    if method == "sig":
        return {"baseline": "mask_words_mean"} | ({} if mode == "ours" else paper | {"quadrature": "left"})
    return {"baseline": _mean(study)} | ({} if mode == "ours" else paper | {"quadrature": "linspace"})


def _mean(study: Study) -> np.ndarray:
    """The mean neurons over all sites of the study, [layers, neurons]."""
    sites = make_sites(study.model, study.queries, sites="mean", objective="prob")
    start = shared_start(study.model, sites, "dataset_mean", list(range(study.model.n_layers)))
    return start.cpu().numpy()
