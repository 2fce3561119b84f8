"""Are there neurons of a letter? With one order of the options a question's neurons and its letter's cannot be told apart."""

import itertools

import numpy as np
import pandas as pd

from ..attribution import Attributions
from ..errors import InputError, Literal
from .questions import KEY


def letter_overlap(
    attributions: Attributions, prompts: pd.DataFrame, *, t: float = 0.2, level: float = 0.95, draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """How much the neurons of two questions overlap whose right letters are the same, or not.

    Sets are the neurons above t times the largest score of one prompt (`one order`), or of the mean over a wording's rotations
    (`all orders`: there is no letter to agree in, and what is left is shared by questions). Pairs are prompts of the same wording, of
    different relations, so that neither the fact nor its options are shared.

    Columns: `orders`, `letter` (`same`, `other`, `any`), `pairs`, `jaccard` (mean), `low`, `high` (bootstrap over facts).
    Raises `InputError` where there is no such pair.

    Example
    -------
    >>> letter_overlap(letter_scores(model, prompts), prompts)
    """
    rows = {query: i for i, query in enumerate(attributions.scores["query"].values.tolist())}
    flat = attributions.scores.values.reshape(len(rows), -1)
    whole = {key: flat[[rows[q] for q in own["query"]]].mean(0) for key, own in prompts.groupby([*KEY, "wording"])}
    found = []
    for _, own in prompts.groupby("wording"):
        sets = [_above(flat[rows[row.query]], t) for row in own.itertuples()]
        means = [_above(whole[row.fact, row.language, row.wording], t) for row in own.itertuples()]
        records = list(zip(own["fact"], own["relation"], own["answer"], sets, means, strict=True))
        for a, b in itertools.combinations(records, 2):
            if a[1] != b[1]:
                found.append((a[0], b[0], a[2] == b[2], _jaccard(a[3], b[3]), _jaccard(a[4], b[4])))
    table = pd.DataFrame(found, columns=["a", "b", "same", "one order", "all orders"])
    if not table["same"].any() or table["same"].all():
        raise InputError("prompts", found=Literal("no two questions to compare"), expected="two relations or more")
    return _summary(table, level, draws, seed)


def _above(scores: np.ndarray, t: float) -> frozenset[int]:
    top = scores.max()
    return frozenset(np.flatnonzero(scores > t * top).tolist()) if top > 0 else frozenset()


def _jaccard(a: frozenset[int], b: frozenset[int]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def _summary(table: pd.DataFrame, level: float, draws: int, seed: int) -> pd.DataFrame:
    """Means with intervals: facts are drawn, and a pair counts as often as both of its facts were."""
    facts = pd.unique(table[["a", "b"]].to_numpy().ravel())
    number = {fact: i for i, fact in enumerate(facts)}
    drawn = np.random.default_rng(seed).multinomial(len(facts), np.full(len(facts), 1 / len(facts)), size=draws)
    a, b = (table[side].map(number).to_numpy() for side in ("a", "b"))
    rows = []
    one = table["same"].to_numpy()
    for orders, name, own in (
        ("one order", "same", one),
        ("one order", "other", ~one),
        ("all orders", "any", one | ~one),
    ):
        # Pairs of two facts are summed first: a draw weighs them alike.
        pairs, where = np.unique(np.stack([a[own], b[own]], 1), axis=0, return_inverse=True)
        values = table.loc[own, orders].to_numpy(float)
        sums, counts = np.bincount(where.ravel(), values), np.bincount(where.ravel())
        weights = drawn[:, pairs[:, 0]] * drawn[:, pairs[:, 1]]
        with np.errstate(invalid="ignore"):
            means = (weights @ sums) / (weights @ counts)
        low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
        rows.append((orders, name, int(own.sum()), float(values.mean()), float(low), float(high)))
    return pd.DataFrame(rows, columns=["orders", "letter", "pairs", "jaccard", "low", "high"])
