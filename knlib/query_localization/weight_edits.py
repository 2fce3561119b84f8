"""Edits of one fact through the down-projection columns W of its neurons (spec, 5.1): erase it, or put a new answer in its place."""

from collections.abc import Iterable
from contextlib import contextmanager

import pandas as pd

from ..controls import neuron_pairs
from ..editing.neurons import add_to_columns, differing_tokens, suppress
from ..errors import InputError, Literal
from ..heads import final_gain
from ..models import Model
from ..prediction import answer_tokens

MODES = ("ours", "paper")
EMBEDDINGS = ("input", "unembed")
TOKENS = ("first", "mean")
LAMBDAS = (2.0, 2.0)  # EleutherAI's knowledge-neurons
RHOS = (1.0, 8.0)  # Dai et al.'s code, which EleutherAI's dropped


def erase(model: Model, neurons: pd.DataFrame | Iterable[tuple[int, int]]):
    """W = 0 for the neurons within the `with` block; undone bit for bit, also after an exception.

    Example
    -------
    >>> with erase(model, [(3, 5)]):
    ...     after = test.ask()
    """
    return suppress(model, neurons)


@contextmanager
def update(
    model: Model,
    neurons: pd.DataFrame | Iterable[tuple[int, int]],
    query,
    *,
    mode: str = "ours",
    strength: tuple[float, float] | None = None,
    embedding: str = "input",
    tokens: str = "first",
):
    """W <- W - lam1 E(answer) + lam2 E(new) for the neurons within the `with` block; undone as in `erase`.

    `query`: a row with `prompt`, `space`, `answer`, `new`. `strength`: in mode `paper` (lam1, lam2), default 2, 2; in mode
    `ours` (rho1, rho2), default 1, 8, with lam = rho |W| / |E|, since the norms of embeddings differ by model. `embedding`,
    `tokens`: as in `answer_embeddings`. Spec, 5.1. Raises `InputError` for other names, and as `answer_embeddings`.

    Example
    -------
    >>> with update(model, [(3, 5)], row, strength=(1, 4)):
    ...     after = test.ask()
    """
    if mode not in MODES:
        raise InputError("mode", found=mode, expected=Literal(" or ".join(MODES)))
    down, up = strength if strength is not None else (LAMBDAS if mode == "paper" else RHOS)
    old, new = answer_embeddings(model, query, embedding=embedding, tokens=tokens)
    pairs = neuron_pairs(model, neurons)
    if mode == "paper":
        changes = dict.fromkeys(pairs, up * new - down * old)
    else:
        direction = up * new / new.norm() - down * old / old.norm()
        changes = {pair: model.column(*pair).norm() * direction for pair in pairs}
    with add_to_columns(model, changes):
        yield model


def answer_embeddings(model: Model, query, *, embedding: str = "input", tokens: str = "first"):
    """E of the old and of the new answer, each [width].

    `embedding`: `input` (rows of the input embedding) or `unembed` (rows of the output embedding times the final norm's gain:
    what the stream must gain for a higher logit). `tokens`: `first` (the first token in which the answers differ) or `mean`
    (over all tokens of each).

    Raises `InputError` for other names, a head with a transform of its own (with `unembed`), embeddings narrower than the
    stream, answers without a differing token.

    Example
    -------
    >>> old, new = answer_embeddings(model, row, embedding="unembed")
    """
    for name, given, allowed in (("embedding", embedding, EMBEDDINGS), ("tokens", tokens, TOKENS)):
        if given not in allowed:
            raise InputError(name, found=given, expected=Literal(" or ".join(allowed)))
    gain = final_gain(model) if embedding == "unembed" else 1.0
    network = model.network
    module = network.get_input_embeddings() if embedding == "input" else network.get_output_embeddings()
    rows = module.weight.detach()
    width = len(model.column(0, 0))
    if rows.shape[1] != width:
        raise InputError(f"model {model.name}, {embedding} embedding", found=Literal(f"rows of {rows.shape[1]} numbers"),
                         expected=f"{width}, the width of the stream")  # fmt: skip
    chosen = [[token] for token in differing_tokens(model, query)]
    if tokens == "mean":
        chosen = [list(answer_tokens(model, query.prompt, query.space, text)) for text in (query.answer, query.new)]
    old, new = (rows[ids].mean(0) * gain for ids in chosen)
    return old, new
