"""The one registry of editors, and how an edit is found and applied by name.

An editor is a function of a model, edit requests (`knlib.editing.requests`) and keyword options that finds a change and
leaves the model as it was. A new one is one file in this folder (or one cell of a notebook):

    @register("nothing")
    def nothing(model, requests, *, strength=1.0):
        return WeightChange("nothing", {"strength": strength}, model.name, model.hash, parts=())
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import pandas as pd

from ..errors import InputError, Literal
from ..models import Model
from .requests import check_requests


class Change(Protocol):
    """What an editor finds. `WeightChange` is one; an editor that changes no weights has one of its own."""

    @property
    def edits(self) -> list[str]:
        """Ids of the edits that it holds."""

    def without(self, edit: str) -> "Change":
        """The change without one of them."""

    def queries(self, table: pd.DataFrame) -> pd.DataFrame:
        """The queries as the edited model is to be asked: every score goes through it."""

    def applied(self, model: Model) -> AbstractContextManager:
        """The model is edited within a `with` block, and bit for bit as before after it."""


@dataclass(frozen=True)
class Editor:
    """A registered editor: `find(model, requests, **options) -> Change`."""

    name: str
    find: Callable[..., Change]

    def check(self, given: dict) -> None:
        """`InputError` for an option that the editor does not have, and for one that it cannot do without."""
        options = {p.name: p for p in inspect.signature(self.find).parameters.values() if p.kind is p.KEYWORD_ONLY}
        known = Literal("one of " + " ".join(options))
        for name in given:
            if name not in options:
                raise InputError(f"editor {self.name}, options", found=name, expected=known)
        for name, parameter in options.items():
            if parameter.default is parameter.empty and name not in given:
                raise InputError(
                    f"editor {self.name}, options", found=list(given), expected=f"{name}, which has no default"
                )


EDITORS: dict[str, Editor] = {}


def register(name: str):
    """Decorator: makes a function `find(model, requests, **options) -> Change` an editor under this name.

    A function of the same module may register again (a notebook's cell runs twice); `InputError` where another module
    has the name.

    Example
    -------
    >>> register("nothing")(lambda model, requests: ...)  # doctest: +SKIP
    """

    def add(find: Callable[..., Change]) -> Callable[..., Change]:
        old = EDITORS.get(name)
        if old is not None and old.find.__module__ != find.__module__:
            raise InputError("register", found=name, expected=f"a new name: {old.find.__module__} has this one")
        EDITORS[name] = Editor(name, find)
        return find

    return add


def find_change(name: str, model: Model, requests: pd.DataFrame, **options) -> Change:
    """What the editor of this name finds for the requests; the model stays as it is.

    Raises `InputError` for an unknown editor or option (listing the known ones), for a missing one, and as
    `check_requests`.

    Example
    -------
    >>> find_change("rome", model, requests, layer=3, texts=texts).edits
    ['capital:FR']
    """
    if name not in EDITORS:
        raise InputError("editor", found=name, expected=Literal("one of " + " ".join(EDITORS)))
    EDITORS[name].check(options)
    check_requests(requests)
    return EDITORS[name].find(model, requests, **options)


@contextmanager
def edit(name: str, model: Model, requests: pd.DataFrame, **options):
    """The model is edited within the `with` block, which gives the change; after it, bit for bit as before.

    Ask the edited model `edited.queries(table)`: an editor may have something to say before a query. Raises as
    `find_change`.

    Example
    -------
    >>> with edit("memit", model, requests, layers=[2, 3], texts=texts) as edited:
    ...     found = predict(model, edited.queries(queries), facts)
    """
    change = find_change(name, model, requests, **options)
    with change.applied(model):
        yield change
