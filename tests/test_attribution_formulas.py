"""Published formulas beside the complete one: times the neurons, and along the path from zero to (neurons - baseline)."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.attribution import attribute, describe
from knlib.errors import InputError
from knlib.reference import ReferenceBatch
from knlib.sites import make_sites

QUERIES = pd.DataFrame({
    "query": ["one", "two"], "prompt": ["bada kilo", "nu sipo ta"], "space": ["", ""], "answer": ["pe", "mo"],
    "suffix": [".", "."],
})  # fmt: skip
KINDS = ["gpt2", "llama", "gemma2", "opt", "bert"]


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def some_baseline(model):
    return np.random.default_rng(0).normal(size=(model.n_layers, model.n_neurons)) / 10


def by_hand(model, formula, nodes):
    """Mean gradient of the probability over the nodes, one forward pass for each, times the neurons."""
    sites = make_sites(model, QUERIES, sites="first")
    batch = ReferenceBatch(model, sites, list(range(model.n_layers)), "prob")
    found = np.zeros(batch.neurons.shape)
    for s in range(len(sites)):
        for layer, b in enumerate(torch.tensor(some_baseline(model))):
            w = batch.neurons[s, layer]
            start = b if formula == "neurons" else torch.zeros_like(b)
            points = torch.stack([start + a * (w - b) for a in nodes])
            log_p, gradients = batch.replaced(s, layer, points, True)
            mean = (gradients * torch.tensor(np.exp(log_p))[:, None]).mean(0)
            found[s, layer] = (w * mean).numpy()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("formula", "rule", "nodes"),
    [("neurons", "left", np.arange(5) / 5), ("shifted", "linspace", np.linspace(0, 1, 5))],
)
def test_published_formulas_by_hand(kind, formula, rule, nodes):
    model = tiny_model(kind)
    options = {"baseline": some_baseline(model), "formula": formula, "quadrature": rule, "steps": 5, "sites": "first"}
    expected = by_hand(model, formula, nodes)
    for engine in ("auto", "reference"):
        found = attribute(model, QUERIES, engine=engine, **options)
        assert np.abs(found.scores.values - expected).max() < 1e-10 * np.abs(expected).max()


# Not OPT: its ReLUs bend the path, Gauss points converge slowly there.
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "bert"])
@pytest.mark.parametrize("baseline", ["mask_words_mean", "dataset_mean"])
def test_only_the_difference_is_complete_and_the_gap_of_the_others_is_stored(kind, baseline):
    model = tiny_model(kind)
    options = {"baseline": baseline, "quadrature": "gauss", "steps": 64}
    gaps = {
        f: attribute(model, QUERIES, formula=f, **options).completeness_gap
        for f in ("difference", "neurons", "shifted")
    }
    assert gaps["difference"].max() < 1e-6
    assert gaps["neurons"].max() > 0.01 and gaps["shifted"].max() > 0.01
    assert all(np.isfinite(gap).all() for gap in gaps.values())


def test_from_zero_all_formulas_are_one():
    model = tiny_model("gpt2")
    found = [attribute(model, QUERIES, formula=f).scores for f in ("difference", "neurons", "shifted")]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_the_formula_is_named_where_it_is_not_the_complete_one():
    model = tiny_model("gpt2")
    assert describe(model, QUERIES, {"formula": "shifted"})["options"]["formula"] == "shifted"
    assert describe(model, QUERIES, {"formula": "difference"}) == describe(model, QUERIES, {})
    with pytest.raises(InputError, match="formula: found 'half', expected one of difference neurons shifted"):
        attribute(model, QUERIES, formula="half")
    with pytest.raises(InputError, match="formula: found 'neurons', expected difference with method ablation"):
        attribute(model, QUERIES, formula="neurons", method="ablation")
