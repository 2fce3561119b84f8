"""What is asked about the edit of a fact: its own queries, those of its neighbours, inverse ones, and a held-out text."""

import pandas as pd

from ..controls import generator
from ..errors import InputError, Literal
from ..models import Model
from ..queries import build_queries


def own_queries(
    queries: pd.DataFrame, fact: str, *, aim: str = "answer", tested: str = "B", seed: int = 0
) -> pd.DataFrame:
    """A fact's request, drawn by `seed` from part A (`part` reliability), and its queries of part `tested` (generality).

    `queries`: with `part` A or B; adds `aim` from the column of that name. Raises `InputError` for a fact that lacks either.

    Example
    -------
    >>> own_queries(study.queries, "capital:FR")["part"].tolist()
    ['reliability', 'generality', 'generality', 'generality', 'generality']
    """
    own = queries[queries["fact"] == fact]
    fitted = own[own["part"] == "A"]
    number = int(generator(seed, fact, "request").integers(max(len(fitted), 1)))
    request = fitted.iloc[number : number + 1]
    rest = own[(own["part"] == tested) & ~own["query"].isin(request["query"])]
    if not len(request) or not len(rest):
        raise InputError(f"queries of {fact}", found=own["part"].tolist(), expected=f"parts A and {tested}")
    found = pd.concat([request.assign(part="reliability"), rest.assign(part="generality")])
    return found.assign(aim=found[aim])


def inverse_queries(facts: pd.DataFrame, templates: pd.DataFrame, edited: pd.Series) -> pd.DataFrame:
    """What follows from an update in the other direction, as queries with `part` portability and the subject as `aim`.

    Where another relation leads back from the relation's objects (capital and country), the new object is asked for the old
    subject. `edited`: a query row with `fact`, `language`, `new_id`; `templates`: those to ask in. No row where no relation
    leads back.

    Example
    -------
    >>> inverse_queries(study.facts, templates, request)[["prompt", "aim"]].values[0].tolist()
    ['The place Lima lies in the country', 'France']
    """
    row = facts.set_index("fact").loc[edited["fact"]]
    back = facts[(facts["subject_id"] == row["object_id"]) & (facts["object_id"] == row["subject_id"])]
    asked = facts[facts["relation"].isin(back["relation"]) & (facts["subject_id"] == edited["new_id"])]
    splits = tuple(templates["split"].unique())
    queries, _ = build_queries(asked, templates[templates["relation"].isin(back["relation"])], splits=splits)
    return queries.assign(part="portability", aim=row["subject"][edited["language"]][0])


def held_out_text(
    model: Model, facts: pd.DataFrame, templates: pd.DataFrame, *, tokens: int = 20_000, seed: int = 0
) -> pd.DataFrame:
    """Sentences (`fact`, `text`) of the facts in held-out phrasings, drawn by `seed` until there are `tokens` tokens.

    Raises `InputError` where the templates have none of split `held_out` for these facts.

    Example
    -------
    >>> text = held_out_text(model, *load_atlas(languages=("en",)))
    """
    queries, _ = build_queries(facts, templates, splits=("held_out",))
    if not len(queries):
        raise InputError("templates", found=Literal("none held out"), expected="templates of split held_out")
    queries = queries.iloc[generator(seed, "held-out text").permutation(len(queries))]
    texts = queries["prompt"] + queries["space"] + queries["answer"] + queries["suffix"]
    counts, wanted = 0, 0
    while wanted < len(texts) and counts < tokens:
        counts += len(model.pieces(texts.iloc[wanted]))
        wanted += 1
    table = pd.DataFrame({"fact": queries["fact"], "text": texts}).head(wanted)
    return table.reset_index(drop=True)


def sentences_for(model: Model, text: pd.DataFrame, fact: str, *, tokens: int, seed: int = 0) -> list[str]:
    """The part of a held-out text that the edit of a fact is read on: sentences of other facts, about `tokens` tokens.

    A whole text for every edit would cost more than all else. A fact's part is the same for all its edits; together the facts
    cover the text.

    Example
    -------
    >>> sentences_for(model, text, "capital:FR", tokens=64)
    """
    others = text.loc[text["fact"] != fact, "text"].tolist()
    chosen, count = [], 0
    for number in generator(seed, fact, "text").permutation(len(others)):
        if count >= tokens:
            break
        chosen.append(others[number])
        count += len(model.pieces(others[number]))
    return chosen


def neighbour_queries(
    queries: pd.DataFrame, fact: str, *, each: int = 10, new: str | None = None, seed: int = 0
) -> pd.DataFrame:
    """One query each of `each` facts of the fact's relation with another object, and of `each` of other relations.

    `queries`: those that may be asked. Facts whose answer is the old or the `new` one are no test of locality. Adds `near`:
    same relation. Drawn by `seed` and fact; fewer where there are not as many.

    Example
    -------
    >>> neighbour_queries(study.queries[study.queries["part"] == "B"], "capital:FR")["near"].sum()
    10
    """
    own = queries[queries["fact"] == fact].iloc[0]
    firsts = queries.drop_duplicates("fact")
    firsts = firsts[(firsts["fact"] != fact) & ~firsts["answer"].isin([own["answer"], new])]
    rows, chosen, is_near = queries.groupby("fact", sort=False).indices, [], []
    for near in (True, False):
        names = firsts.loc[(firsts["relation"] == own["relation"]) == near, "fact"].tolist()
        draw = generator(seed, fact, "near" if near else "far")
        for number in draw.permutation(len(names))[:each]:
            chosen.append(int(draw.choice(rows[names[number]])))
            is_near.append(near)
    return queries.iloc[chosen].assign(near=is_near)
