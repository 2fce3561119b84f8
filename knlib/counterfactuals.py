"""New facts for editing and training: the old subjects with other objects of their relation."""

import pandas as pd

from .controls import generator
from .errors import InputError, Literal


def with_new_objects(queries: pd.DataFrame, facts: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The queries with another object of the relation, drawn at random for every fact: a new answer, false in the world.

    Adds `new` (its canonical name in the query's language) and `new_id`. An object of the same relation, as in CounterFact
    (Meng et al. 2022, arXiv 2202.05262), but uniform over objects: over facts it would favour frequent ones. It must have
    names in all languages of the fact; in each, neither of the old and new names begins with the other, and no new one is
    part of the subject's. It depends on the seed and the fact alone: all queries of a fact, in any table, agree.

    `facts`: the table that the queries were made of, with all objects of the relation. Raises `InputError` for a fact that
    it does not hold, and where no object is left.

    Example
    -------
    >>> with_new_objects(queries, facts)[["prompt", "answer", "new"]].head(1).values.tolist()
    [['The capital of the country Egypt is', 'Cairo', 'Lima']]
    """
    rows = facts.set_index("fact")
    missing = set(queries["fact"]) - set(rows.index)
    if missing:
        raise InputError("queries", found=min(missing), expected="facts of the table facts")
    objects = {
        relation: group.drop_duplicates("object_id").sort_values("object_id")
        for relation, group in facts.groupby("relation", sort=False)
    }
    chosen = {fact: _draw(fact, rows.loc[fact], objects, seed) for fact in queries["fact"].unique()}
    pairs = list(zip(queries["fact"], queries["language"], strict=True))
    return queries.assign(
        new=[chosen[fact]["object"][language][0] for fact, language in pairs],
        new_id=[chosen[fact]["object_id"] for fact, _ in pairs],
    )


def _draw(fact: str, row: pd.Series, objects: dict[str, pd.DataFrame], seed: int) -> pd.Series:
    table = objects[row["relation"]]
    for place in generator(seed, fact, "new object").permutation(len(table)):
        other = table.iloc[place]
        if other["object_id"] != row["object_id"] and _fits(row, other["object"]):
            return other
    raise InputError(f"fact {fact}", found=Literal("no other object of its relation with names in all its languages"),
                     expected="at least one, unlike the old object and the subject")  # fmt: skip


def _fits(row: pd.Series, new: dict[str, tuple[str, ...]]) -> bool:
    for language in set(row["subject"]) & set(row["object"]):
        for name in (name.casefold() for name in new.get(language, ("",))):
            # An empty name begins every other: no name in this language.
            old = [text.casefold() for text in row["object"][language]]
            if any(name.startswith(text) or text.startswith(name) for text in old):
                return False
            if any(name in text.casefold() for text in row["subject"][language]):
                return False
    return True
