"""How accurate quadrature rules are on the Atlas models, and what they cost.

    python tests/benchmarks/quadrature.py                                    # all shipped models, 48 queries
    python tests/benchmarks/quadrature.py --model atlas-gpt2 --queries 12

A prompt's error is the largest error of a score in any layer over the prompt's largest score; the truth is composite
Gauss-Legendre. Prints the rules' table, then what the factor CAUTION of the adaptive estimate changes: the share of
(prompt, layer) pairs whose estimate is not below the true error, and the estimate's median over it. Not in the test suite.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exact_integral import FINE, atlas_queries, fine_scores

from knlib import quadrature
from knlib.facts import load_facts
from knlib.methods import Scorer
from knlib.models import load_model
from knlib.quadrature import integrate_adaptive, integrate_fixed
from knlib.queries import load_templates
from knlib.rules import rule
from knlib.sites import make_sites

# Rounding of float32: a pair whose error is below it counts as bounded.
ROUNDING = 1e-5
RULES = (
    ("riemann", 20),
    ("left", 20),
    ("linspace", 20),
    ("midpoint", 20),
    ("riemann", 300),
    ("radau", 5),
    ("gauss", 10),
)
CAUTIONS = (1, 2, 3, 5)


def scores(batch, integral) -> np.ndarray:
    """[paths, layers, neurons]"""
    layers = range(len(batch.layers))
    found = [batch.difference_neurons(k) * batch.project(k, integral.gradient[:, k]) for k in layers]
    return torch.stack(found, 1).double().numpy()


def print_row(name: str, paid: float, errors: np.ndarray, more: str = "") -> None:
    worst = errors.max(1)
    print(f"{name:28}{paid:8.1f}{np.median(worst):10.1e}{worst.max():10.1e}{more}", flush=True)


def table(name: str, count: int) -> None:
    model = load_model(name, device="cpu")
    sites = make_sites(model, atlas_queries(load_facts(), load_templates(), count), sites="first")
    batch = Scorer(model, list(range(model.n_layers)), {"engine": "auto"}, None).make(sites, "prob", 4096)
    panels, points = FINE[model.kind]
    exact = fine_scores(batch, panels, points)
    largest = np.abs(exact).max((1, 2))[:, None]

    def errors(found):
        return np.abs(found - exact).max(-1) / largest

    print(f"\n{model.name}, {len(sites)} queries, truth: {panels} panels x {points} Gauss points")
    print(f"{'rule':28}{'paid':>8}{'median':>10}{'worst':>10}")
    print_row(
        f"half as many panels, {points} each", panels // 2 * points, errors(fine_scores(batch, panels // 2, points))
    )
    for kind, steps in RULES:
        paid = int((rule(kind, steps)[0] < 1).sum())
        print_row(f"{kind} {steps}", paid, errors(scores(batch, integrate_fixed(batch, kind, steps))))
    shipped = quadrature.CAUTION
    print(f"{'adaptive':28}{'paid':>8}{'median':>10}{'worst':>10}{'bounded':>10}{'over':>8}")
    for tolerance in (1e-2, 1e-3):
        for caution in CAUTIONS if tolerance == 1e-2 else (shipped,):
            quadrature.CAUTION = caution
            found = integrate_adaptive(batch, tolerance)
            quadrature.CAUTION = shipped
            true, estimate = errors(scores(batch, found)), found.error / largest
            over = np.median((estimate / true)[true > ROUNDING]) if (true > ROUNDING).any() else np.nan
            bounded = (true <= estimate + ROUNDING).mean()
            print_row(f"{tolerance:g}, caution {caution}", found.nodes.mean(), true, f"{bounded:10.1%}{over:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", help="default: the three shipped models")
    parser.add_argument("--queries", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.model or ("atlas-llama", "atlas-gpt2", "atlas-bert"):
        table(name, options.queries)


if __name__ == "__main__":
    main()
