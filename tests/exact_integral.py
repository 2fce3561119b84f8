"""Queries over Atlas, and the integral along a path by a rule too fine to be wrong, to measure others against."""

import random

import numpy as np
import pandas as pd
import torch

from knlib.languages import CODES
from knlib.quadrature import objective_points
from knlib.queries import build_queries

# Panels of a path and Gauss points on each; half as many panels give the same scores to 1e-5 (benchmarks/quadrature.py).
FINE = {"causal": (8, 16), "masked": (4, 16)}


def atlas_queries(facts: pd.DataFrame, templates: pd.DataFrame, count: int) -> pd.DataFrame:
    """`count` queries that go round languages and relations, in trained and held-out phrasings by turns."""
    relations, found = sorted(facts["relation"].unique()), []
    for i in range(count):
        language, relation = CODES[i % len(CODES)], relations[(i + i // len(CODES)) % len(relations)]
        of_cell = (templates["language"] == language) & (templates["relation"] == relation)
        own = templates[of_cell & (templates["split"] == ("train", "held_out")[i % 2])]
        names = sorted(facts.loc[facts["relation"] == relation, "fact"])
        random.Random(i).shuffle(names)
        made = (build_queries(facts[facts["fact"] == name], own)[0] for name in names)
        found.append(next(queries for queries in made if len(queries)).sample(1, random_state=i))
    return pd.concat(found, ignore_index=True)


def fine_scores(batch, panels: int, points: int) -> np.ndarray:
    """Scores by composite Gauss-Legendre, all panels alike, summed in float64, [paths, layers, neurons]."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    paths, layers = len(batch.owner), len(batch.layers)
    mean: torch.Tensor | float = 0.0
    for panel in range(panels):
        alpha = (panel + (nodes + 1) / 2) / panels
        p, k, a = (x.ravel() for x in np.meshgrid(np.arange(paths), np.arange(layers), alpha, indexing="ij"))
        _, gradients = objective_points(*batch.measure(p, k, a), batch.objective)
        share = torch.as_tensor(weights / 2 / panels)
        mean = mean + torch.einsum("plnd,n->pld", gradients.view(paths, layers, points, -1).double(), share)
    found = [batch.difference_neurons(k) * batch.project(k, mean[:, k].to(batch.neurons.dtype)) for k in range(layers)]
    return torch.stack(found, 1).double().numpy()
