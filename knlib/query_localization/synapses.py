"""Knowledge synapses: entries (layer, head, column) of attention that the tokens of a query look at most (spec, 4.1)."""

from dataclasses import dataclass

import numpy as np
import torch

from ..effects import subject_columns
from ..errors import InputError, Literal
from ..models import Model
from ..prediction import AnswerRows
from ..sites import uncached
from .attention import Seen, captured_attention
from .measure import Asked, asked

MODES = ("paper", "norm", "budget")
KINDS = ("sink", "subject", "relation", "answer")


@dataclass(frozen=True, eq=False)
class Columns:
    """What a query's tokens look at.

    `mass` [layers, query heads, columns]: attention that a column gets, summed over the tokens that look (S in the spec), mean
    over the query's rows; `viewers` [layers, columns]: how many tokens can see it; `kinds` [columns]: `sink` (the first token,
    special tokens, in a masked model also final punctuation), `subject`, `answer` (masks, or tokens shown before a site), `relation`
    (all other words).
    """

    mass: np.ndarray
    viewers: np.ndarray
    kinds: np.ndarray

    @property
    def norm(self) -> np.ndarray:
        """Mean attention of those who can see a column: [layers, heads, columns]."""
        return self.mass / self.viewers[:, None]

    @property
    def sinks(self) -> np.ndarray:
        return self.kinds == "sink"


def column_mass(weights: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of attention over rows, [..., columns], and how many rows can see each column, [columns].

    `weights` [..., rows, columns] after the softmax, `visible` bool [rows, columns].

    Example
    -------
    >>> column_mass(np.array([[1, 0], [0.25, 0.75]]), np.array([[True, False], [True, True]]))
    (array([1.25, 0.75]), array([2, 1]))
    """
    return weights.sum(-2), visible.sum(-2)


def select_synapses(columns: Columns, *, mode: str = "norm", alpha: float = 0.3) -> np.ndarray:
    """The synapses, bool [layers, heads, columns].

    - `paper`: mass above `alpha` times the largest, sinks among them (Chen et al. 2025; form recalled).
    - `norm`: mean attention of those who can see the column, without sinks, above `alpha` times the largest of these: under a
      causal mask the sum favours early columns, and the largest of all is a sink.
    - `budget`: the layers * heads largest of `norm`, whatever `alpha`.

    Example
    -------
    >>> select_synapses(columns, mode="norm").sum()
    57
    """
    if mode not in MODES:
        raise InputError("mode", found=mode, expected=Literal("one of " + " ".join(MODES)))
    if not 0 < alpha < 1:
        raise InputError("alpha", found=alpha, expected="a number between 0 and 1")
    if mode == "paper":
        return columns.mass > alpha * columns.mass.max()
    norm = np.where(columns.sinks, 0, columns.norm)
    if mode == "norm":
        return (norm > alpha * norm.max()) & ~columns.sinks
    return best(norm, norm.shape[0] * norm.shape[1])


def best(score: np.ndarray, n: int) -> np.ndarray:
    """The n largest positive entries, bool; the earlier of equal ones."""
    order = np.argsort(-score, axis=None, kind="stable")[:n]
    chosen = np.zeros(score.size, bool)
    chosen[order] = score.ravel()[order] > 0
    return chosen.reshape(score.shape)


@torch.no_grad()
def attention_columns(model: Model, query) -> Columns:
    """What the tokens of a query (a row of the table, as `itertuples` gives it) look at, answer tokens included.

    Raises `InputError` for a model whose attention cannot be opened (`captured_attention`).

    Example
    -------
    >>> attention_columns(model, next(study.queries.itertuples())).kinds
    array(['sink', 'relation', 'relation', 'subject', 'relation'], dtype='<U8')
    """
    rows = asked(model, query)
    ids = torch.tensor(rows.rows, device=model.device)
    with captured_attention(model) as seen:
        model.base(input_ids=ids, attention_mask=torch.ones_like(ids), **uncached(model))
    mass, viewers = _masses(seen)
    return Columns(mass, viewers, column_kinds(model, query, rows))


def _masses(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for weights, visible in zip(seen.weights, seen.visible, strict=True):
        found.append(column_mass(weights.double().mean(0).cpu().numpy(), visible[0, 0].cpu().numpy()))
    return np.stack([mass for mass, _ in found]), np.stack([viewers for _, viewers in found])


def column_kinds(model: Model, query, rows: Asked) -> np.ndarray:
    """One of `KINDS` for each column of a query's rows."""
    helper, length = AnswerRows(model), rows.length
    kinds = np.full(length, "relation", dtype="<U8")
    kinds[list(subject_columns(model, helper, query.prompt, query.subject))] = "subject"
    places = helper.positions(query.prompt, sum(map(len, rows.targets)))
    shift = 1 if model.kind == "causal" else 0
    kinds[[place + shift for place in places if place + shift < length]] = "answer"
    last = length - len(helper.after)
    kinds[[0, *range(len(helper.before)), *range(last, length)]] = "sink"
    while model.kind == "masked" and kinds[last - 1] == "relation" and _is_punctuation(model, rows.rows[0][last - 1]):
        last -= 1
        kinds[last] = "sink"
    return kinds


def _is_punctuation(model: Model, token: int) -> bool:
    return not any(character.isalnum() for character in model.tokenizer.decode([token]))
