"""Matrix products of the clean tokens, kept from one pass of the staircase to the next: they are always the same."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .models import Model


class CleanProducts:
    """What the linear modules of the layers make of the clean tokens, recorded in one pass and handed out in later ones.

    Only for passes of few clean tokens (one behind a prefix): it keeps every output. Modules that one pass calls twice, as
    where layers share weights, are left alone.

    Example
    -------
    >>> kept = CleanProducts(model)
    >>> with kept.reused(lambda: False):
    ...     model.network(input_ids=ids)
    """

    def __init__(self, model: Model):
        # A module with a forward of its own (a wrapper's) is not replaced.
        self.modules = [
            module for layer in model.layers for module in layer.modules()
            if isinstance(module, nn.Linear | Conv1D) and "forward" not in vars(module)
        ]  # fmt: skip
        self.outputs: dict[nn.Module, torch.Tensor] | None = None

    @contextmanager
    def reused(self, in_rows: Callable[[], bool]):
        """Within the block modules hand out what they made of the clean tokens, unless `in_rows()`: then they compute."""
        recording = self.outputs is None
        calls: dict[nn.Module, list[torch.Tensor]] = {}

        def forward_of(module, plain):
            def forward(hidden):
                if in_rows():
                    return plain(hidden)
                if recording:
                    output = plain(hidden)
                    calls.setdefault(module, []).append(output.detach().clone())
                    return output
                known = self.outputs.get(module)
                # Injected rows may pass beside the clean ones, behind their layer's down-projection.
                if known is None or known.shape[:-1] != hidden.shape[:-1]:
                    return plain(hidden)
                return known.clone()  # some models (Falcon) add to it in place

            return forward

        for module in self.modules:
            module.forward = forward_of(module, module.forward)
        try:
            yield
        finally:
            for module in self.modules:
                del module.forward
        if recording:
            self.outputs = {module: found[0] for module, found in calls.items() if len(found) == 1}
