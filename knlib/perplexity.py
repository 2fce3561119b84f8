"""Perplexity: how well a model says text that nobody edited."""

from collections.abc import Sequence

import numpy as np

from .controls import generator
from .errors import InputError, Literal
from .models import Model
from .prediction import AnswerRows


def text_rows(model: Model, sentences: Sequence[str], *, seed: int = 0) -> list[tuple[list[int], list[int], list[int]]]:
    """Where the tokens of sentences are predicted: (token ids, columns, targets) of each sentence.

    Of a masked model one token of each, drawn by `seed` and put under the mask: what is read is a pseudo-perplexity.

    Example
    -------
    >>> ids, columns, targets = text_rows(load_model("atlas-gpt2"), ["Paris is in France."])[0]
    """
    before, after = model.specials
    found = []
    for text in sentences:
        ids = [*before, *model.pieces(text), *after][: model.context]
        if model.kind == "causal":
            found.append((ids, list(range(len(ids) - 1)), ids[1:]))
        else:
            column = int(generator(seed, text, "mask").integers(len(before), len(ids) - len(after)))
            target, ids[column] = ids[column], model.tokenizer.mask_token_id
            found.append((ids, [column], [target]))
    return found


def text_loss(model: Model, sentences: Sequence[str], *, seed: int = 0) -> float:
    """Mean -log p of the sentences' tokens, in nats; its exponential is the perplexity. `InputError` without a sentence.

    Example
    -------
    >>> before = text_loss(model, sentences)
    >>> with suppress(model, neurons):
    ...     change = np.expm1(text_loss(model, sentences) - before)
    """
    if not len(sentences):
        raise InputError("sentences", found=Literal("none"), expected="at least one")
    rows, columns, targets = zip(*text_rows(model, sentences, seed=seed), strict=True)
    losses: list[np.ndarray] = []

    def use(i, found):
        losses.append(-found[np.arange(len(targets[i])), targets[i]])

    AnswerRows(model).log_probabilities(list(rows), list(columns), use)
    return float(np.concatenate(losses).mean())
