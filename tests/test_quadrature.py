"""Rules and the adaptive integrator, against integrals known in closed form."""

import numpy as np
import pytest
import torch

from knlib.errors import InputError
from knlib.quadrature import integrate_adaptive, integrate_fixed, panel_error
from knlib.rules import RULES, rule


class Toy:
    """A batch of one path per weight vector: F(v) = f(c . v), one layer, from zero to w. `calls` counts points."""

    layers, objective, owner = [0], "logprob", [0]

    def __init__(self, function, slope, weights, neurons, objective="logprob"):
        self.function, self.slope, self.objective = function, slope, objective
        self.weights, self.ends = torch.tensor(weights, dtype=torch.float64), torch.tensor(neurons, dtype=torch.float64)
        self.owner, self.neurons, self.calls = list(range(len(self.ends))), self.ends[:, None], 0

    def measure(self, path, layer, alpha):
        self.calls += len(path)
        points = self.ends[path] * torch.as_tensor(alpha)[:, None]
        x = points @ self.weights
        return self.function(x).numpy(), self.slope(x)[:, None] * self.weights

    def difference(self, layer):
        return self.ends

    difference_neurons = difference

    def project(self, layer, gradient):
        return gradient


def scores(toy, integral):
    return (toy.ends * integral.gradient[:, 0]).numpy()


WEIGHTS, ENDS = [0.5, -2.0, 3.0], [[1.0, 0.2, 0.7], [-1.0, 1.0, 2.0]]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("steps", [2, 5, 20])
def test_linear_objective_is_exact_by_every_rule(name, steps):
    toy = Toy(lambda x: 3 * x + 1, lambda x: torch.full_like(x, 3), WEIGHTS, ENDS)
    found = integrate_fixed(toy, name, steps)
    assert np.allclose(scores(toy, found), 3 * np.array(ENDS) * WEIGHTS, rtol=1e-13)
    assert found.error.max() < 1e-13


@pytest.mark.parametrize(("name", "degree"), [("midpoint", 1), ("gauss", 9), ("radau", 8)])
def test_rules_reach_their_degree_and_not_more(name, degree):
    nodes, weights = rule(name, 5)
    assert abs(weights @ nodes**degree - 1 / (degree + 1)) < 1e-14
    assert abs(weights @ nodes ** (degree + 1) - 1 / (degree + 2)) > 1e-9


def test_parity_rules_have_the_published_nodes():
    assert rule("riemann", 4)[0].tolist() == [0.25, 0.5, 0.75, 1]
    assert rule("left", 4)[0].tolist() == [0, 0.25, 0.5, 0.75]
    assert rule("linspace", 3)[0].tolist() == [0, 0.5, 1]
    assert all(set(rule(name, 4)[1]) == {0.25} for name in ("riemann", "left", "linspace", "midpoint"))


@pytest.mark.parametrize("objective", ["logprob", "prob"])
def test_softmax_of_two_logits_in_closed_form(objective):
    """p = sigmoid(c . v): the integral of p' along the line is (p(w) - p(0)) / (c . w), that of log p' likewise."""
    toy = Toy(torch.nn.functional.logsigmoid, lambda x: torch.sigmoid(-x), WEIGHTS, ENDS, objective)
    found = integrate_adaptive(toy, 1e-12)
    along = np.array(ENDS) @ WEIGHTS
    p = 1 / (1 + np.exp(-along))
    change = p - 0.5 if objective == "prob" else np.log(p) - np.log(0.5)
    exact = np.array(ENDS) * WEIGHTS * (change / along)[:, None]
    assert np.abs(scores(toy, found) - exact).max() < 1e-10
    assert np.allclose(found.end - found.start, change[:, None])


@pytest.mark.parametrize("width", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.97])
def test_adaptive_finds_a_transition_wherever_it_is_and_bounds_its_error(width, place):
    def function(x):
        return torch.tanh((x - place) / width)

    def slope(x):
        return (1 - function(x) ** 2) / width

    toy = Toy(function, slope, [1.0], [[1.0]])
    found = integrate_adaptive(toy, 1e-3)
    exact = (function(torch.tensor(1.0)) - function(torch.tensor(0.0))).item()
    error = abs(scores(toy, found)[0, 0] - exact)
    assert error <= 1e-3 * abs(exact)
    assert error <= found.error[0, 0] + 1e-15


def test_adaptive_spends_points_only_where_needed():
    easy = Toy(lambda x: x**2, lambda x: 2 * x, [1.0], [[1.0]])
    found = integrate_adaptive(easy, 1e-2)
    assert (easy.calls, found.nodes.item()) == (3, 2)  # 0, 1/2 and the shared end
    hard = Toy(lambda x: torch.tanh(50 * x), lambda x: 50 / torch.cosh(50 * x) ** 2, [1.0], [[1.0]])
    integrate_adaptive(hard, 1e-2)
    assert 5 < hard.calls < 40


@pytest.mark.parametrize("objective", ["logprob", "prob"])
def test_rounding_errors_of_the_values_are_not_halved_for_ever(objective):
    """Values near 1 that carry float32's rounding, and scores not far above it: the path is as straight as can be told."""

    class Rounded(Toy):
        def measure(self, path, layer, alpha):
            values, slopes = super().measure(path, layer, alpha)
            noise = np.random.default_rng(len(values)).uniform(-4e-6, 4e-6, len(values))
            return values + noise, slopes.float()

    toy = Rounded(lambda x: 1e-3 * x - 0.002, lambda x: torch.full_like(x, 1e-3), [1.0], [[1.0]], objective)
    toy.neurons = toy.neurons.float()
    found = integrate_adaptive(toy, 1e-3)
    assert toy.calls < 40
    assert scores(toy, found)[0, 0] == pytest.approx(1e-3, rel=2e-3)


def test_tolerance_orders_the_error():
    errors = []
    for tolerance in (1e-1, 1e-3, 1e-6):
        toy = Toy(lambda x: torch.tanh(8 * x - 1), lambda x: 8 / torch.cosh(8 * x - 1) ** 2, [1.0], [[1.0]])
        exact = np.tanh(7) + np.tanh(1)
        errors.append(abs(scores(toy, integrate_adaptive(toy, tolerance))[0, 0] - exact))
    assert errors[0] > errors[1] > errors[2]


def test_panel_error_sees_cancelling_halves():
    """sin(2 pi x) integrates to zero whatever the panel does; the sub-intervals tell."""
    x = np.array([0, 0.5, 1])
    values, slopes = np.cos(2 * np.pi * x), -2 * np.pi * np.sin(2 * np.pi * x)
    assert abs(np.array([1, 4, 1]) / 6 @ slopes) < 1e-12
    assert panel_error(x, values, slopes, np.array([1, 4, 1]) / 6) > 1.9


@pytest.mark.parametrize(("name", "steps"), [("simpson", 5), ("gauss", 0), ("radau", 1), ("riemann", 2.5)])
def test_unknown_rules_and_steps_are_refused(name, steps):
    with pytest.raises(InputError, match="quadrature" if name == "simpson" else "steps"):
        rule(name, steps)


@pytest.mark.parametrize("tolerance", [0, -1, 1, 5])
def test_tolerance_must_be_a_share(tolerance):
    with pytest.raises(InputError, match="tolerance"):
        integrate_adaptive(Toy(lambda x: x, torch.ones_like, [1.0], [[1.0]]), tolerance)
