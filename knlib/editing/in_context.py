"""IKE: no weight changes; the new fact, behind some demonstrations, stands before every query (Zheng et al. 2023, arXiv 2305.12740)."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pandas as pd

from ..errors import InputError, Literal
from ..languages import LANGUAGES
from ..models import Model
from .changes import option_record
from .registry import register


@dataclass(frozen=True, eq=False)
class PromptChange:
    """What is put before queries: `facts` (edit, language) -> the new fact's sentence; `demonstrations`: language -> texts."""

    facts: dict[tuple[str, str], str]
    demonstrations: dict[str, tuple[str, ...]]
    options: dict = field(default_factory=dict)

    @property
    def edits(self) -> list[str]:
        """Ids of the edits."""
        return list(dict.fromkeys(edit for edit, _ in self.facts))

    def without(self, edit: str) -> "PromptChange":
        """The change without one edit. `InputError` for an unknown id."""
        if edit not in self.edits:
            raise InputError("edit", found=edit, expected=Literal("one of " + " ".join(self.edits)))
        return replace(self, facts={key: text for key, text in self.facts.items() if key[0] != edit})

    def queries(self, table: pd.DataFrame) -> pd.DataFrame:
        """Each query behind the demonstrations of its language and its edit's new fact, in the query's language or else in all others'.

        `table`: with `edit`, the edit whose effect is asked for, also of queries about other facts: retrieval is taken as perfect.
        Queries of other edits stay as they are. `InputError` without the column.
        """
        if "edit" not in table:
            raise InputError("queries", found=list(table), expected="a table with a column edit")
        return table.assign(prompt=[self._prompt(row) for row in table.itertuples()])

    def _prompt(self, row) -> str:
        own = [text for (edit, language), text in self.facts.items() if edit == row.edit and language == row.language]
        texts = own or [text for (edit, _), text in self.facts.items() if edit == row.edit]
        if not texts:
            return row.prompt
        space = LANGUAGES[row.language].space if row.language in LANGUAGES else " "
        return space.join([*self.demonstrations.get(row.language, ()), *texts, row.prompt])

    @contextmanager
    def applied(self, model: Model):
        """The model stays as it is: all is in `queries`."""
        yield self


@register("ike")
def ike(
    model: Model, requests: pd.DataFrame, *, demonstrations: dict[str, Sequence[str]] | None = None
) -> PromptChange:
    """The requests' sentences with the new answers, and demonstrations of how a stated fact is used: language -> texts.

    Models that never saw a fact stated before a question about it (Atlas's) cannot be expected to use it.

    Example
    -------
    >>> edited = ike(model, requests)
    >>> found = predict(model, edited.queries(queries), facts)
    """
    facts = {(row.edit, row.language): row.prompt + row.space + row.new + row.suffix for row in requests.itertuples()}
    shown = {code: tuple(texts) for code, texts in (demonstrations or {}).items()}
    return PromptChange(facts, shown, option_record(demonstrations={code: len(texts) for code, texts in shown.items()}))
