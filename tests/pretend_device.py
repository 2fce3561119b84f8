"""A device that is not there: tensors that say they lie on it, and refuse what tensors on a real one would refuse."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
READING = ("numpy", "__array__")


class Away(torch.Tensor):
    """A tensor of the pretended device. Operations that mix it with tensors of the processor are errors, but for index
    tensors and single numbers, as in torch; float64 is one where `no_float64`.
    """

    kind, no_float64, backward = "cuda", False, False

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if function == torch.Tensor.device.__get__:
            return torch.device(cls.kind)
        if name in READING:
            raise TypeError(f"{name} of a tensor on {cls.kind}")
        if function is torch.autograd.grad:
            # Gradients inside the engine of torch are no objects of this class.
            Away.backward = True
            try:
                return super().__torch_function__(function, types, args, kwargs)
            finally:
                Away.backward = False
        others = args[2:] if function is torch.Tensor.__setitem__ else () if function in INDEXING else args
        for value in () if cls.backward else tree_flatten([others, kwargs])[0]:
            if isinstance(value, torch.Tensor) and not isinstance(value, Away) and value.ndim:
                raise RuntimeError(f"{name}: tensors on {cls.kind} and cpu")
        result = super().__torch_function__(function, types, args, kwargs)
        if cls.no_float64 and isinstance(result, Away) and torch.Tensor.dtype.__get__(result) == torch.float64:
            raise TypeError(f"{name}: {cls.kind} has no float64")
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        return result


class _Devices(TorchFunctionMode):
    """Makes what is asked for on the pretended device there."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, wanted = dict(kwargs or {}), None
        if function is torch.Tensor.to:
            if len(args) > 1 and isinstance(args[1], torch.Tensor):
                wanted = "cpu" if not isinstance(args[1], Away) else Away.kind
                args = (args[0], torch.Tensor.dtype.__get__(args[1]))
            elif len(args) > 1 and isinstance(args[1], str | torch.device):
                wanted, args = args[1], (args[0], *args[2:])
        if "device" in kwargs:
            wanted = kwargs.pop("device")
        if wanted is None:
            return function(*args, **kwargs)
        wanted = torch.device(wanted).type
        if function is torch.Tensor.to and len(args) == 1 and not kwargs:
            result = args[0]
        else:
            result = function(*args, **kwargs)
        return result.as_subclass(torch.Tensor if wanted == "cpu" else Away)


@contextmanager
def pretended(network: torch.nn.Module, kind: str):
    """The network lies on a device of the type `kind` within the block."""
    before = []
    for module in network.modules():
        for table in (module._parameters, module._buffers):
            before.append((table, dict(table)))
            table.update(tree_map(lambda t: None if t is None else t.detach().as_subclass(Away), dict(table)))
    Away.kind, Away.no_float64 = kind, kind == "mps"
    try:
        with _Devices():
            yield
    finally:
        for table, values in before:
            table.update(values)
