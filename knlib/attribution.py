"""Scores of neurons for answers: integrated gradients and simpler methods, for every query, layer and neuron."""

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from inspect import Parameter, signature

import numpy as np
import pandas as pd
import torch
import xarray as xr
from tqdm.auto import tqdm

from .baselines import BASELINES, shared_start
from .errors import InputError, Literal
from .methods import ENGINES, FORMULAS, METHODS, Scorer
from .models import Model
from .probe import best_plan, out_of_memory
from .rules import rule
from .sites import Site, make_sites


@dataclass(frozen=True, eq=False)
class Attributions:
    """What `attribute` found.

    `scores` [query, layer, neuron]: how much each neuron contributes, in the objective's unit. `probability` [query]: the
    answer's, a product over its tokens (the first token's with `sites="first"`). `completeness_gap` [query,
    layer]: |sum of the scores - change of the objective along the path| over the query's largest change in any layer.
    `error_estimate` [query, layer]: estimated largest error of a score over the query's largest score; look at
    its maximum, not its median. Both are NaN for methods without a path. `provenance`: model, options, path used, versions.
    """

    scores: xr.DataArray
    probability: xr.DataArray
    completeness_gap: xr.DataArray
    error_estimate: xr.DataArray
    provenance: dict

    def top(self, k: int) -> pd.DataFrame:
        """The k scores of largest magnitude of every query: columns `query`, `layer`, `neuron`, `score`, `dropped`.

        `dropped` is the share of the query's summed |score| that the other neurons hold.
        """
        flat = self.scores.values.reshape(len(self.scores), -1)
        k = min(k, flat.shape[1])
        order = np.argsort(-np.abs(flat), axis=1, kind="stable")[:, :k]
        kept = np.take_along_axis(flat, order, axis=1)
        total = np.abs(flat).sum(1, dtype=np.float64)
        dropped = 1 - np.abs(kept).sum(1, dtype=np.float64) / np.where(total > 0, total, 1)
        layer, neuron = np.divmod(order, self.scores.shape[2])
        return pd.DataFrame({
            "query": np.repeat(self.scores["query"].values, k), "layer": self.scores["layer"].values[layer].ravel(),
            "neuron": neuron.ravel(), "score": kept.ravel(), "dropped": np.repeat(dropped.clip(0), k),
        })  # fmt: skip


