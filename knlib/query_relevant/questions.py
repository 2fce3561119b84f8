"""Questions, their wordings and rotations: which prompts localize, which test, and whether the model knew the answer."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..attribution import Attributions
from ..errors import InputError, Literal
from .clusters import Cluster, cluster

KEY = ["fact", "language"]
NEEDED = ["query", "fact", "relation", "language", "wording", "rotation"]


@dataclass(frozen=True, eq=False)
class Split:
    """Prompts to localize with and to test on; `held_out` is the place (0, 1, ...) of the wording that tests."""

    held_out: int
    localize: pd.DataFrame
    test: pd.DataFrame


def questions(prompts: pd.DataFrame) -> pd.DataFrame:
    """The questions of a table of prompts, one row per fact and language, in order of appearance.

    Columns: `fact`, `language`, `relation`, `wordings`, `prompts` (their numbers). `prompts`: a table of
    `build_multiple_choice` or `load_published`. Raises `InputError` for missing columns, an empty table, the same query or
    (question, wording, rotation) twice.

    Example
    -------
    >>> questions(prompts).head(1)
    """
    _check(prompts)
    return prompts.groupby(KEY, sort=False, as_index=False).agg(
        relation=("relation", "first"), wordings=("wording", "nunique"), prompts=("query", "size")
    )


def _check(prompts: pd.DataFrame) -> None:
    for column in NEEDED:
        if column not in prompts:
            raise InputError("prompts", found=list(prompts), expected=f"a column {column}")
    if not len(prompts):
        raise InputError("prompts", found=Literal("no row"), expected="at least one prompt")
    for columns in (["query"], [*KEY, "wording", "rotation"]):
        twice = prompts.duplicated(columns)
        if twice.any():
            row = prompts[twice].iloc[0]
            raise InputError("prompts", found=Literal(f"{', '.join(columns)} {' '.join(str(row[c]) for c in columns)} twice"),
                             expected="once")  # fmt: skip


def splits(prompts: pd.DataFrame, *, wordings: int = 3) -> Iterator[Split]:
    """Localize on all wordings but one, test on that one; every wording tests once.

    The k-th wording of a language (by name) is held out in the k-th split, with all its rotations. Raises
    `InputError` as `questions`, and for a question without exactly `wordings` of them.

    Example
    -------
    >>> [(len(s.localize), len(s.test)) for s in splits(prompts)]
    [(16, 8), (16, 8), (16, 8)]
    """
    _check(prompts)
    for (fact, language), own in prompts.groupby(KEY, sort=False):
        names = own["wording"].unique()
        if len(names) != wordings:
            raise InputError(f"question {fact} ({language})", found=Literal(f"{len(names)} wordings"),
                             expected=f"{wordings} of each")  # fmt: skip
    place = prompts.groupby(KEY)["wording"].rank("dense").astype(int) - 1
    for held_out in range(wordings):
        yield Split(held_out, prompts[place != held_out], prompts[place == held_out])


def with_correctness(prompts: pd.DataFrame, letters: pd.DataFrame) -> pd.DataFrame:
    """`questions(prompts)` with what the model answers on these prompts: give it those that localize.

    `letters`: of `letter_probabilities`, for these prompts at least. Adds `accuracy` (share of prompts with the right
    letter on top), `probability` (mean, of the right letter), `mass` (mean, of the four), `correct` (accuracy above one half).

    Raises `InputError` for a prompt that `letters` lacks.

    Example
    -------
    >>> with_correctness(split.localize, letter_probabilities(model, split.localize))["correct"].mean()
    """
    table = questions(prompts)
    known = letters.set_index("query")
    missing = prompts.loc[~prompts["query"].isin(known.index), "query"]
    if len(missing):
        raise InputError(
            "letters", found=Literal(f"no row for query {missing.iloc[0]}"), expected="one for each prompt"
        )
    found = prompts[[*KEY, "query"]].join(known[["correct", "probability", "mass"]], on="query")
    means = found.groupby(KEY, sort=False)[["correct", "probability", "mass"]].mean()
    table = table.join(means.rename(columns={"correct": "accuracy"}), on=KEY)
    table["correct"] = table["accuracy"] > 0.5
    return table


def question_clusters(
    attributions: Attributions, prompts: pd.DataFrame, *, t: float = 0.2, kind: str = "relation"
) -> list[Cluster]:
    """The cluster of every question, from the mean score of each wording over its rotations.

    Each rotation is attributed to its own right letter, so that a neuron of one letter averages out. `prompts`: those
    that localize; `attributions` may hold more. `kind`: the column with a question's class (`relation`, `language`).
    The order of `prompts` is irrelevant: clusters come by fact and language.

    Raises `InputError` as `questions` and `cluster`, for attributions of some layers only, for a prompt without attributions.

    Example
    -------
    >>> select(question_clusters(letter_scores(model, split.localize), split.localize)).table
    """
    _check(prompts)
    if kind not in prompts:
        raise InputError("kind", found=kind, expected=f"a column of prompts: {' '.join(prompts)}")
    scores, rows = attributions.scores, {q: i for i, q in enumerate(attributions.scores["query"].values.tolist())}
    if scores["layer"].values.tolist() != list(range(scores.shape[1])):
        raise InputError("attributions, layers", found=scores["layer"].values.tolist(), expected="all layers from 0")
    missing = [q for q in prompts["query"] if q not in rows]
    if missing:
        raise InputError("attributions", found=Literal(f"no scores of query {missing[0]}"), expected="all prompts")
    found = []
    for (fact, language), own in prompts.sort_values(["wording", "rotation"]).groupby(KEY):
        means = [
            scores.values[[rows[q] for q in part["query"]]].mean(0, dtype=np.float64)
            for _, part in own.groupby("wording")
        ]
        found.append(cluster(fact, language, str(own[kind].iloc[0]), np.stack(means), t=t))
    return found
