"""Matrix products of the clean tokens, kept from one pass of the staircase to the next: they are always the same."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .models import Model


class CleanProducts:
    """What the linear modules of the layers make of the last token, recorded in a pass over all and handed out later.

    Modules that the pass calls twice, as where layers share weights, are left alone.

    Example
    -------
    >>> kept = CleanProducts(model)
    >>> with kept.recorded():
    ...     model.network(input_ids=ids, past_key_values=cache)
    >>> with kept.reused(lambda: False):
    ...     model.network(input_ids=ids[:, -1:], past_key_values=cache)
    """

    def __init__(self, model: Model):
        # A module with a forward of its own (a wrapper's) is not replaced.
        self.modules = [
            module for layer in model.layers for module in layer.modules()
            if isinstance(module, nn.Linear | Conv1D) and "forward" not in vars(module)
        ]  # fmt: skip
        self.outputs: dict[nn.Module, torch.Tensor] = {}

    @contextmanager
    def recorded(self):
        """Within the block the outputs are kept: [sites, 1, width], of modules that get [sites, tokens, width]."""
        calls: dict[nn.Module, list[torch.Tensor | None]] = {}

        def forward_of(module, plain):
            def forward(hidden):
                output = plain(hidden)
                calls.setdefault(module, []).append(output[:, -1:].detach().clone() if output.ndim == 3 else None)
                return output

            return forward

        with self._forwards(forward_of):
            yield
        once = {module: found[0] for module, found in calls.items() if len(found) == 1}
        self.outputs = {module: output for module, output in once.items() if output is not None}

    @contextmanager
    def reused(self, in_rows: Callable[[], bool]):
        """Within the block modules hand out what they made of the last token, unless `in_rows()`: then they compute."""

        def forward_of(module, plain):
            def forward(hidden):
                known = self.outputs.get(module)
                # Injected rows may pass beside the clean ones, behind their layer's down-projection.
                if in_rows() or known is None or known.shape[:-1] != hidden.shape[:-1]:
                    return plain(hidden)
                return known.clone()  # some models (Falcon) add to it in place

            return forward

        with self._forwards(forward_of):
            yield

    @contextmanager
    def _forwards(self, forward_of: Callable):
        for module in self.modules:
            module.forward = forward_of(module, module.forward)
        try:
            yield
        finally:
            for module in self.modules:
                del module.forward
