"""Integrals along a straight path: by fixed rules, and an adaptive one that says how far off it is."""

from dataclasses import dataclass, field

import numpy as np
import torch

from .errors import InputError
from .rules import rule

# Nodes of the closed (Lobatto) rules of 3 and 5 points on [0, 1]: the second keeps the first's.
LOBATTO_3 = (np.array([0, 0.5, 1]), np.array([1, 4, 1]) / 6)
_INNER = np.sqrt(3 / 7) / 2
LOBATTO_5 = (np.array([0, 0.5 - _INNER, 0.5, 0.5 + _INNER, 1]), np.array([9, 49, 64, 49, 9]) / 180)
# What each rule's integral differs in from that of the rule nested in it: ends only, and 3 points.
NESTED_3 = LOBATTO_3[1] - np.array([1, 0, 1]) / 2
NESTED_5 = LOBATTO_5[1] - np.array([1, 0, 4, 0, 1]) / 6
# A rule's error is about the square of the nested rule's, both relative; the factor makes it a cautious estimate. On the
# Atlas models completeness decides and any factor from 1 to 5 does (tests/benchmarks/quadrature.py); where a norm follows
# the down-projection completeness is blind, and the factor decides.
CAUTION = 5
# Rounding errors of an objective's values, in units of the number format's last place: logits of about 20 carry them.
ROUNDING = 128
# No panel is halved more often; a transition narrower than 2**-14 of the path is a jump for float32.
DEEPEST = 14


@dataclass
class Integral:
    """The mean gradient along every path, [paths, layers, width], and what is known of its quality.

    `error` [paths, layers]: estimated absolute error of a score; `start`, `end` [paths, layers]: the objective at the
    path's ends; `nodes` [paths, layers]: points computed, without the end 1 that all layers share.
    """

    gradient: torch.Tensor
    error: np.ndarray
    start: np.ndarray
    end: np.ndarray
    nodes: np.ndarray


def objective_points(values: np.ndarray, gradients: torch.Tensor, objective: str):
    """Values and gradients of the objective, from those of its logarithm where it is `prob`."""
    if objective != "prob":
        return values, gradients
    values = np.exp(values)
    return values, gradients * torch.as_tensor(values, dtype=gradients.dtype, device=gradients.device)[:, None]


def integrate_fixed(batch, name: str, steps: int) -> Integral:
    """The mean gradient by a fixed rule, for all paths and layers of a batch.

    The start 0 is added with weight 0 where the rule has none, for the completeness gap. The error estimate is the
    completeness residual |sum of scores - change of the objective|: it does not see errors that cancel in the sum.
    """
    nodes, weights = rule(name, steps)
    if nodes.min() > 0:
        nodes, weights = np.append(0.0, nodes), np.append(0.0, weights)
    if nodes.max() < 1:
        nodes, weights = np.append(nodes, 1.0), np.append(weights, 0.0)
    paths, layers, n = len(batch.owner), len(batch.layers), len(nodes)
    p, k, a = np.meshgrid(np.arange(paths), np.arange(layers), nodes, indexing="ij")
    values, gradients = objective_points(*batch.measure(p.ravel(), k.ravel(), a.ravel()), batch.objective)
    gradients = gradients.view(paths, layers, n, -1)
    values = values.reshape(paths, layers, n)
    mean = torch.einsum(
        "plnd,n->pld", gradients, torch.as_tensor(weights, dtype=gradients.dtype, device=gradients.device)
    )
    change = values[..., nodes.argmax()] - values[..., nodes.argmin()]
    error = np.abs(_sums(batch, mean) - change)
    paid = np.full((paths, layers), int((nodes < 1).sum()))
    return Integral(mean, error, values[..., nodes.argmin()], values[..., nodes.argmax()], paid)


def _sums(batch, mean: torch.Tensor) -> np.ndarray:
    """Sum of the scores over neurons, [paths, layers], without computing the scores."""
    return np.stack([totals(mean[:, k] * batch.difference(k)) for k in range(mean.shape[1])], axis=1)


def totals(values: torch.Tensor) -> np.ndarray:
    """Sums over the last axis in float64, which MPS does not have."""
    return (values.cpu() if values.device.type == "mps" else values).double().sum(-1).cpu().numpy()


