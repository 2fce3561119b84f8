"""Rows of tokens run from the place of a change on: nothing before it depends on the change, so that is computed once."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

from ..models import Model
from ..probe import out_of_memory
from ..shared_prefix import Prefix, positions_argument
from ..sites import padded

# A batch is closed when it would hold more tokens of padding: about what one more call costs the shipped models (CPU).
PADDING = 24
Change = Callable[[tuple[int, int], list[int], list[int]], AbstractContextManager]


class SuffixPass:
    """Logits at asked places of a right-padded batch, again and again, while a change at `positions` is optimised.

    `ids`, `mask` [rows, columns] and the places `rows`, `columns` are those of `Model.logits_at`. `positions`: the column
    of each row where its change enters, before which nothing is asked; `fixed`: so many layers lie below the change. What
    is computed before and below is kept; a model that then gives other logits (tried on a batch) runs whole rows.

    Example
    -------
    >>> passes = SuffixPass(model, ids, mask, rows, columns, positions, fixed=3)
    >>> passes.logits(lambda shape, rows, at: changed_output(model, 3, "mlp", shape, range(len(at)), at, delta[rows])).shape
    torch.Size([12, 8000])
    """

    def __init__(self, model: Model, ids, mask, rows, columns, positions: list[int], *, fixed: int):
        self.model, self.positions = model, positions
        self.sequences = [row[:length] for row, length in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)]
        self.places = list(zip(rows.tolist(), columns.tolist(), strict=True))
        exact = False
        try:
            self.batches = self._batches(positions, fixed)
            exact = self._is_exact(self.batches[0])
        except Exception as error:  # whatever an architecture's code raises behind our prefix
            if out_of_memory(error):
                raise
        if not exact:
            self.batches = self._batches([0] * len(positions), 0)

    def logits(self, change: Change, kept: set[int] | None = None) -> torch.Tensor:
        """At the asked places, in their order, [places, vocabulary]; only at those of the rows `kept`, if given.

        `change(shape, rows, columns)`: a context in which the network is called on tokens of that shape; the i-th row of
        the call is of row `rows[i]`, and its change belongs at `columns[i]`.
        """
        found, order = [], []
        for batch in self.batches:
            if own := [row for row in batch.rows if kept is None or row in kept]:
                asked, logits = self._logits_of(batch, own, change)
                found.append(logits)
                order += asked
        return torch.cat(found)[torch.tensor(order, device=found[0].device).argsort()]

    def _logits_of(self, batch: "_Batch", own: list[int], change: Change) -> tuple[list[int], torch.Tensor]:
        """Numbers of the places of some rows of a batch, and the logits there."""
        local = {row: i for i, row in enumerate(own)}
        asked = [number for number, (row, _) in enumerate(self.places) if row in local]
        places = [(local[row], column - batch.starts[row]) for row, column in (self.places[number] for number in asked)]
        entered = [self.positions[row] - batch.starts[row] for row in own]
        with change((len(own), batch.ids.shape[1]), own, entered):
            return asked, batch.logits(own, places)

    @torch.no_grad()
    def _is_exact(self, batch: "_Batch") -> bool:
        whole = _Batch(self.model, batch.rows, self.sequences, [0] * len(self.sequences), 0)
        found, expected = (self._logits_of(b, b.rows, lambda *_: nullcontext())[1] for b in (batch, whole))
        allowed = (1e-6 if expected.dtype == torch.float64 else 1e-4) * expected.abs().max()
        return bool((found - expected).abs().max() <= allowed)

    def _batches(self, starts: list[int], fixed: int) -> list["_Batch"]:
        lengths = [len(sequence) - start for sequence, start in zip(self.sequences, starts, strict=True)]
        return [_Batch(self.model, own, self.sequences, starts, fixed) for own in _alike(lengths, starts)]


def _alike(lengths: list[int], starts: list[int]) -> Iterator[list[int]]:
    """Row numbers that run together: by length, longest first; rows that nothing is before apart, as no prefix is empty."""
    for empty in (False, True):
        own, waste = [], 0
        for row in sorted((r for r, start in enumerate(starts) if (start == 0) == empty), key=lambda r: -lengths[r]):
            waste += lengths[own[0]] - lengths[row] if own else 0
            if waste > PADDING:
                yield own
                own, waste = [], 0
            own.append(row)
        if own:
            yield own


class _Batch:
    """Some rows of the sequences, from their starts on: keys and values before them, and what the fixed layers give out."""

    @torch.no_grad()
    def __init__(self, model: Model, rows: list[int], sequences: list[list[int]], starts: list[int], fixed: int):
        self.model, self.rows, self.starts, pad = model, rows, starts, model.tokenizer.pad_token_id
        self.ids, self.mask = padded([sequences[r][starts[r] :] for r in rows], pad, "right", model.device)
        self.layers, self.known, self.prefix = model.layers[:fixed], None, None
        if starts[rows[0]]:
            before = padded([sequences[r][: starts[r]] for r in rows], pad, "left", model.device)
            # For suffixes of many tokens the model's own attention is faster than the shared one.
            self.prefix = Prefix.of(model, *before, shared=False)
        # A module with a forward of its own (a wrapper's) is not replaced.
        if self.layers and not any("forward" in vars(layer) for layer in self.layers):
            seen: list = []
            with model.hooks((self.layers[-1], lambda module, inputs, output: seen.append(output))):
                self.logits(rows, [])
            # Where a layer gives out more than the stream, it computes.
            self.known = seen[0] if isinstance(seen[0], torch.Tensor) and seen[0].shape[:2] == self.ids.shape else None

    def logits(self, own: list[int], places: list[tuple[int, int]]) -> torch.Tensor:
        """At (row, column) of the rows `own`, from their starts on, [places, vocabulary]."""
        which = torch.tensor([self.rows.index(row) for row in own], device=self.ids.device)
        at = torch.tensor(places, dtype=torch.long, device=self.ids.device).reshape(-1, 2).T
        ids, mask = self.ids[which], self.mask[which]
        with ExitStack() as stack:
            if self.known is not None:
                stack.enter_context(self._replayed(self.known[which]))
            if self.prefix is not None:
                mask = torch.cat([self.prefix.mask[which], mask], dim=1)
                stack.enter_context(self._continued(which, positions_argument(self.model, mask, last=ids.shape[1])))
            return self.model.logits_at(ids, mask, at[0], at[1])

    @contextmanager
    def _continued(self, which: torch.Tensor, positions: dict):
        """Calls of the network continue the prefix of these rows."""
        more = positions | {"use_cache": True, "past_key_values": self.prefix.cache()}
        network, self.prefix.rows = self.model.network, which
        # `logits_at` passes no cache on.
        hook = network.register_forward_pre_hook(lambda m, args, named: (args, named | more), with_kwargs=True)
        try:
            yield
        finally:
            self.prefix.rows = None
            hook.remove()

    @contextmanager
    def _replayed(self, output: torch.Tensor):
        """The fixed layers compute nothing: the last one's output is known, and nobody else reads the others'."""
        for layer in self.layers:
            layer.forward = lambda *args, **named: output
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.forward
