"""What lies along the path of integrated gradients, and how far off every rule is: for looking, not for scores."""

import numpy as np
import pandas as pd
import torch

from .methods import ROWS
from .models import Model
from .probe import best_plan
from .quadrature import Integral, integrate_adaptive, integrate_fixed, objective_points, rule, totals
from .reference import PathBatch, ReferenceBatch
from .sites import make_sites
from .staircase import StaircaseBatch

# What other rules are compared with: nodes crowd at the ends, where layers that a norm follows turn sharply.
TRUTH = ("gauss", 128)


def path_curve(model: Model, queries: pd.DataFrame, alphas: np.ndarray) -> pd.DataFrame:
    """P(first answer token) while one layer's neurons at the answer's position grow from zero to what they are.

    `alphas` [points]: shares of the neurons' own values, in [0, 1]. Returns one row per query, layer and point: `query`,
    `layer`, `alpha`, `probability`, `slope` (dP/d alpha: the integrand; its integral from 0 to 1 is P(1) - P(0), which is
    also the sum of the layer's scores; Sundararajan et al. 2017, arXiv 1703.01365, proposition 1).

    Example
    -------
    >>> curve = path_curve(model, queries.head(1), np.linspace(0, 1, 21))
    >>> curve.columns.tolist(), len(curve)
    (['query', 'layer', 'alpha', 'probability', 'slope'], 168)
    """
    batch, alphas = _batch(model, queries), np.asarray(alphas, dtype=float)
    shape = (len(queries), model.n_layers, len(alphas))
    p, k, i = (x.ravel() for x in np.meshgrid(*map(np.arange, shape), indexing="ij"))
    values, gradients = objective_points(*batch.measure(p, k, alphas[i]), "prob")
    steps = torch.stack([batch.difference(layer) for layer in range(model.n_layers)], dim=1)
    slopes = totals(gradients * steps[p, k])
    return pd.DataFrame({"query": queries["query"].to_numpy()[p], "layer": k, "alpha": alphas[i],
                         "probability": values, "slope": slopes})  # fmt: skip


def layer_areas(curve: pd.DataFrame, steps: int) -> pd.DataFrame:
    """The area under each layer's slope, and what a sum over `steps` right ends takes it for.

    `curve`: `path_curve` of one query from alpha 0 to 1; slopes between its points are interpolated. Returns, by layer,
    `change` (P(1) - P(0), which is the area) and `riemann`.

    Example
    -------
    >>> layer_areas(path_curve(model, queries.head(1), np.linspace(0, 1, 201)), 20).loc[0, "riemann"]
    """
    ends, rows = np.arange(1, steps + 1) / steps, {}
    for layer, line in curve.groupby("layer"):
        change = line["probability"].iloc[-1] - line["probability"].iloc[0]
        rows[layer] = {"change": change, "riemann": np.interp(ends, line["alpha"], line["slope"]).mean()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("layer")


def rule_errors(
    model: Model, queries: pd.DataFrame, *, rules: dict[str, list[int]], tolerances: list[float]
) -> pd.DataFrame:
    """How far the scores of every rule are from those of 128 Gauss points, at the first site of the queries.

    `rules`: names of `knlib.quadrature.rule` and their numbers of steps; `tolerances` of the adaptive rule. Returns one
    row per rule, setting and query: `rule`, `setting` (steps or tolerance), `query`, `nodes` (points computed per layer,
    mean over layers, without the path's end, which all layers share) and `error` (largest error of a score over the
    largest score of the query).

    Example
    -------
    >>> table = rule_errors(model, queries, rules={"riemann": [20]}, tolerances=[1e-2])
    >>> table.groupby("rule")[["nodes", "error"]].max()
    """
    batch = _batch(model, queries)
    true = _scores(batch, integrate_fixed(batch, *TRUTH))
    largest = np.abs(true).max((1, 2))
    found = []

    def note(name: str, setting: float, integral: Integral, nodes: np.ndarray) -> None:
        errors = np.abs(_scores(batch, integral) - true).max((1, 2)) / largest
        found.append(pd.DataFrame({"rule": name, "setting": setting, "query": queries["query"].to_numpy(),
                                   "nodes": nodes, "error": errors}))  # fmt: skip

    for name, sizes in rules.items():
        for steps in sizes:
            # `integrate_fixed` also computes the path's start for its completeness gap; the rule does not need it.
            paid = np.full(len(queries), float((rule(name, steps)[0] < 1).sum()))
            note(name, steps, integrate_fixed(batch, name, steps), paid)
    for tolerance in tolerances:
        integral = integrate_adaptive(batch, tolerance)
        note("adaptive", tolerance, integral, integral.nodes.mean(1))
    return pd.concat(found, ignore_index=True)


def _batch(model: Model, queries: pd.DataFrame) -> PathBatch:
    sites, layers = make_sites(model, queries, sites="first"), list(range(model.n_layers))
    rows, plan = ROWS.get(model.device.type, 4096), best_plan(model)
    if plan is None:
        batch = ReferenceBatch(model, sites, layers, "prob")
    else:
        batch = StaircaseBatch(model, sites, layers, "prob", plan, rows)
    batch.set_paths(list(range(len(sites))), None)
    return batch


def _scores(batch: PathBatch, integral: Integral) -> np.ndarray:
    """[queries, layers, neurons]"""
    scores = [batch.difference_neurons(k) * batch.project(k, integral.gradient[:, k]) for k in range(len(batch.layers))]
    return torch.stack(scores, 1).cpu().double().numpy()
