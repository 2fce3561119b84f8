"""What all cells of the study share: one model, and the facts that it knows in every phrasing."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ..controls import generator
from ..errors import InputError, Literal
from ..models import Model
from ..prediction import AnswerRows, answer_rows, answer_tokens
from ..queries import build_queries

PART_A = 4  # templates of a relation that a fact is labelled and fitted with; the others test
FEWEST = 6  # phrasings below which a fact has no main stratum


@dataclass(frozen=True, eq=False)
class Study:
    """`queries`: of the known facts, the same number for each, with `part` (`A` or `B`); `facts`: the whole table, with all
    objects; `dropped`: counts of facts by reason; `options`: what the queries depend on."""

    model: Model
    facts: pd.DataFrame
    queries: pd.DataFrame
    dropped: dict[str, int]
    options: dict

    @cached_property
    def names(self) -> list[str]:
        """The known facts, in order."""
        return list(dict.fromkeys(self.queries["fact"]))

    def of(self, facts: list[str]) -> pd.DataFrame:
        """The queries of these facts, with the index that they have in `queries`."""
        return self.queries[self.queries["fact"].isin(facts)]


def load_study(
    model: Model,
    facts: pd.DataFrame,
    templates: pd.DataFrame,
    *,
    language: str = "en",
    phrasings: int = 8,
    facts_each: int = 50,
    seed: int = 0,
) -> Study:
    """The study's queries: `facts_each` facts of every relation that the model knows in all of `phrasings` trained phrasings.

    A fact is known where every token of its answer is the likeliest of the whole vocabulary behind the right tokens before
    it, in all phrasings (spec, 2.1: forgetting is not inconsistency). Phrasings have no opening; 4 of each relation, drawn by
    `seed`, are part `A`, the others `B`. Facts come in an order drawn by `seed` until there are enough; the others are counted:
    `gated` (too few queries passed the gates), `unknown`, `not needed`.

    Raises `InputError` for fewer than 6 phrasings, a relation with fewer templates, and where no fact is left.

    Example
    -------
    >>> study = load_study(load_model("atlas-gpt2"), *load_atlas(languages=("en",)))
    >>> len(study.names), study.dropped
    """
    if phrasings < FEWEST:
        raise InputError("phrasings", found=phrasings, expected=f"at least {FEWEST}")
    options = {"language": language, "phrasings": phrasings, "facts_each": facts_each, "seed": seed}
    plain = templates[(templates["language"] == language) & (templates["split"] == "train")]
    plain = plain[~plain["template"].str.contains("+", regex=False)]
    parts, dropped = [], Counter()
    for relation, group in plain.groupby("relation", sort=False):
        if len(group) < phrasings:
            raise InputError(
                f"templates of {relation} in {language}", found=len(group), expected=f"{phrasings} of split train"
            )
        draw = generator(seed, relation, "phrasings")
        chosen = group.iloc[draw.permutation(len(group))[:phrasings]]
        part = dict(zip(chosen["template"], ["A"] * PART_A + ["B"] * (phrasings - PART_A), strict=True))
        queries, _ = build_queries(facts[facts["relation"] == relation], chosen)
        parts.append(
            _known(model, queries.assign(part=queries["template"].map(part)), phrasings, facts_each, seed, dropped)
        )
        dropped["gated"] += int((facts["relation"] == relation).sum()) - queries["fact"].nunique()
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if table.empty:
        raise InputError("facts", found=Literal("none that the model knows in all phrasings"), expected="at least one")
    return Study(model, facts, table, dict(dropped), options)


def _known(
    model: Model, queries: pd.DataFrame, phrasings: int, wanted: int, seed: int, dropped: Counter
) -> pd.DataFrame:
    counts = queries["fact"].value_counts()
    names = sorted(counts.index[counts == phrasings])
    dropped["gated"] += len(counts) - len(names)
    names.sort(key=lambda name: generator(seed, name, "study").random())
    kept: list[str] = []
    for start in range(0, len(names), wanted):
        some = names[start : start + wanted]
        asked = queries[queries["fact"].isin(some)]
        right = known_answers(model, asked).groupby(asked["fact"]).all()
        kept += [name for name in some if right[name]]
        dropped["unknown"] += int((~right).sum())
        if len(kept) >= wanted:
            dropped["not needed"] += len(names) - start - len(some) + len(kept) - wanted
            break
    order = {name: i for i, name in enumerate(kept[:wanted])}
    table = queries[queries["fact"].isin(order)]
    return table.sort_values("fact", key=lambda column: column.map(order), kind="stable")


def known_answers(model: Model, queries: pd.DataFrame) -> pd.Series:
    """Whether every token of the answer is the likeliest one behind the right tokens before it, bool, indexed as `queries`."""
    items = [
        (q.prompt, answer_tokens(model, q.prompt, q.space, q.answer), q.space, q.suffix) for q in queries.itertuples()
    ]
    rows, columns, targets, owners = answer_rows(model, items)
    right = np.ones(len(items), bool)

    def use(i, found):
        right[owners[i]] &= (found.argmax(-1) == np.array(targets[i])).all()

    AnswerRows(model).log_probabilities(rows, columns, use)
    return pd.Series(right, index=queries.index)
