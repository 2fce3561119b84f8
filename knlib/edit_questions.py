"""The questions that tell what an edit did: itself, in other words, its neighbours, and one hop further."""

import pandas as pd

from .controls import generator
from .edit_set import LOCALITY, EditSet
from .models import Model
from .prediction import predict

EDITED = ("reliability", "generality")  # asked about the edited fact itself
ONE_HOP = ("portability", "ceiling")
KINDS = (*EDITED, *LOCALITY, *ONE_HOP)
COLUMNS = ("edit", "kind", "fact", "relation", "language", "template", "subject", "prompt", "space", "suffix", "target",
           "old", "accepted")  # fmt: skip


def edit_questions(
    edits: EditSet, *, paraphrases: int = 2, neighbours: int = 2, wordings: int = 1, seed: int = 0
) -> pd.DataFrame:
    """All that is asked of an edited model, one row per question, with the columns `COLUMNS`.

    `kind`: `reliability` (the request), `generality` (`paraphrases` of its held-out templates per language), the three
    kinds of locality (`neighbours` facts of each per language), `portability` (`wordings` per one-hop question) and
    `ceiling` (the same of facts that nobody edits). `target`: the right answer after the edit; `accepted`: all its
    names; `old`: the one before it, where it differs. Drawn by edit, language and seed, so that part of a set asks the
    same questions.

    Example
    -------
    >>> edit_questions(load_edits(split="dev"))["kind"].value_counts()
    """
    parts = [
        _new(edits.requests.assign(kind="reliability")),
        _new(_drawn(edits.paraphrases.assign(kind="generality"), paraphrases, seed)),
        _drawn(edits.locality, neighbours, seed).assign(target=lambda table: table["answer"], old=None),
        _new(_drawn(edits.portability, wordings, seed, "question")),
    ]
    parts[2] = parts[2].assign(accepted=_accepted(parts[2], "aliases"))
    table = pd.concat([part[list(COLUMNS)] for part in parts], ignore_index=True)
    order = {edit: number for number, edit in enumerate(edits.requests["edit"].unique())}
    return table.sort_values("edit", key=lambda column: column.map(order), kind="stable", ignore_index=True)


def _new(table: pd.DataFrame) -> pd.DataFrame:
    old = table["answer"].where(table["answer"] != table["new"], None)
    return table.assign(
        target=table["new"], old=old, accepted=_accepted(table.assign(answer=table["new"]), "new_aliases")
    )


def _accepted(table: pd.DataFrame, aliases: str) -> list[tuple[str, ...]]:
    return [(name, *others) for name, others in zip(table["answer"], table[aliases], strict=True)]


def _drawn(table: pd.DataFrame, number: int, seed: int, *by: str) -> pd.DataFrame:
    """`number` rows of every edit, language and kind (and `by`), in their order."""
    kept = []
    for key, rows in table.groupby(["edit", "language", "kind", *by], sort=False).indices.items():
        order = generator(seed, *key).permutation(len(rows))[:number]
        kept += rows[order].tolist()
    return table.iloc[sorted(kept)]


def known_edits(model: Model, requests: pd.DataFrame, facts: pd.DataFrame, *, share: float = 10 / 12) -> list[str]:
    """The edits whose old answer the unedited model gives in at least a `share` of the request's languages.

    An edit of what was never known replaces nothing.

    Example
    -------
    >>> len(known_edits(model, edits.requests, facts))
    """
    own = facts[facts["relation"].isin(requests["relation"].unique())]
    right = predict(model, requests, own)["correct"].groupby(requests["edit"].to_numpy(), sort=False).mean()
    return list(right.index[right >= share])


def shared_strings(requests: pd.DataFrame) -> pd.DataFrame:
    """Of every edit and language whether its subject or its new object is spelled the same in another language, casefolded.

    Columns `edit`, `language`, `shared`: an edit of one string may reach another language by the string alone.

    Example
    -------
    >>> shared_strings(edits.requests).groupby("language")["shared"].mean()
    """
    shared = pd.Series(False, index=requests.index)
    for column in ("subject", "new"):
        plain = pd.DataFrame({"edit": requests["edit"], "text": requests[column].str.casefold()})
        shared |= plain.duplicated(keep=False)
    return requests[["edit", "language"]].assign(shared=shared)
