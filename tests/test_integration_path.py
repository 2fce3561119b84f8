"""The path drawn is the path integrated: against scaled neurons, finite differences, attributions, and a loop."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.attribution import attribute
from knlib.integration_path import layer_areas, path_curve, rule_errors
from knlib.intervention import scale
from knlib.sites import make_sites

# The second answer has two tokens: the first is the site.
QUERIES = pd.DataFrame({
    "query": ["one", "two"], "prompt": ["bada kilo", "nu sipo ta"], "space": ["", ""], "answer": ["pe", "mota"],
    "suffix": [".", "."],
})  # fmt: skip
KINDS = ["gpt2", "llama", "bert"]


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_probability_is_that_of_the_model_with_the_layer_scaled(kind):
    model = tiny_model(kind)
    curve = path_curve(model, QUERIES, np.array([0, 0.3, 1])).set_index(["query", "layer", "alpha"])["probability"]
    assert len(curve) == 2 * model.n_layers * 3
    for name, site in zip(QUERIES["query"], make_sites(model, QUERIES, sites="first"), strict=True):
        ids = torch.tensor([site.ids])
        for layer in range(model.n_layers):
            every = [(layer, neuron) for neuron in range(model.n_neurons)]
            for alpha in (0, 0.3, 1):
                with scale(model, every, alpha, [[site.position]]):
                    logits = model.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
                expected = logits[0, site.position].softmax(-1)[site.target].item()
                assert curve[name, layer, alpha] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_slope_is_the_derivative_and_its_integral_the_sum_of_scores(kind):
    model, step = tiny_model(kind), 1e-5
    curve = path_curve(model, QUERIES, np.array([0.4 - step, 0.4, 0.4 + step]))
    low, middle, high = (curve[curve["alpha"] == a].reset_index() for a in sorted(curve["alpha"].unique()))
    difference = (high["probability"] - low["probability"]) / (2 * step)
    assert np.allclose(middle["slope"], difference, rtol=1e-5, atol=1e-9)
    nodes, weights = np.polynomial.legendre.leggauss(48)
    fine = path_curve(model, QUERIES, (nodes + 1) / 2)
    sums = attribute(model, QUERIES, sites="first", tolerance=1e-8).scores.sum("neuron").values
    found = fine["slope"].to_numpy().reshape(2, model.n_layers, -1) @ (weights / 2)
    assert np.abs(found - sums).max() < 1e-6 * np.abs(sums).max()


def test_areas_are_the_effect_and_the_sum_of_right_ends():
    model = tiny_model("gpt2")
    areas = layer_areas(path_curve(model, QUERIES.head(1), np.linspace(0, 1, 21)), 10)
    options = {"sites": "first", "quadrature": "riemann", "steps": 10, "engine": "reference"}
    riemann = attribute(model, QUERIES.head(1), **options).scores.sum("neuron").values[0]
    exact = attribute(model, QUERIES.head(1), sites="first", tolerance=1e-8).scores.sum("neuron").values[0]
    assert areas["riemann"].to_numpy() == pytest.approx(riemann, rel=1e-8)
    assert areas["change"].to_numpy() == pytest.approx(exact, rel=1e-5)
    assert (areas["riemann"] - areas["change"]).abs().max() > 1e-6


def test_rule_errors_are_those_of_attribute():
    model = tiny_model("gpt2")
    table = rule_errors(model, QUERIES, rules={"riemann": [5, 20], "left": [20], "gauss": [5]}, tolerances=[1e-2])
    options = {"sites": "first", "engine": "reference"}
    true = attribute(model, QUERIES, quadrature="gauss", steps=128, **options).scores.values
    for (name, steps), rows in table[table["rule"] != "adaptive"].groupby(["rule", "setting"]):
        scores = attribute(model, QUERIES, quadrature=name, steps=int(steps), **options).scores.values
        expected = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(scores, true, strict=True)]
        assert rows["query"].tolist() == ["one", "two"]
        assert rows["error"].to_numpy() == pytest.approx(np.array(expected), rel=1e-6)
    assert table["error"].min() > 0


def test_paid_nodes_leave_out_the_shared_end():
    model = tiny_model("llama")
    rules = {"riemann": [20], "left": [20], "linspace": [20], "gauss": [5]}
    table = rule_errors(model, QUERIES, rules=rules, tolerances=[1e-1, 1e-6])
    fixed = table[table["rule"] != "adaptive"].groupby("rule")["nodes"].unique()
    assert {name: found.tolist() for name, found in fixed.items()} == {
        "riemann": [19], "left": [20], "linspace": [19], "gauss": [5]
    }  # fmt: skip
    adaptive = table[table["rule"] == "adaptive"].set_index(["setting", "query"])
    assert (adaptive.loc[1e-6, "nodes"] > adaptive.loc[1e-1, "nodes"]).all()
    assert (adaptive.loc[1e-6, "error"] < 1e-5).all()
    assert (adaptive.loc[1e-1, "nodes"] >= 2).all()
