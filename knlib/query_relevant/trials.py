"""On whom a question's neurons are tried: its own held-out wording, the wordings they were found with, other questions."""

import numpy as np
import pandas as pd

from ..controls import generator
from ..errors import InputError, Literal
from .questions import KEY, Split, questions

# `own`: the wording held out, all rotations. `in_sample`: one wording that localized. `other`: questions of other classes.
# `across`: the same fact in other languages.
GROUPS = ("own", "in_sample", "other", "across")
COLUMNS = [*KEY, "held_out", "group", "query", "tested_fact", "tested_language"]


def trials(
    split: Split, asked: pd.DataFrame | None = None, *, others: int = 5, across: int = 2, seed: int = 0
) -> pd.DataFrame:
    """The prompts on which every question's neurons are tried: one row per question and prompt.

    Columns: `fact`, `language` (of the question whose neurons are changed), `held_out` (of the split), `group`, `query`,
    `tested_fact`, `tested_language` (of the prompt):

    - `own`: its prompts of the wording that was held out; `in_sample`: those of one wording that localized.
    - `other`: `others` seeded questions of other relations, one rotation of the held-out wording each; in turns of the
      same language and of another one (where there are such), so that both rows of the 2 x 2 table have prompts.
    - `across`: the same fact in at most `across` other languages, likewise.

    `asked`: a table `fact`, `language` of the questions wanted (default: all); partners come from all questions of the
    split either way, so a part of the questions has the same rows as in the whole.

    Raises `InputError` as `questions`, for a single relation, for a question that the split lacks.

    Example
    -------
    >>> trials(next(splits(prompts)))["group"].value_counts()
    """
    table = questions(split.test)
    if table["relation"].nunique() < 2:
        raise InputError("split", found=Literal("questions of one relation"), expected="two or more: U is of others")
    pool = _Pool(split, table)
    keys = table[KEY] if asked is None else asked[KEY].drop_duplicates()
    rows = []
    for key in keys.itertuples(index=False, name=None):
        if key not in pool.tested:
            raise InputError("asked", found=Literal(f"question {key[0]} ({key[1]})"), expected="questions of the split")
        draw = generator(seed, *key, split.held_out)
        rows += [(*key, "own", query, *key) for query in pool.tested[key]]
        rows += [(*key, "in_sample", query, *key) for query in pool.localized(key)]
        for group, partners in (("other", pool.others(key, others, draw)), ("across", pool.across(key, across, draw))):
            rows += [(*key, group, str(draw.choice(pool.tested[partner])), *partner) for partner in partners]
    found = pd.DataFrame(rows, columns=[c for c in COLUMNS if c != "held_out"])
    return found.assign(held_out=split.held_out)[COLUMNS]


class _Pool:
    """The questions of a split, and who may be whose partner."""

    def __init__(self, split: Split, table: pd.DataFrame):
        self.table, self.languages = table, table["language"].unique()
        self.relation = {(r.fact, r.language): r.relation for r in table.itertuples()}
        self.tested = _queries(split.test)
        # The wording after the one held out, in turns: each localizing wording is asked as often.
        places = split.localize.groupby(KEY)["wording"].rank("dense").astype(int) - 1
        wordings = int(places.max()) + 1
        self._located = _queries(split.localize[places == split.held_out % wordings])
        self._strangers: dict[tuple[str, str, bool], list] = {}

    def localized(self, key: tuple[str, str]) -> list[str]:
        return self._located.get(key, [])

    def strangers(self, relation: str, language: str, same: bool) -> list[tuple[str, str]]:
        """Questions of other relations, in this language or in others."""
        name = (relation, language, same)
        if name not in self._strangers:
            table = self.table
            chosen = table[(table["relation"] != relation) & ((table["language"] == language) == same)]
            self._strangers[name] = sorted(chosen[KEY].itertuples(index=False, name=None))
        return self._strangers[name]

    def others(self, key: tuple[str, str], count: int, draw: np.random.Generator) -> list[tuple[str, str]]:
        fact, language = key
        found: list[tuple[str, str]] = []
        both = [
            [p for p in self.strangers(self.relation[key], language, same) if p[0] != fact] for same in (True, False)
        ]
        for turn in range(count):
            free = [p for p in both[turn % 2] or both[1 - turn % 2] if p not in found]
            if free:
                found.append(free[int(draw.integers(len(free)))])
        return found

    def across(self, key: tuple[str, str], count: int, draw: np.random.Generator) -> list[tuple[str, str]]:
        there = [(key[0], code) for code in self.languages if code != key[1] and (key[0], code) in self.tested]
        return [there[i] for i in draw.permutation(len(there))[:count]]


def _queries(prompts: pd.DataFrame) -> dict[tuple[str, str], list[str]]:
    ordered = prompts.sort_values(["wording", "rotation"])
    return {key: own["query"].tolist() for key, own in ordered.groupby(KEY)}
