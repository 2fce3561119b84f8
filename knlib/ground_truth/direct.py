"""Methods that do not start from scores of an answer: LAFN's locator, and the truth itself; one registry.

@register("first")
def first(study, queries):
    for fact, own in queries.groupby("fact", sort=False):
        yield Answer(...)
"""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from ..editing.lafn_locate import LocateOptions, language_sets, neuron_states, shared_neurons
from ..editing.requests import subject_position
from ..errors import InputError, Literal
from ..prediction import AnswerRows
from .answers import SELECTED, Answer, table_of
from .study import GroundStudy

Method = Callable[[GroundStudy, pd.DataFrame], Iterator[Answer]]
DIRECT: dict[str, Method] = {}


def register(name: str) -> Callable[[Method], Method]:
    """Decorator: makes `method(study, queries) -> answers` a row of the scoreboard under a name.

    A method that a model does not allow raises `InputError`: its row says so. A function of the same module may register again;
    `InputError` where another module has the name.

    Example
    -------
    >>> register("nothing")(lambda study, queries: iter(()))  # doctest: +SKIP
    """

    def add(method: Method) -> Method:
        old = DIRECT.get(name)
        if old is not None and old.__module__ != method.__module__:
            raise InputError("register", found=name, expected=f"a new name: {old.__module__} has this one")
        DIRECT[name] = method
        return method

    return add


@register("truth")
def truth(study: GroundStudy, queries: pd.DataFrame) -> Iterator[Answer]:
    """The planted neurons themselves: what a perfect method would say, 1 everywhere."""
    width, kinds = study.model.n_neurons, study.facts.set_index("fact")["kind"]
    for fact in dict.fromkeys(queries["fact"]):
        labels = study.labels[fact]
        parts = [("all", labels.own), *labels.by_language.items()]
        tables = [table_of(fact, scope, np.flatnonzero(own), own.astype(float), width) for scope, own in parts]
        claimed = kinds[fact] if kinds[fact] in ("language", "half", "query") else "agnostic"
        yield Answer(fact, labels.own.astype(float), {code: own.astype(float) for code, own in labels.by_language.items()},
                     pd.concat(tables, ignore_index=True), claimed)  # fmt: skip


@register("lafn")
def lafn(study: GroundStudy, queries: pd.DataFrame) -> Iterator[Answer]:
    """LAFN's locator (after Zhang et al., arXiv 2406.16416): large activations where the subject ends, in every language."""
    return _lafn(study, queries, lambda row: subject_position(study.model, row.prompt, row.subject)[0])


@register("lafn at the answer")
def lafn_at_the_answer(study: GroundStudy, queries: pd.DataFrame) -> Iterator[Answer]:
    """The same rule where the answer is predicted, which is where planted neurons act."""
    helper = AnswerRows(study.model)
    return _lafn(study, queries, lambda row: len(helper.row(row.prompt, (), 0, row.space, row.suffix)) - 1)


def _lafn(study: GroundStudy, queries: pd.DataFrame, position: Callable) -> Iterator[Answer]:
    model, options = study.model, LocateOptions()
    if model.kind != "causal":
        raise InputError(f"model {model.name}", found=Literal(f"a {model.kind} model"),
                         expected="a causal one: the locator reads prompts without an answer")  # fmt: skip
    rows = queries.assign(position=[position(row) for row in queries.itertuples()])
    on, written = neuron_states(model, rows)
    for fact, own in rows.groupby("fact", sort=False):
        members, scores = language_sets(on[own.index], written[own.index], own["language"], options)
        codes = list(dict.fromkeys(own["language"]))
        found = shared_neurons(members, scores, options).sort_values("score", ascending=False, kind="stable")
        flat = (found["layer"] * model.n_neurons + found["neuron"]).to_numpy()
        worst, each = scores.min(0).ravel(), scores.reshape(len(codes), -1)
        tables = [table_of(fact, "all", flat, worst, model.n_neurons)]
        tables += [
            table_of(fact, code, np.flatnonzero(members[k].ravel()), each[k], model.n_neurons)
            for k, code in enumerate(codes)
        ]
        table = pd.concat(tables, ignore_index=True)[SELECTED]
        yield Answer(str(fact), worst, dict(zip(codes, each, strict=True)), table, None)