def attribute(
    model: Model,
    queries: pd.DataFrame,
    *,
    method: str = "ig",
    objective: str = "prob",
    baseline: str | float | np.ndarray = "zero",
    formula: str = "difference",
    quadrature: str = "adaptive",
    tolerance: float = 1e-2,
    steps: int = 20,
    sites: str = "mean",
    layers: list[int] | None = None,
    engine: str = "auto",
    batch: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> Attributions:
    """How much every neuron contributes to the answers of the queries.

    Integrated gradients of the objective along the straight line from a baseline to the neurons of one layer at the
    position that predicts the answer, all neurons of the layer together, one layer at a time (Dai et al. 2022, eq. 1,
    arXiv 2104.08696; Sundararajan et al. 2017, arXiv 1703.01365), times (neurons - baseline).

    - `method`: `ig`; `gradient_x_activation` (the end of the path only); `activation`; `ablation` (the objective minus
      the objective with one neuron at its baseline, exact, for every neuron); `random`.
    - `objective`: `prob`, `logprob`, `margin` (log p(answer) - mean log p(alternatives), column `alternatives`). With a
      column `token_sets` of the queries (see `knlib.sites.make_sites`), each p sums over a set of tokens.
    - `baseline`: `zero`; `mask_words` (each prompt token replaced by a mask, or the end of text in a causal model: one path
      each, mean of the scores); `mask_words_mean` (one path from their mean); `dataset_mean` (over all sites of the
      queries); an array [all layers, neurons]; or a number, times the neurons (2, with `ablation`: what doubling does).
    - `formula`, of `ig`: `difference`, times (neurons - baseline) from the baseline to the neurons: complete. For parity with
      published code, both incomplete: `neurons`, times the neurons on that path; `shifted`, times the neurons from zero
      to (neurons - baseline).
    - `quadrature`: `adaptive` to `tolerance` times the query's largest score, or a rule of `knlib.rules.rule` with
      `steps` points.
    - `sites`: `mean` over the answer's tokens, each with the gold tokens before it, or the `first` only.
    - `layers`: all, or a list of layer numbers. `engine`: `auto` is the staircase where the probe finds it exact, else
      the reference; `batch` queries' sites share a pass.

    Raises `InputError` for unknown names, wrong shapes, empty prompts, prompts beyond the context, scores that are not
    finite (naming query and layer).

    Example
    -------
    >>> found = attribute(model, queries.head(2))
    >>> found.scores.dims, found.scores.shape
    (('query', 'layer', 'neuron'), (2, 8, 768))
    """
    options = {"method": method, "objective": objective, "baseline": baseline, "formula": formula,
               "quadrature": quadrature, "tolerance": tolerance, "steps": steps, "sites": sites, "layers": layers, "engine": engine,
               "batch": batch, "seed": seed}  # fmt: skip
    _check(model, options)
    names = queries["query"] if "query" in queries else pd.Series(range(len(queries)))
    layers = list(range(model.n_layers)) if layers is None else list(layers)
    places = make_sites(model, queries, sites=sites, objective=objective)
    found = _Sum(len(queries), layers, model, names.tolist())
    scorer = Scorer(model, layers, options, shared_start(model, places, baseline, layers))
    places.sort(key=lambda site: len(site.ids))
    with tqdm(total=len(places), unit="site", disable=not progress, desc=model.name) as bar:
        while places:
            now = places[: min(batch, scorer.sites)]
            result = None
            try:
                result = scorer.score(now)
            except RuntimeError as error:
                if not out_of_memory(error) or not scorer.halve(len(now)):
                    raise
            if result is None:
                scorer.release()
                continue
            found.add(now, *result)
            places = places[len(now) :]
            bar.update(len(now))
    return found.finish(describe(model, queries, options))


def describe(model: Model, queries: pd.DataFrame, options: dict) -> dict:
    """What a result depends on: model and hash, all options of `attribute`, the path used, the queries, versions."""
    defaults = {
        name: p.default for name, p in signature(attribute).parameters.items() if p.default is not Parameter.empty
    }
    options = {name: options.get(name, value) for name, value in defaults.items() if name != "progress"}
    if options["formula"] == "difference":
        del options["formula"]  # stores from before there was a choice stay valid
    if np.ndim(options["baseline"]) == 0 and not isinstance(options["baseline"], str):
        options["baseline"] = float(options["baseline"])
    elif not isinstance(options["baseline"], str):
        values = np.ascontiguousarray(options["baseline"], dtype=np.float64)
        options["baseline"] = "array " + hashlib.sha256(values.tobytes()).hexdigest()[:16]
    plan = None if options["engine"] == "reference" else best_plan(model)
    return {
        "model": model.name, "model_hash": model.hash, "dtype": str(next(model.network.parameters()).dtype),
        "device": model.device.type, "path": "reference" if plan is None else str(plan), "options": options,
        "queries": query_hash(queries),
        "versions": {name: version(name) for name in ("knlib", "torch", "transformers", "numpy")},
    }  # fmt: skip


def query_hash(queries: pd.DataFrame) -> str:
    """16 hex digits of what the queries ask, row by row, in order."""
    columns = [
        c for c in ("query", "prompt", "space", "answer", "suffix", "alternatives", "token_sets") if c in queries
    ]
    text = queries[columns].to_json(orient="split", index=False, force_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check(model: Model, options: dict) -> None:
    for name, allowed in (("method", METHODS), ("engine", ENGINES), ("formula", FORMULAS)):
        if options[name] not in allowed:
            raise InputError(name, found=options[name], expected=Literal("one of " + " ".join(allowed)))
    if options["method"] != "ig" and options["formula"] != "difference":
        raise InputError("formula", found=options["formula"], expected=f"difference with method {options['method']}")
    if options["quadrature"] != "adaptive":
        rule(options["quadrature"], options["steps"])
    elif not 0 < options["tolerance"] < 1:
        raise InputError("tolerance", found=options["tolerance"], expected="a number between 0 and 1")
    baseline = options["baseline"]
    if isinstance(baseline, str):
        if baseline not in BASELINES:
            raise InputError("baseline", found=baseline, expected=Literal("an array or one of " + " ".join(BASELINES)))
    elif np.shape(baseline) not in ((), (model.n_layers, model.n_neurons)):
        raise InputError("baseline", found=Literal(f"shape {np.shape(baseline)}"),
                         expected=f"a number, or [layers, neurons] = ({model.n_layers}, {model.n_neurons})")  # fmt: skip
    for layer in options["layers"] or ():
        if not 0 <= layer < model.n_layers:
            raise InputError("layers", found=layer, expected=f"numbers from 0 to {model.n_layers - 1}")
    if options["layers"] is not None and (
        not options["layers"] or len(set(options["layers"])) < len(options["layers"])
    ):
        raise InputError("layers", found=options["layers"], expected="at least one layer, each once")
    dtype = next(model.network.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        # Attributions in bfloat16 are off by 1-15 %.
        raise InputError("model", found=Literal(f"weights in {dtype}"), expected="float32: load_model's default")


class _Sum:
    """Means over the sites of each query."""

    def __init__(self, queries: int, layers: list[int], model: Model, names: list):
        self.layers, self.names = layers, names
        dtype = np.float64 if next(model.network.parameters()).dtype == torch.float64 else np.float32
        self.scores = np.zeros((queries, len(layers), model.n_neurons), dtype)
        self.changes, self.errors = np.zeros((2, queries, len(layers)))
        self.log_p, self.count = np.zeros((2, queries))

    def add(self, sites: list[Site], scores, log_p, changes, errors) -> None:
        for i, site in enumerate(sites):
            bad = ~np.isfinite(scores[i]).all(-1)
            if bad.any():
                raise InputError(f"query {self.names[site.query]}, layer {self.layers[int(bad.argmax())]}",
                                 found=Literal("a score that is not finite"), expected="finite scores")  # fmt: skip
            self.scores[site.query] += scores[i]
            self.changes[site.query] += changes[i]
            self.errors[site.query] += errors[i]
            self.log_p[site.query] += log_p[i]
            self.count[site.query] += 1

    def finish(self, provenance: dict) -> Attributions:
        count = self.count[:, None]
        self.scores /= count[..., None].astype(self.scores.dtype)
        changes, errors = self.changes / count, self.errors / count
        largest = np.abs(self.scores).max((1, 2)).astype(float)[:, None]
        moved = np.abs(changes).max(1, keepdims=True)
        gap = np.abs(self.scores.sum(-1, dtype=np.float64) - changes)
        coordinates = {"query": self.names, "layer": self.layers}
        two = {"dims": ("query", "layer"), "coords": coordinates}
        return Attributions(
            scores=xr.DataArray(self.scores, dims=("query", "layer", "neuron"),
                                coords=coordinates | {"neuron": np.arange(self.scores.shape[2])}),
            # Rounded in float32, a sum of logarithms may end just above 0.
            probability=xr.DataArray(np.exp(np.minimum(self.log_p, 0)), dims=("query",), coords={"query": self.names}),
            completeness_gap=xr.DataArray(gap / np.where(moved > 0, moved, 1), **two),
            error_estimate=xr.DataArray(errors / np.where(largest > 0, largest, 1), **two),
            provenance=provenance,
        )  # fmt: skip
