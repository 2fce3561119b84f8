"""What planting reads again and again, computed once: keys and values of the tokens before an answer.

Planted neurons are to be silent everywhere but where an answer is predicted. While they are, the other tokens are what the
frozen model makes of them: training runs the few answer positions alone, and holds the neurons silent elsewhere by a penalty
on stored inputs of the FFNs. What is approximate in this is settled afterwards: signatures are measured on the whole model.
"""

import random
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from knlib.models import Model
from knlib.prediction import AnswerRows, answer_tokens
from knlib.sites import padded

NAME = "atlas_planting"
TOKENS = 6000  # of a batch when nothing is trained
# What the registered attention function reads: attention modules cannot be given it.
_now: dict = {}


@dataclass
class Row:
    """Tokens of a query, the columns where its answer's tokens are predicted, and these tokens; number of its `fact`."""

    ids: list[int]
    columns: list[int]
    targets: list[int]
    fact: int
    language: str
    template: str


def make_row(model: Model, helper: AnswerRows, query, fact: int, rng: random.Random) -> Row:
    """A query as it is trained: in a masked model with a random number of the answer's first tokens shown."""
    tokens = answer_tokens(model, query.prompt, query.space, query.answer)
    places = helper.positions(query.prompt, len(tokens))
    shown = 0
    if model.kind == "causal":
        ids = helper.row(query.prompt, tokens[:-1], 1, query.space, query.suffix)
    else:
        shown = rng.randrange(len(tokens)) if rng.random() < 0.5 else 0
        ids = helper.row(query.prompt, tokens[:shown], len(tokens) - shown, query.space, query.suffix)
    return Row(ids, list(places)[shown:], list(tokens[shown:]), fact, query.language, query.name)


def attention(module, query, key, value, attention_mask, scaling=None, **options):
    """One softmax over [stored tokens | the row's own]; where nothing is stored, keys and values are kept instead."""
    groups, layer = query.shape[1] // key.shape[1], module.layer_idx
    if _now.get("keep") is not None:
        _now["keep"][layer] = torch.cat([key, value], dim=1).transpose(1, 2).flatten(2).half()
    else:
        heads = key.shape[1]
        stored = _now["stored"][:, :, layer].float().unflatten(-1, (2 * heads, -1)).transpose(1, 2)
        key, value = torch.cat([stored[:, :heads], key], dim=2), torch.cat([stored[:, heads:], value], dim=2)
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(-1, -2) * scaling + _now["bias"]
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def attending(model: Model, **state):
    """The model's attention is `attention`, which reads `state`."""
    _now.clear()
    _now.update(state)
    try:
        with model.attention_by(NAME):
            yield
    finally:
        _now.clear()


