"""The two ends of J*: the overlap of queries that share only their relation, and that of a query with itself asked again.

Retests of a query (spec, 2.6): more points of integration; the model's weights rounded to bfloat16, computed in float32
(bfloat16 activations would shift attributions by 1-15 %, and `attribute` refuses them); an edit of the prompt that means nothing.
"""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array

from ..models import Model, prepared
from .study import known_answers

# A leading quotation mark is tried where the first letter's case cannot be changed, or the answer is lost.
QUOTATION = '"'


def jaccard_matrix(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> np.ndarray:
    """|intersection| / |union| of every set of flat indices in `a` with every one in `b`, [a, b]; NaN where both are empty.

    Example
    -------
    >>> jaccard_matrix([np.array([0, 2])], [np.array([2]), np.array([1])])
    array([[0.5, 0. ]])
    """
    width = max((int(s.max()) + 1 for s in [*a, *b] if len(s)), default=1)
    shared = (_rows(a, width) @ _rows(b, width).T).toarray().astype(float)
    union = np.add.outer([len(s) for s in a], [len(s) for s in b]) - shared
    return np.where(union > 0, shared, np.nan) / np.where(union > 0, union, 1)


def _rows(sets: Sequence[np.ndarray], width: int) -> csr_array:
    ends = np.cumsum([0, *map(len, sets)])
    columns = np.concatenate(sets).astype(int) if len(sets) else np.arange(0)
    return csr_array((np.ones(ends[-1], int), columns, ends), shape=(len(sets), width))


def null_overlap(queries: pd.DataFrame, sets: Sequence[np.ndarray]) -> pd.Series:
    """J_null of every fact: mean overlap of its queries with queries of other facts of its relation that have another object
    and another template. NaN where there is none.

    `queries`: columns `fact`, `relation`, `template`, `answer`; `sets`: flat indices, in their order.

    Example
    -------
    >>> null_overlap(study.queries, top_sets(found.scores.values, 10))["capital:FR"]
    """
    found = {}
    facts, templates, answers = (queries[c].to_numpy() for c in ("fact", "template", "answer"))
    for _, rows in queries.reset_index(drop=True).groupby("relation", sort=False).groups.items():
        rows = np.asarray(rows)
        others = [sets[i] for i in rows]
        for fact in dict.fromkeys(facts[rows]):
            own = rows[facts[rows] == fact]
            overlaps = jaccard_matrix([sets[i] for i in own], others)
            # Another object is another fact, too.
            fair = (templates[own][:, None] != templates[rows]) & (answers[own][:, None] != answers[rows])
            values = overlaps[fair & ~np.isnan(overlaps)]
            found[fact] = float(values.mean()) if len(values) else np.nan
    return pd.Series(found, name="j_null", dtype=float)


def random_like(sets: Sequence[np.ndarray], neurons: int, draw: np.random.Generator) -> list[np.ndarray]:
    """For each set of flat indices a random one with as many neurons in every layer; `neurons` per layer.

    Example
    -------
    >>> random_like([np.array([0, 1, 7])], 5, np.random.default_rng(0))[0] // 5
    array([0, 0, 1])
    """
    found = []
    for own in sets:
        layers, counts = np.unique(own // neurons, return_counts=True)
        parts = [
            layer * neurons + draw.choice(neurons, n, replace=False) for layer, n in zip(layers, counts, strict=True)
        ]
        found.append(np.sort(np.concatenate(parts)) if parts else np.arange(0))
    return found


def null_edits(model: Model, queries: pd.DataFrame) -> pd.DataFrame:
    """The queries with an edit that means nothing and keeps the answer; those that have none are left out.

    The first letter changes its case; where that loses the answer (some token is no longer the likeliest) or cannot be done,
    a quotation mark is put in front. Index and query ids stay, prompts change.

    Example
    -------
    >>> null_edits(model, study.queries.head(1))["prompt"].item()
    'the capital of the country France is'
    """
    left, parts = queries, []
    for edit in (_other_case, lambda prompt: QUOTATION + prompt):
        tried = left.assign(prompt=left["prompt"].map(edit)).dropna(subset=["prompt"])
        if len(tried):
            parts.append(tried[known_answers(model, tried)])
            left = left.drop(index=parts[-1].index)
    return pd.concat(parts).loc[[i for i in queries.index if i not in left.index]] if parts else queries[:0]


def _other_case(prompt: str) -> str | None:
    for i, letter in enumerate(prompt):
        if letter.isalpha():
            other = letter.swapcase()
            # Scripts without case, and letters like ß that become two.
            return prompt[:i] + other + prompt[i + 1 :] if other != letter and len(other) == 1 else None
    return None


def rounded_weights(model: Model) -> Model:
    """A copy of the model whose weights went through bfloat16 and back.

    Example
    -------
    >>> rounded_weights(load_model("atlas-gpt2")).name
    'atlas-gpt2-bf16'
    """
    network = deepcopy(model.network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.to(torch.bfloat16).to(parameter.dtype))
    return prepared(f"{model.name}-bf16", network, model.tokenizer, model.kind)


def retest_overlap(queries: pd.DataFrame, sets: Sequence[np.ndarray], again: Sequence[np.ndarray]) -> pd.Series:
    """Mean overlap by relation of each query's set with the one found again; `queries` in the order of both.

    Example
    -------
    >>> retest_overlap(queries, sets, sets).tolist()  # found again alike
    [1.0, 1.0]
    """
    values = [jaccard_matrix([a], [b])[0, 0] for a, b in zip(sets, again, strict=True)]
    return pd.Series(values, dtype=float).groupby(queries["relation"].to_numpy(), sort=False).mean()
