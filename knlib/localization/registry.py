"""The one registry of localizers, what they are given, and what they answer.

A localizer is a function of one fact's evidence and keyword options. A new one is one file in this folder (or one cell of
a notebook):

    @register("median", reach=("t",))
    def median(fact, *, t=0.2):
        by_language = fact.per_language(np.median)
        score = by_language.min(0)
        return Verdict(score, score >= t, by_language, by_language >= t, fact.scores >= t)
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, Literal


@dataclass(frozen=True)
class Evidence:
    """What a localizer sees of one fact: its valid queries, in the languages that know it.

    `scores` [queries, neurons]: attributions over the query's largest one (so at most 1); `language` [queries]: number of
    the query's language in `languages` (sorted codes); `certainty` [queries]: 1 minus the normalized entropy, at least
    0.05 (1 where the entropy is unknown); `multiplicity` [queries]: how often a resample drew the query (1 without
    resampling; 0: leave it out); `neurons` [neurons]: layer position times neurons of a layer, plus neuron.
    """

    fact: str
    relation: str
    languages: tuple[str, ...]
    scores: np.ndarray
    language: np.ndarray
    certainty: np.ndarray
    multiplicity: np.ndarray
    neurons: np.ndarray

    def per_language(self, statistic: Callable[..., np.ndarray]) -> np.ndarray:
        """[languages, neurons]: `statistic(scores, axis=0)` of each language's queries, repeated as often as drawn."""
        drawn = np.repeat(np.arange(len(self.language)), self.multiplicity.astype(int))
        rows = [drawn[self.language[drawn] == k] for k in range(len(self.languages))]
        return np.stack([statistic(self.scores[r], axis=0) for r in rows])

    def means(self, values: np.ndarray) -> np.ndarray:
        """[languages, neurons]: mean of `values` [queries, neurons] over each language's queries as drawn."""
        share = self.multiplicity * (np.arange(len(self.languages))[:, None] == self.language)
        return (share / share.sum(1, keepdims=True)) @ values

    def counts(self) -> np.ndarray:
        """[languages]: number of queries drawn."""
        return np.bincount(self.language, weights=self.multiplicity, minlength=len(self.languages))

    def option(self, name: str, value: float | dict[str, float]) -> np.ndarray:
        """[languages, 1]: an option given as one number, or as a dict by language."""
        if not isinstance(value, dict):
            return np.full((len(self.languages), 1), value, dtype=float)
        for code in self.languages:
            if code not in value:
                raise InputError(name, found=value, expected=f"a number, or a dict with one for {code}")
        return np.array([[value[code]] for code in self.languages], dtype=float)


@dataclass(frozen=True)
class Verdict:
    """A localizer's answer for one fact.

    `score`, `found` [neurons]: over all languages; `language_score`, `language_found` [languages, neurons]: in each;
    `reached` bool [queries, neurons]: which queries speak for a neuron. `support` bool [languages, neurons]: which
    languages do (default: `language_found`).
    """

    score: np.ndarray
    found: np.ndarray
    language_score: np.ndarray
    language_found: np.ndarray
    reached: np.ndarray
    support: np.ndarray | None = None


@dataclass(frozen=True)
class Localizer:
    """A registered localizer: `find` answers for a fact, `tune` (if any) first sets options by relation.

    `reach`: names of options such that a neuron below the least of them in all queries is never found; the others need no
    computing.
    """

    name: str
    find: Callable[..., Verdict]
    tune: Callable[..., dict] | None
    reach: tuple[str, ...]

    def options(self, given: dict) -> dict:
        """All options with their values; `InputError` for a name that the localizer does not have."""
        known = {}
        for function in (self.find, self.tune):
            if function is not None:
                parameters = inspect.signature(function).parameters.values()
                known |= {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        for name in given:
            if name not in known:
                raise InputError(f"localizer {self.name}, options", found=name,
                                 expected=Literal("one of " + " ".join(known)))  # fmt: skip
        return known | given


LOCALIZERS: dict[str, Localizer] = {}


def register(name: str, *, tune: Callable[..., dict] | None = None, reach: tuple[str, ...] = ()):
    """Decorator: makes a function `find(fact: Evidence, **options) -> Verdict` a localizer under this name.

    `tune(facts, **options) -> options of find`: sees all facts of a relation first. A function of the same
    module may register again (a notebook's cell runs twice); `InputError` where another module has the name.

    Example
    -------
    >>> register("first_language")(lambda fact: ...)  # doctest: +SKIP
    """

    def add(find: Callable[..., Verdict]) -> Callable[..., Verdict]:
        old = LOCALIZERS.get(name)
        if old is not None and old.find.__module__ != find.__module__:
            raise InputError("register", found=name, expected=f"a new name: {old.find.__module__} has this one")
        LOCALIZERS[name] = Localizer(name, find, tune, reach)
        return find

    return add