class Store:
    """Keys and values of all rows' tokens but the answer positions, fp16, and FFN inputs at some positions.

    `inputs` [rows, layers, width]: at each row's first answer position; `before` and `elsewhere` [positions, layers, width]: where all
    planted neurons are to be silent: two other positions of each row, and those asked for in `others` (ids, columns).
    """

    def __init__(
        self, model: Model, rows: list[Row], others: list[tuple[list[int], list[int]]], *, seed: int = 0, log=print
    ):
        self.model, self.rows, rng = model, rows, random.Random(seed)
        lengths = [len(row.ids) - len(row.columns) for row in rows]
        self.starts = torch.tensor([0, *lengths]).cumsum(0)
        config = model.network.config
        width = 2 * config.num_key_value_heads * config.head_dim
        self.stored = torch.zeros(int(self.starts[-1]), model.n_layers, width, dtype=torch.float16)
        self.inputs = torch.zeros(len(rows), model.n_layers, config.hidden_size, dtype=torch.float16)
        before, elsewhere = [], []
        jobs = [(row.ids, row) for row in rows] + list(others)
        order = sorted(range(len(jobs)), key=lambda i: len(jobs[i][0]))
        while order:
            most = max(1, TOKENS // len(jobs[order[min(len(order), 200) - 1]][0]))
            now, order = order[:most], order[most:]
            kept, ffn = self._run([tuple(jobs[i][0]) for i in now])
            for k, i in enumerate(now):
                ids, row = jobs[i]
                if i >= len(rows):
                    elsewhere.append(ffn[k, row])
                    continue
                free = [c for c in range(len(ids)) if c not in row.columns]
                self.stored[self.starts[i] : self.starts[i + 1]] = kept[k, free]
                self.inputs[i] = ffn[k, row.columns[0]]
                before.append(ffn[k, rng.sample(free[1:], 2)])
        self.before = torch.cat(before)
        self.elsewhere = torch.cat(elsewhere) if others else self.before[:0]
        log(f"stored {len(self.stored):,} tokens of {len(rows):,} queries, {len(self.elsewhere):,} positions elsewhere")

    @torch.no_grad()
    def _run(self, sequences: list) -> tuple[torch.Tensor, torch.Tensor]:
        """[rows, tokens, layers, keys and values] and [rows, tokens, layers, width] of the frozen model."""
        model, ffn = self.model, {}
        ids, mask = padded(sequences, model.tokenizer.pad_token_id, "right", model.device)
        seen = mask[:, None, None].bool()
        if model.kind == "causal":
            seen = seen & torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        bias = torch.where(seen, 0.0, -1e9)
        keep: dict[int, torch.Tensor] = {}

        def hook_of(layer):
            def hook(module, inputs):
                ffn[layer] = inputs[0].half()

            return hook

        handles = [layer.mlp.register_forward_pre_hook(hook_of(i)) for i, layer in enumerate(model.layers)]
        try:
            with attending(model, keep=keep, bias=bias):
                model.base(input_ids=ids)
        finally:
            for handle in handles:
                handle.remove()
        order = range(model.n_layers)
        return torch.stack([keep[i] for i in order], dim=2), torch.stack([ffn[i] for i in order], dim=2)

    def quiet(self, number: int, draw: torch.Generator) -> torch.Tensor:
        """So many random positions to be silent at, half of them elsewhere."""
        parts = [x for x in (self.before, self.elsewhere) if len(x)]
        drawn = [x[torch.randint(len(x), (number // len(parts),), generator=draw)] for x in parts]
        return torch.cat(drawn).float()

    def batch(self, numbers: list[int]) -> "Batch":
        """The answer positions of some rows, and what they attend to."""
        rows = [self.rows[i] for i in numbers]
        lengths = [int(self.starts[i + 1] - self.starts[i]) for i in numbers]
        longest, own = max(lengths), max(len(row.columns) for row in rows)
        ids = torch.full((len(rows), own), self.model.tokenizer.pad_token_id)
        positions, index = torch.zeros_like(ids), torch.zeros(len(rows), longest, dtype=torch.long)
        seen = torch.zeros(len(rows), 1, own, longest + own, dtype=torch.bool)
        valid = torch.zeros_like(ids, dtype=torch.bool)
        for k, (i, row) in enumerate(zip(numbers, rows, strict=True)):
            n = len(row.columns)
            ids[k, :n] = torch.tensor([row.ids[c] for c in row.columns])
            positions[k, :n] = torch.tensor(row.columns)
            index[k, : lengths[k]] = torch.arange(self.starts[i], self.starts[i + 1])
            seen[k, :, :, : lengths[k]] = True
            seen[k, :, :, longest : longest + n] = True
            valid[k, :n] = True
        if self.model.kind == "causal":
            seen[..., longest:] &= torch.ones(own, own, dtype=torch.bool).tril()
        return Batch(ids, positions, self.stored[index], torch.where(seen, 0.0, -1e9), valid,
                     torch.tensor([t for row in rows for t in row.targets]))  # fmt: skip


@dataclass
class Batch:
    """Answer positions [rows, most] and what they see; `targets`: of the `valid` ones, row after row."""

    ids: torch.Tensor
    positions: torch.Tensor
    stored: torch.Tensor
    bias: torch.Tensor
    valid: torch.Tensor
    targets: torch.Tensor

    def logits(self, model: Model) -> torch.Tensor:
        """[valid positions, vocabulary]"""
        with attending(model, stored=self.stored, bias=self.bias):
            hidden = model.base(input_ids=self.ids, position_ids=self.positions)[0]
        return model.network.get_output_embeddings()(hidden[self.valid])