@dataclass
class _Panel:
    """A piece [low, high] of one path in one layer, with the rule of `order` nodes on it.

    `residual` is `panel_error`; `spread` the largest difference of a score from the nested rule's.
    """

    low: float
    high: float
    order: int = 3
    depth: int = 0
    residual: float = np.inf
    spread: float | None = None

    def nodes(self) -> list[float]:
        # Rounded, so that the nodes of neighbouring and nested panels are found under the same number.
        found = self.low + (self.high - self.low) * (LOBATTO_3 if self.order == 3 else LOBATTO_5)[0]
        return np.round(found, 14).tolist()

    def weights(self) -> np.ndarray:
        return (self.high - self.low) * (LOBATTO_3 if self.order == 3 else LOBATTO_5)[1]

    def error(self, scale: float) -> float:
        """Estimated error of a score: of their sum by completeness, of each by the nested rule.

        Completeness alone is blind to what cancels in the sum over neurons. Where a norm follows the
        down-projection (Gemma 2 and 3, OLMo 2), turning the output matters, not lengthening it: the sum is right
        long before the scores are.
        """
        return max(self.residual, (CAUTION * self.spread) ** 2 / scale if scale > 0 else 0.0)

    def refined(self) -> list["_Panel"]:
        if self.order == 3:
            return [_Panel(self.low, self.high, 5, self.depth)]
        if self.depth >= DEEPEST:
            return [self]
        # Halves of 3 points rarely do where 5 did not, and a round for their sake alone costs more than its points.
        middle = (self.low + self.high) / 2
        return [_Panel(self.low, middle, 5, self.depth + 1), _Panel(middle, self.high, 5, self.depth + 1)]


@dataclass
class _Line:
    """One path in one layer: its panels and every point computed on it (`places`: its gradient's row among all)."""

    panels: list[_Panel] = field(default_factory=lambda: [_Panel(0.0, 1.0)])
    values: dict[float, float] = field(default_factory=dict)
    slopes: dict[float, float] = field(default_factory=dict)
    places: dict[float, int] = field(default_factory=dict)

    @property
    def height(self) -> float:
        return max(map(abs, self.values.values()))

    def missing(self) -> list[float]:
        wanted = {a for panel in self.panels for a in panel.nodes()}
        return sorted(wanted - set(self.values))

    def mean(self) -> list[tuple[int, float]]:
        """The mean gradient, as rows of gradients and their weights."""
        return [pair for panel in self.panels for pair in self.combined(panel, panel.weights())]

    def combined(self, panel: _Panel, weights: np.ndarray) -> list[tuple[int, float]]:
        return [(self.places[a], weight) for a, weight in zip(panel.nodes(), weights, strict=True)]

    def fresh(self) -> list[_Panel]:
        return [panel for panel in self.panels if panel.spread is None]

    def nested_difference(self, panel: _Panel) -> list[tuple[int, float]]:
        """As `mean`. The panel's residual is noted too: both need its nodes' values."""
        nodes = panel.nodes()
        values, slopes = ([table[a] for a in nodes] for table in (self.values, self.slopes))
        panel.residual = panel_error(np.array(nodes), np.array(values), np.array(slopes), panel.weights())
        return self.combined(panel, (panel.high - panel.low) * (NESTED_3 if panel.order == 3 else NESTED_5))


def _weighted(gradients: torch.Tensor, sums: list[list[tuple[int, float]]]) -> torch.Tensor:
    """Sums of weighted rows of `gradients` [points, width], all in one product, [sums, width]."""
    rows = np.zeros((2, len(sums), max(map(len, sums))))
    for i, pairs in enumerate(sums):
        rows[:, i, : len(pairs)] = np.transpose(pairs)
    places = torch.as_tensor(rows[0], dtype=torch.long, device=gradients.device)
    weights = torch.as_tensor(rows[1], dtype=gradients.dtype, device=gradients.device)
    return (weights[:, None] @ gradients[places])[:, 0]


def panel_error(nodes: np.ndarray, values: np.ndarray, slopes: np.ndarray, weights: np.ndarray) -> float:
    """How far a panel's integral may be off: the larger of two checks against the known function values.

    Completeness: the integral of the slopes against the difference of the values at the panel's ends. Sub-intervals: the
    same between neighbouring nodes, for the polynomial through the slopes (free, because every node's value is
    known); it also sees errors of opposite sign that cancel in the first.

    Example
    -------
    >>> x = np.array([0, 0.5, 1])
    >>> panel_error(x, x**3, 3 * x**2, np.array([1, 4, 1]) / 6) < 1e-15
    True
    """
    whole = abs(float(weights @ slopes) - (values[-1] - values[0]))
    scaled = (nodes - nodes[0]) / (nodes[-1] - nodes[0])
    powers = np.vander(scaled, increasing=True)
    coefficients = np.linalg.solve(powers, slopes * (nodes[-1] - nodes[0]))
    antiderivative = (scaled[:, None] ** np.arange(1, len(nodes) + 1)) @ (coefficients / np.arange(1, len(nodes) + 1))
    pieces = np.abs(np.diff(antiderivative) - np.diff(values))
    return float(max(whole, pieces.max()))


