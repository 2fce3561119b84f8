"""Run one query under many changes of attention and neurons at once, and read its answer and its neurons."""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from ..controls import Pairs
from ..models import Model
from ..prediction import TOKENS_PER_BATCH, answer_rows, answer_tokens
from ..sites import uncached
from .attention import edited_attention


@dataclass(frozen=True)
class Asked:
    """A query as rows of tokens, all of one length: one in a causal model, one for each answer token in a masked one.

    `columns[r]` predict `targets[r]` in row r; all of them, row after row, are the query's sites.
    """

    rows: list[list[int]]
    columns: list[list[int]]
    targets: list[tuple[int, ...]]

    @property
    def length(self) -> int:
        return len(self.rows[0])

    @property
    def sites(self) -> list[tuple[int, int, int]]:
        """(row, column, target) of each."""
        pairs = zip(self.columns, self.targets, strict=True)
        return [(r, c, t) for r, (columns, targets) in enumerate(pairs) for c, t in zip(columns, targets, strict=True)]


def asked(model: Model, query) -> Asked:
    """The rows and sites of a query (a row of the table, as `itertuples` gives it).

    Example
    -------
    >>> asked(model, next(study.queries.itertuples())).length
    9
    """
    tokens = answer_tokens(model, query.prompt, query.space, query.answer)
    rows, columns, targets, _ = answer_rows(model, [(query.prompt, tokens, query.space, query.suffix)])
    return Asked(rows, columns, [tuple(t) for t in targets])


@dataclass(frozen=True, eq=False)
class Change:
    """What a run of the query suffers; `Change()`: nothing.

    `synapses` [layers, heads, columns]: factors on attention, by `operator` (`edited_attention`). `neurons`, at the
    sites: times `factor`, or where given set to `values` [sites, neurons].
    """

    synapses: np.ndarray | None = None
    operator: str = "plain"
    neurons: Pairs = ()
    factor: float = 1.0
    values: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """`log_odds` [changes, sites]: of each site's target against all other tokens, natural logarithm (None where not asked for);
    `top` [changes, sites]: whether the target is the likeliest; `values` [changes, sites, neurons read]."""

    log_odds: np.ndarray | None
    top: np.ndarray | None
    values: np.ndarray

    @property
    def log_p(self) -> np.ndarray:
        """The answer's log-probability, [changes]: the sum over its sites."""
        # From the odds, a probability next to 1 keeps its digits.
        return -np.logaddexp(0, -self.log_odds).sum(1)

    @property
    def answer_log_odds(self) -> np.ndarray:
        """log P - log(1 - P) of the whole answer, [changes]."""
        log_p = np.minimum(self.log_p, -1e-300)
        return log_p - np.log(-np.expm1(log_p))


