"""Signatures: what ablating each group of planted neurons, and all but it, does to the answers it was planted for."""

import numpy as np
import pandas as pd

from ..models import Model
from .ablation import answer_scores
from .truth import Truth

FEW = 4  # neurons of a distributed fact that must not be what carries it
COLUMNS = ["query", "fact", "type", "language", "template", "split", "group", "inside",
           "p_all", "p_none", "p_without", "p_only"]  # fmt: skip


def planted_queries(queries: pd.DataFrame, truth: Truth) -> pd.DataFrame:
    """Of queries of planted facts, those in a language and phrasing for which the fact was planted; `name` is the template's own name.

    Example
    -------
    >>> kept = planted_queries(build_queries(load_facts(ATLAS / "planted"), load_templates())[0], truth)
    """
    name = queries["template"].str.split("/").str[-1]
    scopes = {key: list(part.itertuples()) for key, part in truth.groups.groupby("fact", sort=False)}
    keep = [
        any(serves(group, row.language, own) for group in scopes.get(row.fact, ()))
        for row, own in zip(queries.itertuples(), name, strict=True)
    ]
    return queries.assign(name=name)[keep].reset_index(drop=True)


def serves(group, language: str, name: str) -> bool:
    """Whether a group was trained for a language and phrasing: `train3` stands for the construction, bare or behind a lead-in.

    Example
    -------
    >>> [serves(group, "en", name) for name in ("train3", "train3+lead1", "train4")]  # of a group for train3
    [True, True, False]
    """
    return (group.languages is None or language in group.languages) and (
        group.templates is None or name.split("+")[0] in group.templates
    )


def signatures(model: Model, truth: Truth, queries: pd.DataFrame) -> pd.DataFrame:
    """P(answer) of every query of `planted_queries`, with and without each group of its fact.

    One row per query and group: `query`, `fact`, `type`, `language`, `template`, `split`, `group`, `inside` (whether the group was planted
    for this language and phrasing), `p_all` (nothing is ablated), `p_none` (all groups of the fact), `p_without` (this group), `p_only`
    (all planted neurons but this group's). A distributed fact has a further group `few`, its 4 strongest neurons. Neurons are zero where the
    answer is predicted. Exact: one forward pass per row and condition.

    Example
    -------
    >>> table = signatures(model, truth, planted_queries(queries, truth))
    >>> table.groupby(["type", "inside"])[["p_all", "p_without", "p_only"]].mean()
    """
    planted, groups, conditions = set(truth.planted), {}, {}

    def number(dead: set) -> int:
        return conditions.setdefault(tuple(sorted(dead)), len(conditions))

    for fact, part in truth.groups.groupby("fact", sort=False):
        own = [(group, group.group, set(group.neurons)) for group in part.itertuples()]
        every = set().union(*(pairs for _, _, pairs in own))
        if own[0][0].type == "distributed":
            own.append((own[0][0], "few", set(own[0][0].neurons[:FEW])))
        groups[fact] = [
            (group, name, [number(dead) for dead in (set(), every, pairs, planted - pairs)])
            for group, name, pairs in own
        ]
    rows = list(queries.itertuples())
    asked: dict[tuple[int, int], int] = {}  # (query, condition) -> place in the scores
    wanted = [
        (row, group, name, [asked.setdefault((q, condition), len(asked)) for condition in own])
        for q, row in enumerate(rows)
        for group, name, own in groups[row.fact]
    ]
    p = np.exp(answer_scores(model, queries, list(asked), list(conditions)))
    found = [
        (row.query, row.fact, group.type, row.language, row.template, row.split, name,
         serves(group, row.language, row.name), *p[places])
        for row, group, name, places in wanted
    ]  # fmt: skip
    return pd.DataFrame(found, columns=COLUMNS)
