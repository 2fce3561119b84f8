"""See and change attention after the softmax, in any model whose attention transformers lets us replace."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from ..errors import InputError, Literal
from ..models import Model, eager_attention

NAME = "knlib_open_attention"
OPERATORS = ("plain", "renormalised", "masked")
# What the registered function does during a pass; attention modules cannot be given it.
_running: "_Attention | None" = None


@dataclass(eq=False)
class Seen:
    """Attention of the last call of the network, layer by layer.

    `weights[l]` [rows of the batch, query heads, tokens, columns] after the softmax (and after the edit, if there is one);
    `visible[l]` [rows of the batch or 1, 1, tokens, columns]: which columns each token may look at.
    """

    weights: list[torch.Tensor] = field(default_factory=list)
    visible: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def captured_attention(model: Model):
    """Eager attention within the block; yields `Seen`, filled by every call of the network.

    Raises `InputError` where the architecture computes attention by code of its own, which no option opens, and inside
    another such block. The model's own kernel is back after the block, also after an exception.

    Example
    -------
    >>> with captured_attention(model) as seen:
    ...     logits = model.network(input_ids=ids).logits
    >>> seen.weights[0].shape
    torch.Size([1, 6, 9, 9])
    """
    with _opened(model, _Attention(model, None, "plain")) as attention:
        yield attention.seen


@contextmanager
def edited_attention(model: Model, factors: torch.Tensor, *, operator: str = "plain"):
    """Columns of attention are multiplied by `factors` within the block, for every token that looks at them; yields `Seen`.

    `factors` [rows of the batch, layers, query heads, columns], 1 where nothing is to change: an entry of ones changes no
    bit of what eager attention gives. `operator`: `plain` (after the softmax, rows no longer sum to 1), `renormalised`
    (they do again), `masked` (log factor added before the softmax; the same as `renormalised` but for rounding). A token
    that sees none but columns times 0 looks at nothing. Spec, 4.2; errors as in `captured_attention`.

    Example
    -------
    >>> factors = torch.ones(1, model.n_layers, 6, 9)
    >>> factors[0, 3, 2, 4] = 0.0  # head 2 of layer 3 no longer sees token 4
    >>> with edited_attention(model, factors):
    ...     logits = model.network(input_ids=ids).logits
    """
    if operator not in OPERATORS:
        raise InputError("operator", found=operator, expected=Literal("one of " + " ".join(OPERATORS)))
    if factors.ndim != 4 or factors.shape[1] != model.n_layers:
        raise InputError("factors", found=Literal(f"shape {tuple(factors.shape)}"),
                         expected=f"[rows, {model.n_layers} layers, heads, columns]")  # fmt: skip
    if not (torch.isfinite(factors).all() and (factors >= 0).all()):
        raise InputError("factors", found=Literal("a negative or infinite factor"), expected="finite factors from 0 on")
    with _opened(model, _Attention(model, factors, operator)) as attention:
        yield attention.seen


@contextmanager
def _opened(model: Model, attention: "_Attention"):
    global _running
    if _running is not None:
        raise InputError("attention", found=Literal("a block inside another"), expected="one block at a time")
    before = model.base.register_forward_pre_hook(lambda *_: attention.start())
    after = model.base.register_forward_hook(lambda *_: attention.check())
    _running = attention
    try:
        with model.attention_by(NAME):
            yield attention
    finally:
        _running = None
        before.remove()
        after.remove()


class _Attention:
    """What every attention module of a model runs within a block."""

    def __init__(self, model: Model, factors: torch.Tensor | None, operator: str):
        self.model, self.factors, self.operator, self.seen = model, factors, operator, Seen()
        self.layer = {id(module): i for i, layer in enumerate(model.layers) for module in layer.modules()}

    def start(self) -> None:
        self.found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def check(self) -> None:
        """After a call: every layer's attention must have come by."""
        hidden = [i for i in range(self.model.n_layers) if i not in self.found]
        if hidden:
            raise InputError(
                f"attention of {type(self.model.network).__name__}",
                found=Literal(f"weights hidden in code of its own (layers {' '.join(map(str, hidden))})"),
                expected="an architecture that runs eager attention when transformers is asked for it (GPT-2, Llama, BERT ...)",
            )
        self.seen.weights, self.seen.visible = ([self.found[i][k] for i in sorted(self.found)] for k in (0, 1))

    def __call__(self, module: nn.Module, query, key, value, mask, options: dict):
        layer, own = self.layer.get(id(module)), eager_attention(module)
        if layer is None or own is None:
            raise InputError(f"attention of {type(module).__name__}", found=Literal("no eager form beside it"),
                             expected="an architecture with eager_attention_forward")  # fmt: skip
        if mask is not None and mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
        output, weights = own(module, query, key, value, mask, **options)
        visible = torch.ones_like(weights[:1, :1], dtype=torch.bool)
        if mask is not None:
            visible = mask[..., : weights.shape[-1]] > torch.finfo(mask.dtype).min / 2
        factors = self._factors(layer, weights)
        if factors is not None:
            if self.operator == "masked":
                bias = factors.log().clamp(min=torch.finfo(weights.dtype).min)
                mask = bias if mask is None else mask + bias
                weights = own(module, query, key, value, mask, **options)[1]
            weights = _edited(weights, factors, visible, self.operator)
            # Query heads that share a key head stand together.
            values = value.repeat_interleave(weights.shape[1] // value.shape[1], 1) if (
                weights.shape[1] != value.shape[1]) else value  # fmt: skip
            output = (weights @ values).transpose(1, 2).contiguous()
        self.found[layer] = weights, visible
        return output, weights

    def _factors(self, layer: int, weights: torch.Tensor) -> torch.Tensor | None:
        """[rows, heads, 1, columns] of a layer; None where there is nothing to change."""
        if self.factors is None:
            return None
        factors, shape = self.factors[:, layer], (weights.shape[0], weights.shape[1], weights.shape[3])
        if tuple(factors.shape) != shape:
            raise InputError("factors", found=Literal(f"{tuple(factors.shape)} rows, query heads, columns"),
                             expected=f"{shape} of the call")  # fmt: skip
        return None if bool((factors == 1).all()) else factors.to(weights)[:, :, None]


def _edited(weights: torch.Tensor, factors: torch.Tensor, visible: torch.Tensor, operator: str) -> torch.Tensor:
    """Weights times factors, heads without one unchanged to the bit."""
    if operator == "plain":
        return weights * factors
    # A token that sees nothing any more: its softmax would fall back to all columns, those it must not see among them.
    blind = ~(visible & (factors > 0)).any(-1, keepdim=True)
    if operator == "renormalised":
        new = weights * factors
        new = new / new.sum(-1, keepdim=True).masked_fill(blind, 1)
    else:
        new = weights
    return torch.where((factors != 1).any(-1, keepdim=True), new.masked_fill(blind, 0), weights)


def _registered(module, query, key, value, attention_mask, **options):
    return _running(module, query, key, value, attention_mask, options)


AttentionInterface.register(NAME, _registered)
AttentionMaskInterface.register(NAME, eager_mask)
