"""Fixed quadrature rules on [0, 1]: those of the papers, for parity, and better ones."""

import numpy as np

from .errors import InputError, Literal

RULES = ("riemann", "left", "linspace", "midpoint", "gauss", "radau")


def rule(name: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a rule on [0, 1], both [steps].

    - `riemann`: right ends k/n, as in the papers (Dai et al. 2022, eq. 2). With 20 steps its largest error of a prompt is
      typically 8-16 % of the largest score, at worst 80 %.
    - `left`: left ends (released DDM code); 9-19 %, at worst 180 %.
    - `linspace`: both ends, all weights 1/n (EleutherAI); 4-14 %, at worst 180 %.
    - `midpoint`: middles of n panels; second order.
    - `gauss`: Gauss-Legendre, exact for polynomials of degree 2n - 1.
    - `radau`: Gauss-Radau with the end 1 included, exact to degree 2n - 2; the end is shared by all layers.

    Raises `InputError` for another name or no step. (Errors: three small models, see `quadrature="adaptive"`.)

    Example
    -------
    >>> rule("riemann", 2)
    (array([0.5, 1. ]), array([0.5, 0.5]))
    """
    if name not in RULES:
        raise InputError("quadrature", found=name, expected=Literal("adaptive or one of " + " ".join(RULES)))
    least = 2 if name in ("linspace", "radau") else 1
    if not isinstance(steps, int | np.integer) or steps < least:
        raise InputError("steps", found=steps, expected=f"a whole number of at least {least}")
    if name == "gauss":
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        return (nodes + 1) / 2, weights / 2
    if name == "radau":
        return _radau(steps)
    nodes = {
        "riemann": np.arange(1, steps + 1) / steps,
        "left": np.arange(steps) / steps,
        "linspace": np.linspace(0, 1, steps),
        "midpoint": (np.arange(steps) + 0.5) / steps,
    }[name]
    return nodes, np.full(steps, 1 / steps)


def _radau(steps: int) -> tuple[np.ndarray, np.ndarray]:
    # The inner nodes are the roots of the Jacobi polynomial (1, 0): the eigenvalue form in scipy is exact.
    from scipy.special import roots_jacobi

    inner, weights = roots_jacobi(steps - 1, 1, 0)
    weights = weights / (1 - inner)
    return np.append((inner + 1) / 2, 1.0), np.append(weights, 2 - weights.sum()) / 2
