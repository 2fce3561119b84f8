"""Questions as vectors of their neurons' scores: do those of one relation, or of one language, lie together?"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.metrics import pairwise_distances, silhouette_score
from sklearn.preprocessing import normalize

from ..errors import InputError, Literal
from .questions import KEY

PERMUTATIONS = 200


@dataclass(frozen=True, eq=False)
class QuestionSpace:
    """`points`: a row per question: `fact`, `language`, `x`, `y` (the first two singular directions; for the eye); `vectors` (sparse,
    [questions, neurons], of length 1): the scores that all measures use.
    """

    points: pd.DataFrame
    vectors: csr_matrix


def question_space(neurons: pd.DataFrame) -> QuestionSpace:
    """The vectors of a table of `find("qrnca", ...)`: a question's scores (na times ica), one column a neuron, length 1.

    Raises `InputError` for fewer than three questions or neurons.

    Example
    -------
    >>> question_space(found).points.head()
    """
    questions, keys = _codes(neurons, KEY)
    columns, places = _codes(neurons, ["layer", "neuron"])
    if min(len(keys), len(places)) < 3:
        raise InputError("neurons", found=Literal(f"{len(keys)} questions, {len(places)} neurons"),
                         expected="three or more of each")  # fmt: skip
    shape = (len(keys), len(places))
    vectors = normalize(csr_matrix((neurons["score"].to_numpy(float), (questions, columns)), shape=shape))
    flat = TruncatedSVD(2, random_state=0).fit_transform(vectors)
    return QuestionSpace(keys.assign(x=flat[:, 0], y=flat[:, 1]), vectors)


def _codes(table: pd.DataFrame, columns: list[str]) -> tuple[np.ndarray, pd.DataFrame]:
    numbers = table.groupby(columns, sort=True).ngroup().to_numpy()
    return numbers, table[columns].drop_duplicates().sort_values(columns, ignore_index=True)


def class_measures(
    space: QuestionSpace, classes: pd.Series, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, float]:
    """How well a class's questions lie together, by cosine distance, beside the same with permuted classes.

    `classes`: of every row of `space.points`. `silhouette`; `neighbour`: the share of questions whose nearest question *of
    another fact* has their class (the same fact in another language would be of its relation for free); `_null`, `_high`: mean and
    95 % quantile over permutations. A class that belongs to facts is permuted among facts, another among a fact's questions.

    Raises `InputError` for a single class.

    Example
    -------
    >>> class_measures(space, space.points["language"])["neighbour"]
    """
    if classes.nunique() < 2 or classes.nunique() >= len(classes):
        raise InputError("classes", found=Literal(f"{classes.nunique()} of {len(classes)} questions"),
                         expected="two or more, fewer than questions")  # fmt: skip
    distance = pairwise_distances(space.vectors, metric="cosine")
    np.fill_diagonal(distance, 0)
    facts = space.points["fact"].to_numpy()
    nearest = np.where(facts[:, None] == facts[None], np.inf, distance).argmin(1)
    codes = classes.factorize()[0]
    of_facts = bool((pd.Series(codes).groupby(facts).nunique() == 1).all())

    def measured(labels: np.ndarray) -> tuple[float, float]:
        return (float(silhouette_score(distance, labels, metric="precomputed")),
                float((labels == labels[nearest]).mean()))  # fmt: skip

    draw = np.random.default_rng(seed)
    null = np.array([measured(_permuted(codes, facts, of_facts, draw)) for _ in range(permutations)])
    found = {}
    for i, (name, value) in enumerate(zip(("silhouette", "neighbour"), measured(codes), strict=True)):
        found |= {name: value, f"{name}_null": float(null[:, i].mean()),
                  f"{name}_high": float(np.quantile(null[:, i], 0.95))}  # fmt: skip
    return found


def _permuted(codes: np.ndarray, facts: np.ndarray, of_facts: bool, draw: np.random.Generator) -> np.ndarray:
    names, number = np.unique(facts, return_inverse=True)
    if of_facts:
        first = np.array([codes[number == i][0] for i in range(len(names))])
        return draw.permutation(first)[number]
    mixed = codes.copy()
    for i in range(len(names)):
        own = np.flatnonzero(number == i)
        mixed[own] = codes[draw.permutation(own)]
    return mixed
