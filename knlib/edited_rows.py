"""Rows of tokens in which each has neurons of its own scaled: thousands of conditions in one batch."""

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from .controls import Pairs
from .models import Model
from .prediction import TOKENS_PER_BATCH, AnswerRows
from .probe import best_prefix
from .shared_prefix import Prefix, suffix_logits
from .sites import padded

# Logits of one batch; a large vocabulary times many short rows would not fit otherwise.
LOGITS_PER_BATCH = 2**26


@dataclass(frozen=True)
class EditedRow:
    """A row, what is asked of it, and what it suffers.

    `columns` predict `targets`, one each. The neurons `pairs` are scaled at the columns `edited` (None: at all).
    """

    ids: list[int]
    columns: list[int]
    targets: list[int]
    pairs: Pairs
    edited: tuple[int, ...] | None

    @property
    def is_suffix(self) -> bool:
        """Whether the row is asked at its last tokens only, and edited nowhere before them."""
        first = self.columns[0]
        return (
            self.columns == list(range(first, len(self.ids)))
            and self.edited is not None
            and all(column >= first for column in self.edited)
        )


def edited_scores(model: Model, rows: list[EditedRow], factor: float | Sequence[float]) -> np.ndarray:
    """Sum of the targets' log-probabilities in each row, with the row's neurons times `factor`, [rows].

    `factor`: one for all rows, or one for each. Where a causal model's rows are edited from the first column asked for on,
    the tokens before it are the same for all conditions of a prompt: they run once, and a condition is a row of as many
    tokens as it asks for.

    Example
    -------
    >>> row = EditedRow([0, 17, 23], columns=[2], targets=[41], pairs=((3, 5),), edited=(2,))
    >>> edited_scores(model, [row], 0.0).shape
    (1,)
    """
    wanted, scores = [[[t] for t in row.targets] for row in rows], np.empty(len(rows))
    for i, found in enumerate(edited_log_probabilities(model, rows, factor, wanted)):
        scores[i] = found.sum()
    return scores


def edited_log_probabilities(
    model: Model, rows: list[EditedRow], factor: float | Sequence[float], wanted: list[list[list[int]]]
) -> list[np.ndarray]:
    """As `edited_scores`, for several tokens: of every row [columns, tokens].

    `wanted[row][column]` are the tokens asked for; each column of a row asks for as many. `targets` are not looked at.

    Example
    -------
    >>> edited_log_probabilities(model, [row], [2.0], [[[41, 42]]])[0].shape
    (1, 2)
    """
    factors = np.broadcast_to(np.asarray(factor, dtype=float), len(rows))
    found: list = [None] * len(rows)
    kind = best_prefix(model) if all(row.is_suffix for row in rows) else None
    if kind is not None:
        _suffix_scores(model, rows, factors, wanted, kind, found)
        return found

    def use(i, log_probabilities):
        found[i] = np.take_along_axis(log_probabilities, np.asarray(wanted[i]), axis=1)

    helper = _WholeRows(model, rows, factors)
    helper.log_probabilities([row.ids for row in rows], [row.columns for row in rows], use)
    return found


class _WholeRows(AnswerRows):
    """Every row with all its tokens."""

    def __init__(self, model: Model, rows: list[EditedRow], factors: np.ndarray):
        super().__init__(model)
        self.rows, self.factors = rows, factors

    def _batch(self, numbers, rows, columns, use):
        own = [self.rows[i] for i in numbers]
        with _scaled(self.model, own, [0] * len(own), self.factors[numbers]):
            super()._batch(numbers, rows, columns, use)


@torch.no_grad()
def _suffix_scores(model: Model, rows: list[EditedRow], factors: np.ndarray, wanted, kind: str, results: list) -> None:
    pad = model.tokenizer.pad_token_id
    for numbers in _batches(rows, model.network.get_output_embeddings().weight.shape[0]):
        own = [rows[i] for i in numbers]
        starts = [row.columns[0] for row in own]
        texts = [tuple(row.ids[:start]) for row, start in zip(own, starts, strict=True)]
        prompts = {text: p for p, text in enumerate(dict.fromkeys(texts))}
        ids, mask = padded(list(prompts), pad, "left", model.device)
        if not ids.shape[1]:
            # Prompts of one token: a masked one before it, so that there is a prefix.
            ids, mask = ids.new_full((len(ids), 1), pad), mask.new_zeros(len(ids), 1)
        prefix = Prefix.of(model, ids, mask, kind == "shared")
        suffixes = [row.ids[start:] for row, start in zip(own, starts, strict=True)]
        with _scaled(model, own, starts, factors[numbers]):
            logits = suffix_logits(model, prefix, [prompts[text] for text in texts], suffixes).float()
        total, end = logits.logsumexp(-1), 0
        # Rows may ask for different numbers of tokens: the widest decides, and the rest is cut off again.
        asked = [tokens for i in numbers for tokens in wanted[i]]
        width = max(map(len, asked))
        tokens = torch.tensor([[*own, *[own[0]] * (width - len(own))] for own in asked], device=logits.device)
        values = (logits.gather(1, tokens) - total[:, None]).cpu().numpy()
        for i in numbers:
            begin, end = end, end + len(wanted[i])
            results[i] = values[begin:end, : len(wanted[i][0])]


def _batches(rows: list[EditedRow], vocabulary: int):
    """Numbers of rows that go together, like prefixes side by side, within the budgets of tokens and logits."""
    most = max(1, min(TOKENS_PER_BATCH, LOGITS_PER_BATCH // vocabulary))
    numbers, prompts, width = [], set(), 0
    for i in sorted(range(len(rows)), key=lambda i: (rows[i].columns[0], rows[i].ids)):
        start = rows[i].columns[0]
        text, wide = tuple(rows[i].ids[:start]), max(width, len(rows[i].ids) - start)
        full = (len(numbers) + 1) * wide > most or len(prompts | {text}) * start > TOKENS_PER_BATCH
        if numbers and full:
            yield numbers
            numbers, prompts, wide = [], set(), len(rows[i].ids) - start
        numbers.append(i)
        prompts.add(text)
        width = wide
    if numbers:
        yield numbers


@contextmanager
def _scaled(model: Model, rows: list[EditedRow], starts: list[int], factors: np.ndarray):
    """Scales each row's neurons in the calls of a batch that holds the rows from their columns `starts` on."""
    places: dict[int, list[tuple[int, int, int]]] = {}
    for k, (row, start) in enumerate(zip(rows, starts, strict=True)):
        for layer, neuron in row.pairs:
            for column in range(len(row.ids)) if row.edited is None else row.edited:
                places.setdefault(layer, []).append((k, column - start, neuron))

    def hook_of(found):
        at = tuple(torch.tensor(found).T)
        times = torch.tensor(factors)[at[0]]

        def hook(module, inputs):
            hidden = inputs[0].reshape(len(rows), -1, inputs[0].shape[-1]).clone()
            where = tuple(x.to(hidden.device) for x in at)
            hidden[where] = hidden[where] * times.to(hidden)
            return (hidden.reshape(inputs[0].shape), *inputs[1:])

        return hook

    with ExitStack() as stack:
        for layer, found in places.items():
            handle = model.down_projections[layer].register_forward_pre_hook(hook_of(found))
            stack.callback(handle.remove)
        yield