@torch.no_grad()
def measure(
    model: Model, query: Asked, changes: Sequence[Change], *, read: Pairs = (), answer: bool = True
) -> Measured:
    """The query under each of the changes: its answer (`answer`) and the neurons `read` at its sites.

    Where one change touches attention, all of the call run with eager attention, so that their differences are the change.

    Example
    -------
    >>> found = measure(model, asked(model, query), [Change(), Change(neurons=((3, 5),), factor=0.0)])
    >>> found.log_p
    array([-0.00012, -0.00015])
    """
    heads = next((change.synapses.shape[1] for change in changes if change.synapses is not None), None)
    sites, each = query.sites, max(1, TOKENS_PER_BATCH // (len(query.rows) * query.length))
    shape = (len(changes), len(sites))
    log_odds, top, values = np.empty(shape), np.empty(shape, bool), np.empty((*shape, len(read)))
    for operator in dict.fromkeys(change.operator for change in changes):
        numbers = [i for i, change in enumerate(changes) if change.operator == operator]
        for part in (numbers[i : i + each] for i in range(0, len(numbers), each)):
            batch = _Batch(model, query, [changes[i] for i in part], heads, operator)
            logits, found = batch.run(read, answer)
            values[part] = found.reshape(len(part), len(sites), -1).double().cpu().numpy()
            if answer:
                odds, best = _odds(logits, [t for _, _, t in sites] * len(part))
                log_odds[part], top[part] = odds.reshape(len(part), -1), best.reshape(len(part), -1)
    return Measured(log_odds if answer else None, top if answer else None, values)


def _odds(logits: torch.Tensor, targets: list[int]) -> tuple[np.ndarray, np.ndarray]:
    logits, rows = logits.double(), torch.arange(len(targets), device=logits.device)
    wanted = torch.tensor(targets, device=logits.device)
    best, own = logits.argmax(-1) == wanted, logits[rows, wanted]
    logits[rows, wanted] = -torch.inf
    return (own - logits.logsumexp(-1)).cpu().numpy(), best.cpu().numpy()


class _Batch:
    """Copies of a query's rows, each under a change of its own."""

    def __init__(self, model: Model, query: Asked, changes: list[Change], heads: int | None, operator: str):
        self.model, self.changes, self.rows = model, changes, len(query.rows)
        self.ids = torch.tensor(query.rows * len(changes), device=model.device)
        self.sites = [(k * self.rows + r, c) for k in range(len(changes)) for r, c, _ in query.sites]
        self.at = tuple(torch.tensor(x, device=model.device) for x in zip(*self.sites, strict=True))
        self.attention = nullcontext()
        if heads is not None:
            ones = np.ones((model.n_layers, heads, query.length), np.float32)
            factors = np.stack([ones if c.synapses is None else c.synapses for c in changes])
            tensor = torch.as_tensor(factors, device=model.device).repeat_interleave(self.rows, 0)
            self.attention = edited_attention(model, tensor, operator=operator)

    def run(self, read: Pairs, answer: bool) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Logits [sites of all changes, vocabulary], and the neurons there [sites of all changes, neurons read]."""
        found = torch.zeros(len(self.sites), len(read), device=self.model.device, dtype=torch.float64)
        mask = torch.ones_like(self.ids)
        with ExitStack() as stack:
            stack.enter_context(self.attention)
            for layer, places in self._places().items():
                self._hook(stack, layer, self._change(places))
            # Behind the hooks that change, so that what is read is what the layer uses.
            for layer in sorted({layer for layer, _ in read}):
                self._hook(stack, layer, self._read(read, layer, found))
            if answer:
                return self.model.logits_at(self.ids, mask, *self.at), found
            self.model.base(input_ids=self.ids, attention_mask=mask, **uncached(self.model))
            return None, found

    def _hook(self, stack: ExitStack, layer: int, use) -> None:
        def hook(module, inputs):
            changed = use(inputs[0].reshape(*self.ids.shape, -1))
            return None if changed is None else (changed.reshape(inputs[0].shape), *inputs[1:])

        stack.callback(self.model.down_projections[layer].register_forward_pre_hook(hook).remove)

    def _places(self) -> dict[int, list[tuple]]:
        """Layer -> (row, column, neuron, factor, added) of each neuron that a change touches."""
        places: dict[int, list[tuple]] = {}
        each = len(self.sites) // len(self.changes)
        for k, change in enumerate(self.changes):
            for number, (row, column) in enumerate(self.sites[k * each : (k + 1) * each]):
                for i, (layer, neuron) in enumerate(change.neurons):
                    put = (change.factor, 0.0) if change.values is None else (0.0, float(change.values[number, i]))
                    places.setdefault(layer, []).append((row, column, neuron, *put))
        return places

    def _change(self, places: list[tuple]):
        rows, columns, neurons, factors, added = zip(*places, strict=True)
        where = tuple(torch.tensor(x, device=self.model.device) for x in (rows, columns, neurons))
        factors, added = torch.tensor(factors, device=self.model.device), torch.tensor(added, device=self.model.device)

        def use(hidden):
            hidden = hidden.clone()
            hidden[where] = hidden[where] * factors.to(hidden) + added.to(hidden)
            return hidden

        return use

    def _read(self, pairs: Pairs, layer: int, found: torch.Tensor):
        numbers = [i for i, (own, _) in enumerate(pairs) if own == layer]
        neurons = torch.tensor([pairs[i][1] for i in numbers], device=self.model.device)

        def use(hidden):
            found[:, numbers] = hidden[self.at[0][:, None], self.at[1][:, None], neurons[None]].double()

        return use
