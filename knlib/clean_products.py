"""What the layers' parts make of the clean tokens, kept from one pass of the staircase to the next: it is always the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .models import IN_ATTENTION, Model


class CleanProducts:
    """What the parts of the layers make of the last token, recorded in a pass over all and handed out later.

    Parts are attention, norms and matrices: as large as they come without the down-projection inside. Those that the
    pass calls twice, as where layers share weights, are left alone.

    Example
    -------
    >>> kept = CleanProducts(model)
    >>> with kept.recorded():
    ...     model.network(input_ids=ids, past_key_values=cache)
    >>> with kept.reused(lambda: False):
    ...     model.network(input_ids=ids[:, -1:], past_key_values=cache)
    """

    def __init__(self, model: Model):
        pairs = zip(model.layers, model.down_projections, strict=True)
        self.modules = list(dict.fromkeys(part for layer, down in pairs for part in _parts(layer, down)))
        # Behind the last layer's attention nothing looks at the prefix any more.
        below = {module for layer in model.layers[:-1] for module in layer.modules()}
        self.last_token_only = {
            module for path, module in model.layers[-1].named_modules()
            if isinstance(module, nn.Linear | Conv1D) and module not in below and not IN_ATTENTION.search(path + ".")
        }  # fmt: skip
        self.outputs: dict[nn.Module, torch.Tensor | tuple] = {}

    @contextmanager
    def recorded(self):
        """Within the block the outputs are kept: [sites, 1, width], of parts that get [sites, tokens, width].

        The last layer's FFN matrices multiply the last token alone; the others' outputs are zeros there.
        """
        calls: dict[nn.Module, list[torch.Tensor | tuple | None]] = {}

        def forward_of(module, plain):
            def forward(*args, **kwargs):
                if module in self.last_token_only and args and args[0].ndim == 3:
                    own = plain(args[0][:, -1:])
                    output = own.new_zeros(*args[0].shape[:-1], own.shape[-1])
                    output[:, -1:] = own
                else:
                    output = plain(*args, **kwargs)
                calls.setdefault(module, []).append(_last_token(output))
                return output

            return forward

        with self._forwards(forward_of):
            yield
        once = {module: found[0] for module, found in calls.items() if len(found) == 1}
        self.outputs = {module: output for module, output in once.items() if output is not None}

    @contextmanager
    def reused(self, in_rows: Callable[[], bool]):
        """Within the block parts hand out what they made of the last token, unless `in_rows()`: then they compute."""

        def forward_of(module, plain):
            known = self.outputs.get(module)
            first = known[0] if isinstance(known, tuple) else known

            def forward(*args, **kwargs):
                hidden = args[0] if args else kwargs.get("hidden_states")
                # Injected rows may pass beside the clean ones, behind their layer's down-projection.
                if in_rows() or first is None or hidden is None or first.shape[:-1] != hidden.shape[:-1]:
                    return plain(*args, **kwargs)
                own = first.clone()  # some models (Falcon) add to it in place
                return (own, *known[1:]) if isinstance(known, tuple) else own

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


def _parts(module: nn.Module, down: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules inside a module that are or do not hold the down-projection."""
    for child in module.children():
        # A module with a forward of its own (a wrapper's) is not replaced.
        if (child is down or all(sub is not down for sub in child.modules())) and "forward" not in vars(child):
            yield child
        else:
            yield from _parts(child, down)


def _last_token(output) -> torch.Tensor | tuple | None:
    """The last token's part of a module's output; of a tuple its first element's (attention adds weights and the like)."""
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, torch.Tensor) or first.ndim != 3:
        return None
    own = first[:, -1:].detach().clone()
    return (own, *[None] * (len(output) - 1)) if isinstance(output, tuple) else own