def integrate_adaptive(batch, tolerance: float) -> Integral:
    """The mean gradient of every path and layer, each to `tolerance` times the path's largest score.

    Nested Lobatto rules of 3 and 5 points, then halved panels of 5, only where the estimate asks for it. All unresolved
    (path, layer) pairs share each round's pass. The estimate of a panel is the larger of `panel_error` and the squared
    difference from the nested rule. On random GPT-2, Llama, BERT and OLMo 2 models it was above the true error everywhere,
    on Gemma 2 and 3, where a norm follows the down-projection, for 95 % of the pairs of six seeds each; one Gemma 3 had
    5 of 18 pairs above it, with errors up to .19 of the largest score.
    """
    if not 0 < tolerance < 1:
        raise InputError("tolerance", found=tolerance, expected="a number between 0 and 1")
    paths, layers = len(batch.owner), len(batch.layers)
    lines = {(p, k): _Line() for p in range(paths) for k in range(layers)}
    gradients, mean, largest = None, None, np.zeros((paths, layers))
    active = dict(lines)
    while active:
        gradients = _compute_missing(batch, active, gradients)
        if mean is None:
            mean = gradients.new_zeros(paths, layers, gradients.shape[-1])
        p, k = np.transpose(list(active))
        mean[p, k] = _weighted(gradients, [line.mean() for line in active.values()])
        for layer in np.unique(k).tolist():
            own = p[k == layer].tolist()
            largest[own, layer] = _largest_scores(batch, layer, own, mean[own, layer])
            _judge(batch, layer, {path: active[path, layer] for path in own}, gradients)
        scale = largest.max(1)
        # A probability's rounding error is a share of it, that of a logarithm or a margin is one of the logits.
        unit = ROUNDING * torch.finfo(mean.dtype).eps
        floor = 0.0 if batch.objective == "prob" else 1.0
        active = {(p, k): line for (p, k), line in active.items()
                  if _refine(line, tolerance * scale[p], scale[p], unit * max(line.height, floor))}  # fmt: skip
    error = np.array([[sum(panel.error(scale[p]) for panel in lines[p, k].panels) for k in range(layers)]
                      for p in range(paths)])  # fmt: skip
    start, end = (np.array([[lines[p, k].values[a] for k in range(layers)] for p in range(paths)]) for a in (0.0, 1.0))
    nodes = np.array([[len(lines[p, k].values) - 1 for k in range(layers)] for p in range(paths)])
    return Integral(mean, error, start, end, nodes)


def _largest_scores(batch, layer: int, paths: list[int], gradients: torch.Tensor) -> np.ndarray:
    """The largest |score| that each gradient gives on its path."""
    scores = batch.difference_neurons(layer)[paths] * batch.project(layer, gradients)
    return scores.abs().amax(-1).cpu().double().numpy()


def _judge(batch, layer: int, lines: dict[int, _Line], gradients: torch.Tensor) -> None:
    """Note residual and spread of the panels that are new."""
    fresh = [(p, line, panel) for p, line in lines.items() for panel in line.fresh()]
    if fresh:
        differences = _weighted(gradients, [line.nested_difference(panel) for _, line, panel in fresh])
        for (_, _, panel), spread in zip(
            fresh, _largest_scores(batch, layer, [p for p, _, _ in fresh], differences), strict=True
        ):
            panel.spread = float(spread)


def _compute_missing(batch, active: dict, known: torch.Tensor | None) -> torch.Tensor:
    """Measure the points that lines lack; their gradients join the `known` ones."""
    wanted = [(p, k, a) for (p, k), line in active.items() for a in line.missing()]
    p, k, a = (np.array(column) for column in zip(*wanted, strict=True))
    values, gradients = objective_points(*batch.measure(p, k, a), batch.objective)
    steps = torch.stack([batch.difference(layer) for layer in range(len(batch.layers))], dim=1)
    slopes = totals(gradients * steps[p, k])
    first = 0 if known is None else len(known)
    for i, (path, layer, alpha) in enumerate(wanted):
        line = active[path, layer]
        line.values[alpha], line.slopes[alpha], line.places[alpha] = values[i], slopes[i], first + i
    return gradients if known is None else torch.cat([known, gradients])


def _refine(line: _Line, tolerance: float, scale: float, noise: float) -> bool:
    """Refine the panels that matter; False where the line is good enough or nothing can be gained.

    Below `noise` a panel's estimate is rounding of the values it compares: halving would double it, not remove it.
    """
    errors = [panel.error(scale) for panel in line.panels]
    if sum(errors) <= tolerance:
        return False
    share, panels = max(tolerance / (2 * len(errors)), noise), []
    for panel, error in zip(line.panels, errors, strict=True):
        panels += panel.refined() if error > share else [panel]
    changed = len(panels) != len(line.panels) or any(a is not b for a, b in zip(panels, line.panels, strict=True))
    line.panels = panels
    return changed
