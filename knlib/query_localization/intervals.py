"""Estimates over queries with intervals over relations and facts: means, ratios, differences of groups, medians (spec, 2.6)."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import InputError
from .inference import DRAWS, relation_draws


class Draws:
    """The same `resamples` bootstrap draws of facts for every estimate of a cell, so that estimates can be compared.

    `relations`: fact -> its relation. Estimates are dictionaries for JSON: `estimate`, `low`, `high` (the middle 95 % of the draws),
    `facts`; with None for the numbers where no fact is left. Values that are not finite are left out.

    Example
    -------
    >>> draws = Draws({"capital:FR": "capital", "capital:PE": "capital", "script:ru": "script"})
    >>> draws.mean([1.0, 2.0, 3.0], ["capital:FR", "capital:PE", "script:ru"])["estimate"]
    2.0
    """

    def __init__(self, relations: Mapping[str, str], *, resamples: int = DRAWS, seed: int = 0):
        self.column = {fact: i for i, fact in enumerate(relations)}
        self.weights = relation_draws(list(relations.values()), draws=resamples, seed=seed)

    def mean(self, values: Sequence[float], facts: Sequence[str]) -> dict:
        """The mean over all values; a fact with more of them weighs more."""
        (own,), counts = self._sums(facts, values)
        return self._estimate(own.sum() / max(counts.sum(), 1), self.weights @ own, self.weights @ counts, counts)

    def ratio(self, a: Sequence[float], b: Sequence[float], facts: Sequence[str]) -> dict:
        """mean(a) / mean(b): a mean of ratios would follow the smallest b."""
        (top, bottom), counts = self._sums(facts, a, b)
        estimate = top.sum() / bottom.sum() if bottom.sum() else np.nan
        return self._estimate(estimate, self.weights @ top, self.weights @ bottom, counts)

    def difference(self, a: tuple[Sequence, Sequence], b: tuple[Sequence, Sequence]) -> dict:
        """Mean of one group less that of another; each: (values, facts)."""
        parts = [self._sums(facts, values) for values, facts in (a, b)]
        if not all(counts.sum() for _, counts in parts):
            return dict.fromkeys(("estimate", "low", "high")) | {"facts": 0}
        with np.errstate(invalid="ignore"):
            drawn = [(self.weights @ own) / (self.weights @ counts) for (own,), counts in parts]
        estimate = [own.sum() / counts.sum() for (own,), counts in parts]
        counts = parts[0][1] + parts[1][1]
        return self._estimate(estimate[0] - estimate[1], drawn[0] - drawn[1], np.ones(len(self.weights)), counts)

    def median(self, values: Sequence[float], facts: Sequence[str]) -> dict:
        """The median over all values: the least one that at least half of them reach."""
        values = np.asarray(values, float)
        kept = np.isfinite(values)
        order = np.argsort(values[kept], kind="stable")
        values = values[kept][order]
        columns = np.array([self._column(fact) for fact in facts], int)[kept][order]
        counts = np.bincount(columns, minlength=len(self.column))
        if not len(values):
            return self._estimate(np.nan, np.zeros(1), np.zeros(1), counts)
        weights = np.vstack([np.ones(len(values)), self.weights[:, columns]]).cumsum(1)
        drawn = values[(weights >= weights[:, -1:] / 2).argmax(1)]
        return self._estimate(drawn[0], drawn[1:], weights[1:, -1] > 0, counts)

    def _column(self, fact: str) -> int:
        if fact not in self.column:
            raise InputError("facts", found=fact, expected="facts whose relation was given")
        return self.column[fact]

    def _sums(self, facts, *values) -> tuple[list[np.ndarray], np.ndarray]:
        columns = np.array([self._column(fact) for fact in facts], int)
        values = [np.asarray(v, float) for v in values]
        kept = np.logical_and.reduce([np.isfinite(v) for v in values])
        n = len(self.column)
        sums = [np.bincount(columns[kept], weights=v[kept], minlength=n) for v in values]
        return sums, np.bincount(columns[kept], minlength=n).astype(float)

    @staticmethod
    def _estimate(estimate, top, bottom, counts) -> dict:
        facts = int((counts > 0).sum())
        if not facts or not np.isfinite(estimate):
            return dict.fromkeys(("estimate", "low", "high")) | {"facts": facts}
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = top / bottom
        low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
        return {"estimate": float(estimate), "low": float(low), "high": float(high), "facts": facts}
