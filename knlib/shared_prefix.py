"""The tokens before the answer's: computed once per prompt, read by all rows, copied by none."""

import inspect
from contextlib import contextmanager

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.masking_utils import eager_mask

from .models import Model
from .sites import padded

NAME = "knlib_shared_prefix"
# The prefix that the registered attention function reads during a pass; attention modules cannot be given it.
_current: "Prefix | None" = None


class OtherAttention(RuntimeError):
    """The model's attention is not what is computed here: the probe takes another way."""


class Prefix:
    """Keys and values of the first tokens of some prompts, left-padded to one length, read-only.

    `cache` may hold more tokens than `mask` [prompts, length] is for. `rows` says which prompt each row of the running
    layer belongs to (None: row i is prompt i). With `shared`, attention reads the prefix where it lies; without, every
    layer call gets it gathered and concatenated, for attention code that transformers does not let us replace.
    """

    def __init__(self, model: Model, cache: DynamicCache, mask: torch.Tensor, shared: bool):
        self.model, self.mask, self.shared, self.rows = model, mask, shared, None
        length = mask.shape[1]
        self.layers = [
            _ReadOnly(self, layer.keys[..., :length, :].contiguous(), layer.values[..., :length, :].contiguous())
            for layer in cache.layers
        ]

    @classmethod
    @torch.no_grad()
    def of(cls, model: Model, ids: torch.Tensor, mask: torch.Tensor, shared: bool) -> "Prefix":
        """The prefix that these tokens are, [prompts, length]."""
        cache = DynamicCache()
        model.base(input_ids=ids, attention_mask=mask, **filling(cache), **positions_argument(model, mask))
        return cls(model, cache, mask, shared)

    def cache(self) -> Cache:
        """A cache object for the model: it never grows, so a second pass sees the same prefix."""
        return Cache(layers=list(self.layers))

    @contextmanager
    def attention(self):
        """Attention reads the shared prefix within the block; the model's own is restored after it."""
        global _current
        if not self.shared:
            yield
            return
        _current = self
        try:
            with self.model.attention_by(NAME):
                yield
        finally:
            _current = None


def filling(cache: DynamicCache) -> dict:
    """Arguments of a forward pass that leaves its keys and values in a plain cache.

    One made from the config would drop tokens in layers with a sliding window.
    """
    return {"past_key_values": cache, "use_cache": True}


def positions_argument(model: Model, mask: torch.Tensor, last: int | None = None) -> dict:
    """`position_ids` from the attention mask, where the model takes them; only of the last tokens if asked."""
    if "position_ids" not in inspect.signature(model.base.forward).parameters:
        return {}
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return {"position_ids": positions if last is None else positions[:, -last:]}


@torch.no_grad()
def suffix_logits(
    model: Model, prefix: Prefix, owner: list[int], suffixes: list[list[int]], *, last: bool = False
) -> torch.Tensor:
    """Logits at every token of suffixes (`last`: at the last one of each), row after row, [tokens, vocabulary].

    Row r continues prompt `owner[r]` of the prefix with the tokens `suffixes[r]`; only these pass through the network.
    """
    ids, own = padded(suffixes, model.tokenizer.pad_token_id, "right", prefix.mask.device)
    prefix.rows = torch.tensor(owner, device=ids.device)
    mask = torch.cat([prefix.mask[prefix.rows], own], dim=1)
    if last:
        rows, columns = torch.arange(len(own), device=own.device), own.sum(1) - 1
    else:
        rows, columns = own.nonzero(as_tuple=True)

    def pick(module, inputs, output):
        hidden = output[0][rows, columns][None]
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        output.last_hidden_state = hidden
        return output

    try:
        with prefix.attention(), model.hooks((model.base, pick)):
            return model.network(input_ids=ids, attention_mask=mask, use_cache=True, past_key_values=prefix.cache(),
                                 **positions_argument(model, mask, last=ids.shape[1])).logits[0]  # fmt: skip
    finally:
        prefix.rows = None


