"""Attributions of the study's queries by the three localizers that it compares (spec, 2.2), in two modes.

`paper` keeps the inherited formula with its path and points; `ours` multiplies by the length of the path, so that scores add
up to the change of the probability, with the engine's adaptive rule.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ..attribution import Attributions
from ..attribution_store import RUNS, stored_attributions
from ..baselines import shared_start
from ..errors import InputError, Literal
from ..models import Model
from ..sites import make_sites
from .study import Study

METHODS = ("ig", "sig", "amig")
MODES = ("ours", "paper")
BATCH = 64


def located(
    study: Study,
    method: str = "ig",
    mode: str = "ours",
    *,
    queries: pd.DataFrame | None = None,
    model: Model | None = None,
    finer: bool = False,
    folder: str | Path = RUNS,
    progress: bool = False,
) -> Attributions:
    """Scores [query, layer, neuron] of all queries of the study, in their order, from the resumable store in `folder`.

    - `ig`: from zero (Dai et al. 2022, arXiv 2104.08696).
    - `sig`: from the mean neurons of the prompt with one token masked (Enguehard 2023, arXiv 2305.15853); times the neurons,
      not the difference, in mode `paper`.
    - `amig`: from the mean over all sites of the study (Chen et al. 2024, arXiv 2308.13198); times the neurons, on the path
      from zero to the difference, in mode `paper`.

    Mode `paper`: 20 points, the answer's first token (spec, 2.2). For retests: other `queries` (a part of the study's, or
    edited ones), another `model` (the study's with other weights), `finer` integration: 50 points in mode `paper`, tolerance
    1e-3 in mode `ours`. The study's baseline stays.

    Raises `InputError` for other methods and modes.

    Example
    -------
    >>> located(study, "ig").scores.sizes
    """
    if method not in METHODS or mode not in MODES:
        raise InputError("method, mode", found=Literal(f"{method}, {mode}"),
                         expected=f"one of {' '.join(METHODS)}, one of {' '.join(MODES)}")  # fmt: skip
    options = _options(study, method, mode) | (_FINER[mode] if finer else {})
    return stored_attributions(
        study.model if model is None else model, study.queries if queries is None else queries,
        folder=folder, progress=progress, batch=BATCH, **options,
    )  # fmt: skip


_FINER = {"ours": {"tolerance": 1e-3}, "paper": {"steps": 50}}


def _options(study: Study, method: str, mode: str) -> dict:
    baseline = {"sig": "mask_words_mean"}.get(method, "zero")
    if method == "amig":
        baseline = _mean(study, "mean" if mode == "ours" else "first")
    if mode == "ours":
        return {"baseline": baseline}
    rule, formula = {"ig": ("linspace", "difference"), "sig": ("left", "neurons"), "amig": ("linspace", "shifted")}[
        method
    ]
    return {"baseline": baseline, "formula": formula, "quadrature": rule, "steps": 20, "sites": "first"}


def _mean(study: Study, sites: str) -> np.ndarray:
    """The mean neurons over all sites of the study, or over the first of each query, [layers, neurons]."""
    places = make_sites(study.model, study.queries, sites=sites, objective="prob")
    start = shared_start(study.model, places, "dataset_mean", list(range(study.model.n_layers)))
    return start.cpu().numpy()
