"""On the shipped models the default is accurate, and says truly how accurate it is."""

import numpy as np
import pytest
from exact_integral import FINE, atlas_queries, fine_scores

from knlib.attribution import attribute
from knlib.methods import Scorer
from knlib.models import SHIPPED, load_model
from knlib.sites import make_sites

QUERIES = {"causal": 12, "masked": 6}  # each in another language
# Rounding of float32, over a query's largest score: below it no estimate can say anything.
ROUNDING = 1e-5


@pytest.fixture(scope="module", params=["atlas-llama", "atlas-gpt2", "atlas-bert"])
def measured(request, facts, templates):
    """The default's attributions and their true errors [query, layer], over each query's largest score."""
    if not (SHIPPED / request.param).is_dir():
        pytest.skip(f"{request.param} is not shipped")
    model = load_model(request.param, device="cpu")
    queries = atlas_queries(facts, templates, QUERIES[model.kind])
    assert queries["language"].nunique() == len(queries) and queries["relation"].nunique() >= 6
    found = attribute(model, queries, sites="first")
    sites = make_sites(model, queries, sites="first")
    batch = Scorer(model, list(range(model.n_layers)), {"engine": "auto"}, None).make(sites, "prob", 4096)
    exact = fine_scores(batch, *FINE[model.kind])
    largest = np.abs(exact).max((1, 2))
    return found, np.abs(found.scores.values - exact).max(-1) / largest[:, None]


def test_the_estimate_bounds_the_error(measured):
    found, errors = measured
    assert (errors <= found.error_estimate.values + ROUNDING).mean() >= 0.95


def test_the_default_is_accurate(measured):
    _, errors = measured
    worst_layer = errors.max(1)
    assert np.median(worst_layer) <= 0.01
    assert worst_layer.max() <= 0.05
