"""How sure is a neuron's score? A random-effects model of queries within languages, for many neurons at once.

A scaled score is a = mu + u_l + e_lq: what the neuron does for the fact, what it does more in language l, and what the
wording of query q adds. The variance of e in a language's mean is the query uncertainty, that of u the language
uncertainty (moment estimator of DerSimonian and Laird 1986).
"""

from dataclasses import dataclass

import numpy as np

# A language has two to five queries: too few for a variance of its own. The variance pooled over the languages counts
# like this many more degrees of freedom (moderation as in Smyth 2004).
PRIOR_DEGREES = 3.0
# Least variance of a language's mean: one query, or equal ones, do not make it certain.
LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class Estimate:
    """What `random_effects` found: arrays [languages, neurons], [languages] or [neurons].

    `m` [languages, neurons]: mean score; `uq` [languages, neurons]: its variance, the query uncertainty; `n`
    [languages]: effective number of queries. `mu` [neurons]: mean over languages; `tau2` [neurons]: variance between
    languages, the language uncertainty; `se2` [neurons]: variance of mu; `q`, `c`, `i2` [neurons]: Cochran's Q, its
    scale, and the share of Q beyond chance. `estimable`: whether any language has more than one query to tell uq from.
    """

    m: np.ndarray
    uq: np.ndarray
    n: np.ndarray
    mu: np.ndarray
    tau2: np.ndarray
    se2: np.ndarray
    q: np.ndarray
    c: np.ndarray
    i2: np.ndarray
    estimable: bool


def random_effects(
    scores: np.ndarray,
    language: np.ndarray,
    weights: np.ndarray,
    *,
    query_variance: bool = True,
    language_variance: bool = True,
) -> Estimate:
    """Mean, query uncertainty and language uncertainty of every neuron.

    `scores` [queries, neurons]; `language` [queries]: numbers 0 to L - 1, each at least once with a positive weight;
    `weights` [queries]: how certain the model is of each query. With `query_variance=False` every language's mean has the
    least variance; with `language_variance=False` languages are taken not to differ (both off: the mean of means).
    With one language tau2, Q, C and I2 are 0. Never NaN. Estimator: DerSimonian and Laird 1986, with within-language
    variances moderated across languages.

    Example
    -------
    >>> found = random_effects(np.array([[0.6], [0.2]]), np.array([0, 1]), np.ones(2))
    >>> found.mu.round(6).item(), found.tau2.round(6).item()
    (0.4, 0.079999)
    """
    scores, weights = np.asarray(scores, dtype=float), np.asarray(weights, dtype=float)
    share = weights * (np.arange(np.max(language) + 1)[:, None] == language)  # [languages, queries]
    share /= share.sum(1, keepdims=True)
    m = share @ scores
    n = 1 / (share**2).sum(1)
    d = np.maximum(n - 1, 0.5)[:, None]
    s2 = n[:, None] / d * (share @ (scores - m[language]) ** 2)
    pooled = (d * s2).sum(0) / d.sum()
    uq = (PRIOR_DEGREES * pooled + d * s2) / (PRIOR_DEGREES + d) / n[:, None] + LEAST_VARIANCE
    if not query_variance:
        uq = np.full_like(uq, LEAST_VARIANCE)
    between = len(m) - 1
    omega = 1 / uq
    fixed = (omega * m).sum(0) / omega.sum(0)
    q = (omega * (m - fixed) ** 2).sum(0)
    c = omega.sum(0) - (omega**2).sum(0) / omega.sum(0)
    tau2 = np.zeros_like(q)
    if between and language_variance:
        tau2 = np.maximum(0, (q - between) / c)
    i2 = np.maximum(0, 1 - between / np.where(q > 0, q, np.inf)) * (q > 0)
    omega = 1 / (uq + tau2)
    mu = (omega * m).sum(0) / omega.sum(0)
    # Sums with one language leave rounding in Q and C.
    zero = 1 if between else 0
    return Estimate(m, uq, n, mu, tau2, 1 / omega.sum(0), q * zero, c * zero, i2 * zero, bool((n > 1 + 1e-9).any()))
