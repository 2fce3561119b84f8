"""Change neurons while the model runs (what that does to answers: `effects`)."""

from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import torch

from .controls import neuron_pairs
from .effects import effects
from .errors import InputError, Literal
from .models import Model

__all__ = ["effects", "enhance", "neuron_pairs", "replace", "scale", "suppress"]


def scale(model: Model, neurons, factor: float, positions: str | list[list[int]] = "answer"):
    """Neurons are multiplied by `factor` within the `with` block, in every call of the network.

    `neurons`: a table with columns `layer`, `neuron`, or pairs; duplicates count once. `positions`: `"answer"` (the last
    attended token of every row, in a masked model its mask tokens), `"all"`, or the columns of every row. The network
    is as it was after the block, also after an exception. Blocks nest: factors multiply.

    Example
    -------
    >>> with scale(model, [(3, 5)], 2.0):
    ...     logits = model.network(input_ids=ids).logits
    """
    return _changed(model, neurons, lambda now, _: now * factor, positions)


def suppress(model: Model, neurons, positions: str | list[list[int]] = "answer"):
    """`scale` by 0."""
    return scale(model, neurons, 0.0, positions)


def enhance(model: Model, neurons, positions: str | list[list[int]] = "answer"):
    """`scale` by 2."""
    return scale(model, neurons, 2.0, positions)


def replace(model: Model, neurons, values: float | np.ndarray, positions: str | list[list[int]] = "answer"):
    """Neurons take the given values: one for all, or one for each of `neurons` (as given; the first of duplicates).

    As `scale` otherwise.
    """
    if np.ndim(values) == 0:
        return _changed(model, neurons, lambda now, _: torch.full_like(now, float(values)), positions)
    if isinstance(neurons, pd.DataFrame):
        neurons = list(zip(neurons["layer"], neurons["neuron"], strict=True))
    neurons = [(int(layer), int(neuron)) for layer, neuron in neurons]
    if len(values) != len(neurons):
        raise InputError("values", found=Literal(f"{len(values)} values"), expected=f"one, or {len(neurons)}")
    table = dict(reversed(list(zip(neurons, np.asarray(values, dtype=float), strict=True))))

    def put(now, pairs):
        return torch.tensor([table[pair] for pair in pairs], dtype=now.dtype, device=now.device).expand_as(now)

    return _changed(model, neurons, put, positions)


@contextmanager
def _changed(model: Model, neurons, change, positions):
    if isinstance(positions, str) and positions not in ("answer", "all"):
        raise InputError("positions", found=positions, expected="answer, all, or the columns of every row")
    pairs, call = neuron_pairs(model, neurons), _Call(model)

    def hook_of(layer):
        own = [pair for pair in pairs if pair[0] == layer]
        index = torch.tensor([neuron for _, neuron in own])

        def hook(module, inputs):
            hidden = inputs[0].reshape(*call.shape, -1).clone()
            rows, columns, numbers = (x.to(hidden.device) for x in (*call.where, index))
            at = (rows[:, None], columns[:, None], numbers[None])
            hidden[at] = change(hidden[at], own)
            return (hidden.reshape(inputs[0].shape), *inputs[1:])

        return hook

    with ExitStack() as stack:
        if pairs:
            stack.callback(call.listen(positions).remove)
        for layer in sorted({layer for layer, _ in pairs}):
            stack.callback(model.down_projections[layer].register_forward_pre_hook(hook_of(layer)).remove)
        yield


class _Call:
    """What the running call of the network was given: its shape, and where the positions meant are (`where`)."""

    def __init__(self, model: Model):
        self.model, self.shape = model, (0, 0)
        self.ids: torch.Tensor | None = None
        self.mask: torch.Tensor | None = None
        self.where: tuple[torch.Tensor, ...] = ()

    def listen(self, positions):
        """A hook handle on the network's body."""

        def hook(module, args, kwargs):
            self.ids = args[0] if args else kwargs["input_ids"]
            self.shape, self.mask = tuple(self.ids.shape), kwargs.get("attention_mask")
            self.where = self._places(positions)

        return self.model.base.register_forward_pre_hook(hook, with_kwargs=True)

    def _places(self, positions) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column numbers of every position meant."""
        if isinstance(positions, str) and positions == "all":
            where = torch.ones_like(self.ids)
        elif isinstance(positions, str) and self.model.kind == "masked":
            where = self.ids == self.model.tokenizer.mask_token_id
        elif isinstance(positions, str):
            mask = torch.ones_like(self.ids) if self.mask is None else self.mask[:, -self.shape[1] :]
            last = self.shape[1] - 1 - mask.flip(1).long().argmax(1)
            where = torch.arange(self.shape[1], device=last.device)[None] == last[:, None]
        else:
            if len(positions) != self.shape[0] or any(not 0 <= c < self.shape[1] for row in positions for c in row):
                raise InputError("positions", found=positions,
                                 expected=f"columns below {self.shape[1]} for {self.shape[0]} rows")  # fmt: skip
            where = torch.zeros_like(self.ids)
            for row, columns in enumerate(positions):
                where[row, list(columns)] = 1
        return where.nonzero(as_tuple=True)
