"""Edit requests: what should become true, asked in several languages, and where in a prompt its subject ends.

An edit is one fact with one request per language. A request table has the columns of `REQUEST_COLUMNS`: `edit` (id),
`fact`, `relation`, `language`, `subject`, `prompt` (it ends where the answer begins), `space` (what joins both),
`answer` (the old one), `new`, `suffix`. All but `edit` are those of `build_queries` and `with_new_objects`.
"""

import re

import pandas as pd

from ..effects import subject_columns
from ..errors import InputError, Literal
from ..models import Model
from ..prediction import AnswerRows

REQUEST_COLUMNS = ("edit", "fact", "relation", "language", "subject", "prompt", "space", "answer", "new", "suffix")
NOT_EMPTY = ("edit", "language", "subject", "prompt", "new")
# A request's key: what the editors give a value of its own.
REQUEST = ["edit", "language"]


def check_requests(requests: pd.DataFrame, *, name: str = "requests") -> None:
    """Raises `InputError` for anything that is wrong with a request table, with the row that it is wrong in.

    Wrong are missing columns, no row, other than text, no text in `NOT_EMPTY`, a new answer that is the old one, two
    requests of an edit in one language, an edit of two facts.

    Example
    -------
    >>> check_requests(requests)
    """
    if not isinstance(requests, pd.DataFrame) or not set(REQUEST_COLUMNS) <= set(requests):
        found = list(requests) if isinstance(requests, pd.DataFrame) else type(requests).__name__
        raise InputError(name, found=found, expected="a table with columns " + " ".join(REQUEST_COLUMNS))
    if not len(requests):
        raise InputError(name, found=Literal("no row"), expected="at least one request")
    _check_texts(requests, name)
    facts, seen = {}, set()
    for row in requests.itertuples():
        where = f"{name}, edit {row.edit}"
        if (row.edit, row.language) in seen:
            raise InputError(where, found=Literal(f"two requests in {row.language}"), expected="one per language")
        seen.add((row.edit, row.language))
        if facts.setdefault(row.edit, row.fact) != row.fact:
            raise InputError(where, found=Literal(f"facts {facts[row.edit]}, {row.fact}"), expected="one fact")


def _check_texts(table: pd.DataFrame, name: str) -> None:
    for row in table.itertuples():
        where = f"{name}, edit {row.edit}"
        for column in REQUEST_COLUMNS:
            value = getattr(row, column)
            if not isinstance(value, str) or (column in NOT_EMPTY and not value.strip()):
                raise InputError(f"{where}, {column}", found=value, expected="text")
        if row.answer == row.new:
            raise InputError(f"{where}, new", found=row.new, expected="another answer than the old one")


def subject_position(model: Model, prompt: str, subject: str) -> tuple[int, str]:
    """The column of a row of tokens where the subject ends, and which place that is.

    `subject_last`: the last token that overlaps the last character of the subject's last mention (in any case), by the
    tokenizer's offsets: it may hold more (an ending), and no blank need be around. `last_prompt`: the prompt's last
    token, where the prompt does not hold the subject as it is spelled. Columns count the special tokens before a text.

    Example
    -------
    >>> subject_position(model, "フランスの首都は", "フランス")
    (1, 'subject_last')
    """
    helper = AnswerRows(model)
    mentions = re.findall(re.escape(subject), prompt, re.IGNORECASE)
    columns = subject_columns(model, helper, prompt, mentions[-1]) if mentions else ()
    if columns:
        return columns[-1], "subject_last"
    return len(helper.before) + len(model.pieces(prompt)) - 1, "last_prompt"


def prompt_rows(model: Model, requests: pd.DataFrame, contexts: pd.DataFrame | None = None) -> pd.DataFrame:
    """All prompts of the requests, first the requests themselves, with `position` and `place` of its subject.

    `contexts`: more prompts of the same edits and languages, with the same columns (paraphrases, or `with_prefixes`):
    keys are means over a request's prompts, and so is the loss of its value. How many positions are not the subject's:
    `rows["place"].eq("last_prompt").sum()`.

    Raises `InputError` as `check_requests`, for a context of no request or with another new answer, and for a masked
    model, in which a key depends on the masks behind it.

    Example
    -------
    >>> prompt_rows(model, requests)["place"].value_counts()
    """
    if model.kind != "causal":
        raise InputError(f"model {model.name}", found=Literal(f"a {model.kind} model"), expected="a causal one")
    check_requests(requests)
    rows = requests
    if contexts is not None:
        if not isinstance(contexts, pd.DataFrame) or not set(REQUEST_COLUMNS) <= set(contexts):
            raise InputError("contexts", found=type(contexts).__name__, expected=Literal(" ".join(REQUEST_COLUMNS)))
        _check_texts(contexts, "contexts")
        wanted = requests.set_index(REQUEST)["new"].to_dict()
        for row in contexts.itertuples():
            if wanted.get((row.edit, row.language)) != row.new:
                raise InputError(f"contexts, edit {row.edit} in {row.language}", found=row.new,
                                 expected="the new answer of a request in this language")  # fmt: skip
        rows = pd.concat([requests, contexts], ignore_index=True)
    found = [subject_position(model, row.prompt, row.subject) for row in rows.itertuples()]
    return rows.assign(position=[column for column, _ in found], place=[place for _, place in found])


def with_prefixes(requests: pd.DataFrame, prefixes: dict[str, list[str]]) -> pd.DataFrame:
    """Contexts for the editors: every request behind each of its language's prefixes, blank at the end included.

    `prefixes`: language -> texts; a language without any has no context.

    Example
    -------
    >>> contexts = with_prefixes(requests, {"en": ["Therefore, "], "ja": ["そして、"]})
    """
    rows = [
        row._replace(prompt=prefix + row.prompt)
        for row in requests[list(REQUEST_COLUMNS)].itertuples(index=False)
        for prefix in prefixes.get(row.language, ())
    ]
    return pd.DataFrame(rows, columns=list(REQUEST_COLUMNS))
