"""Where does a fact count as consistent? A static threshold, a sweep of it, and Otsu's, with a check of two modes."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.mixture import GaussianMixture

from ..errors import InputError, Literal

STATIC = 0.3  # an example of the study's figure caption; its value was never stated
SWEEP = tuple(round(0.05 * i, 2) for i in range(1, 13))
# Two Gaussians must be better than one by this much of the BIC ("very strong", Kass and Raftery 1995).
BIC_GAIN = 10.0


def inconsistent(values, threshold: float = STATIC) -> np.ndarray:
    """1 where a score is below the threshold, 0 where it reaches it, NaN where it is undefined.

    Example
    -------
    >>> inconsistent([0.2, 0.3, np.nan])
    array([ 1.,  0., nan])
    """
    values = np.asarray(values, dtype=float)
    return np.where(np.isnan(values), np.nan, (values < threshold).astype(float))


def sweep(values, thresholds: tuple[float, ...] = SWEEP) -> pd.DataFrame:
    """The share of inconsistent facts at each threshold: columns `threshold`, `share`; undefined scores do not count.

    Example
    -------
    >>> sweep([0.1, 0.4], (0.05, 0.3, 0.6))["share"].tolist()
    [0.0, 0.5, 1.0]
    """
    shares = [np.nanmean(inconsistent(values, t)) if np.isfinite(values).any() else np.nan for t in thresholds]
    return pd.DataFrame({"threshold": thresholds, "share": shares})


def otsu(values) -> float | None:
    """The threshold that separates two classes best: exact, without a histogram (Otsu 1979).

    Candidates are the midpoints of neighbouring distinct values; the largest n0 * n1 * (m0 - m1)^2 wins, the lowest of
    equals. None where all values are one. It always splits otherwise: ask `bimodality`, too. Undefined values do not count.
    A histogram of 256 bins would give .0799 in the example, and .08 the upper class.

    Example
    -------
    >>> round(otsu([0.05, 0.06, 0.07, 0.08, 0.3, 0.32, 0.35]), 6)
    0.19
    """
    values = _defined(values)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) < 2:
        return None
    n0, sums = counts.cumsum()[:-1], (distinct * counts).cumsum()
    n1 = counts.sum() - n0
    between = n0 * n1 * (sums[:-1] / n0 - (sums[-1] - sums[:-1]) / n1) ** 2
    # Equal up to rounding is equal.
    best = int(np.flatnonzero(between >= between.max() * (1 - 1e-12))[0])
    return float((distinct[best] + distinct[best + 1]) / 2)


@dataclass(frozen=True)
class Bimodality:
    """`gain`: BIC of one Gaussian minus that of two; `bimodal`: it is at least 10."""

    gain: float
    bimodal: bool

    def __str__(self) -> str:
        return f"{'bimodal' if self.bimodal else 'not bimodal'} (BIC gain {self.gain:.1f})"


def bimodality(values, *, seed: int = 0) -> Bimodality:
    """Do two Gaussians describe the values so much better than one that a threshold between them means anything?

    `values` [facts], undefined ones do not count. Five seeded starts of scikit-learn's mixture; variances are kept above
    1e-4 of that of all values, so that tied values do not make a spike of infinite likelihood. Raises `InputError` for fewer
    than four values.

    Example
    -------
    >>> print(bimodality([0.1] * 20 + [0.11] * 20 + [0.8] * 20 + [0.82] * 20))
    bimodal (BIC gain 498.3)
    """
    values = _defined(values)
    if len(values) < 4:
        raise InputError("values", found=Literal(f"{len(values)} of them"), expected="at least four facts")
    spread = values.std()
    if spread == 0:
        return Bimodality(0.0, False)
    scaled = ((values - values.mean()) / spread)[:, None]
    bic = [
        GaussianMixture(n, n_init=5, reg_covar=1e-4, max_iter=500, random_state=seed).fit(scaled).bic(scaled)
        for n in (1, 2)
    ]
    gain = float(bic[0] - bic[1])
    return Bimodality(gain, gain >= BIC_GAIN)


def _defined(values) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    return values[~np.isnan(values)]