class _ReadOnly(DynamicLayer):
    """A cache layer that hands out its prefix and never keeps what it is given."""

    def __init__(self, prefix: Prefix, keys: torch.Tensor, values: torch.Tensor):
        super().__init__()
        self.prefix, self.keys, self.values = prefix, keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states, value_states, *args, **kwargs):
        if self.prefix.shared:
            return key_states, value_states
        rows = self.prefix.rows
        keys, values = (self.keys, self.values) if rows is None else (self.keys[rows], self.values[rows])
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def shared_prefix_attention(
    module: nn.Module, query, key, value, attention_mask, scaling=None, dropout=0.0, softcap=None, **options
):
    """One softmax per token over [its prompt's prefix | its row's own tokens up to it]; rows [R, heads, tokens, width].

    Rows of one prompt are brought together, so that its keys are read once by one matrix product.
    """
    n, heads, tokens, width = query.shape
    if tokens > 1 and attention_mask is None:
        raise OtherAttention("several tokens without a mask that says which of them see which")
    if any(options.get(name) is not None for name in ("s_aux", "position_bias", "sinks")):
        raise OtherAttention("attention that the shared prefix does not know")
    layer, rows = _current.layers[module.layer_idx], _current.rows
    prompts, kv_heads, length, _ = layer.keys.shape
    scaling = width**-0.5 if scaling is None else scaling
    # [R, kv heads, groups, tokens, width]: query heads that share a key head stand together.
    query = (query * scaling).reshape(n, kv_heads, heads // kv_heads, tokens, width)
    if rows is None:
        rows = torch.arange(prompts, device=query.device)
    gather = _Gather(rows, prompts)
    before = gather.matmul(query.flatten(2, 3), layer.keys.transpose(-1, -2)).unflatten(2, (-1, tokens))
    # A suffix is a few tokens: one elementwise product is faster than a matrix product per row and head.
    own = (query.unsqueeze(-2) * key[:, :, None, None]).sum(-1)
    scores = torch.cat([before, own], dim=-1)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is not None:
        scores = scores + attention_mask[..., -scores.shape[-1] :].unsqueeze(2)
    weights = scores.softmax(-1)
    out = gather.matmul(weights[..., :length].flatten(2, 3), layer.values).unflatten(2, (-1, tokens))
    out = out + (weights[..., length:, None] * value[:, :, None, None]).sum(-2)
    return out.flatten(1, 2).transpose(1, 2), None


class _Gather:
    """Puts rows of like prompts together, so that one product per prompt serves them all."""

    def __init__(self, rows: torch.Tensor, prompts: int):
        self.rows, self.prompts = rows, prompts
        counts = torch.bincount(rows, minlength=prompts)
        self.most = int(counts.max())
        order = torch.argsort(rows, stable=True)
        first = counts.cumsum(0) - counts
        self.slot = torch.empty_like(rows)
        self.slot[order] = torch.arange(len(rows), device=rows.device) - first[rows[order]]

    def matmul(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """left [R, heads, groups, a] times right [prompts, heads, a, b] of each row's prompt."""
        _, heads, groups, width = left.shape
        if self.prompts == 1:
            spread = left.permute(1, 0, 2, 3).reshape(1, heads, -1, width)
            return (spread @ right).view(heads, -1, groups, right.shape[-1]).permute(1, 0, 2, 3)
        spread = left.new_zeros(self.prompts, self.most, heads, groups, width)
        spread = spread.index_put((self.rows, self.slot), left)
        spread = spread.permute(0, 2, 1, 3, 4).reshape(self.prompts, heads, -1, width)
        out = (spread @ right).view(self.prompts, heads, self.most, groups, -1)
        return out.permute(0, 2, 1, 3, 4)[self.rows, self.slot]


AttentionInterface.register(NAME, shared_prefix_attention)
AttentionMaskInterface.register(NAME, eager_mask)
