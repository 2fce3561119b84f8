"""Edits of a few neurons in the weights: of what a neuron adds to the stream, its down-projection column."""

from collections.abc import Iterable
from contextlib import contextmanager

import pandas as pd
import torch

from ..controls import Pairs, neuron_pairs
from ..errors import InputError, Literal
from ..models import Model
from ..prediction import answer_tokens

EDIT_COLUMNS = ("fact", "prompt", "space", "answer", "new")


@contextmanager
def scale_columns(model: Model, neurons: pd.DataFrame | Iterable[tuple[int, int]], factor: float):
    """The neurons' down-projection columns are multiplied by `factor` within the `with` block.

    The same as scaling the neurons at every position (`knlib.intervention.scale` with `positions="all"`), without hooks.
    `neurons`: a table with columns `layer`, `neuron`, or pairs; duplicates count once. The weights are bit for bit what they
    were after the block, also after an exception; blocks nest. Raises `InputError` for a neuron that the model lacks.

    Example
    -------
    >>> with scale_columns(model, [(3, 5)], 1.5):
    ...     found = predict(model, queries, facts)
    """
    pairs = neuron_pairs(model, neurons)
    with _kept(model, pairs):
        for pair in pairs:
            model.column(*pair).mul_(factor)
        yield model


def suppress(model: Model, neurons: pd.DataFrame | Iterable[tuple[int, int]]):
    """`scale_columns` by 0."""
    return scale_columns(model, neurons, 0.0)


def enhance(model: Model, neurons: pd.DataFrame | Iterable[tuple[int, int]]):
    """`scale_columns` by 2."""
    return scale_columns(model, neurons, 2.0)


@contextmanager
def value_edit(model: Model, edits: pd.DataFrame, neurons: pd.DataFrame, *, l1: float = 1.0, l2: float = 8.0):
    """The columns of every edited fact's neurons turn from the old answer to the new one within the `with` block.

    v <- v - l1 |v| e_old + l2 |v| e_new (Dai et al. 2022, arXiv 2104.08696, with the norms that their code has); e_old and
    e_new: the unit rows of the output embedding that `answer_directions` finds.

    `edits`: rows with `fact`, `prompt`, `space`, `answer`, `new`; `neurons`: rows with `fact`, `layer`, `neuron`. All edits
    are in force together; a neuron of two facts gets both changes, each from the column as it was, so their order does not
    matter. Undone as in `scale_columns`. Raises `InputError` for missing columns, for a neuron that the model lacks, for
    answers without a differing token, for output embeddings narrower than the stream.

    Example
    -------
    >>> with value_edit(model, edits.head(1), kn):
    ...     found = predict(model, queries, facts)
    """
    changes = value_changes(model, edits, neurons, l1=l1, l2=l2)
    with add_to_columns(model, changes):
        yield model


def value_changes(
    model: Model, edits: pd.DataFrame, neurons: pd.DataFrame, *, l1: float, l2: float
) -> dict[tuple[int, int], torch.Tensor]:
    """What `value_edit` adds to the columns: (layer, neuron) -> change, [width].

    Example
    -------
    >>> changes = value_changes(model, edits.head(1), kn, l1=1.0, l2=8.0)
    """
    for name, table, columns in (("edits", edits, EDIT_COLUMNS), ("neurons", neurons, ("fact", "layer", "neuron"))):
        if not set(columns) <= set(table):
            raise InputError(name, found=list(table), expected=f"a table with columns {' '.join(columns)}")
    changes: dict[tuple[int, int], torch.Tensor] = {}
    for fact, rows in edits.groupby("fact", sort=False):
        old, new = answer_directions(model, rows)
        for pair in neuron_pairs(model, neurons[neurons["fact"] == fact]):
            column = model.column(*pair)
            if column.shape != new.shape:
                raise InputError(f"model {model.name}, output embedding", found=Literal(f"rows of {len(new)} numbers"),
                                 expected=f"{len(column)}, the width of the stream")  # fmt: skip
            change = column.norm() * (l2 * new - l1 * old).to(column)
            changes[pair] = changes[pair] + change if pair in changes else change
    return changes


@contextmanager
def add_to_columns(model: Model, changes: dict[tuple[int, int], torch.Tensor]):
    """Each (layer, neuron)'s column has its change, [width], added within the `with` block; undone as in `scale_columns`.

    Example
    -------
    >>> with add_to_columns(model, {(3, 5): model.unembedding(17)}):
    ...     found = predict(model, queries, facts)
    """
    with _kept(model, neuron_pairs(model, changes)):
        for pair, change in changes.items():
            model.column(*pair).add_(change)
        yield model


def answer_directions(model: Model, rows: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit rows of the output embedding of the old and the new answer's first differing tokens, each [width].

    `rows`: of one fact (`prompt`, `space`, `answer`, `new`); with several, in different languages, the mean of their unit
    rows. Raises `InputError` where one answer's tokens begin the other's.

    Example
    -------
    >>> old, new = answer_directions(model, edits.head(1))
    """
    found = [
        torch.stack([_unit(model.unembedding(token)) for token in differing_tokens(model, row)])
        for row in rows.itertuples()
    ]
    old, new = torch.stack(found).mean(0)
    return old, new


def differing_tokens(model: Model, row) -> tuple[int, int]:
    """The first tokens in which the answer and the new answer of a query row (`prompt`, `space`, `answer`, `new`) differ.

    A token that both begin with would be taken away and given back. Raises `InputError` where one begins the other.

    Example
    -------
    >>> differing_tokens(model, next(edits.itertuples()))
    (1523, 871)
    """
    pair = [answer_tokens(model, row.prompt, row.space, text) for text in (row.answer, row.new)]
    differing = next(((a, b) for a, b in zip(*pair, strict=False) if a != b), None)
    if differing is None:
        raise InputError(f"edits, fact {row.fact}", found=Literal(f"{row.answer!r} -> {row.new!r}"),
                         expected="answers, neither of which begins with the other")  # fmt: skip
    return differing


def _unit(row: torch.Tensor) -> torch.Tensor:
    return row / row.norm()


@contextmanager
def _kept(model: Model, pairs: Pairs):
    """The columns of the neurons have their bits back after the block: copied back, since undoing a sum rounds."""
    kept = [(model.column(*pair), model.column(*pair).clone()) for pair in pairs]
    # The hash is remembered: it would be that of other weights, inside the block or after it.
    model.__dict__.pop("hash", None)
    try:
        yield
    finally:
        for column, values in kept:
            column.copy_(values)
        model.__dict__.pop("hash", None)
