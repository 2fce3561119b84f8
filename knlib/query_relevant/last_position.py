"""One pass of a prompt, for scores that look inside: neurons with gradients, activations, the stream, the final norm."""

from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from ..errors import InputError, Literal
from ..models import IN_ATTENTION, Model, by_input
from ..sites import Site, adjoint
from .norms import Norm, is_norm


@dataclass(eq=False)
class Record:
    """What a pass left behind, layer by layer; all but the neurons at the last position (a masked model: at its mask).

    `neurons[l]` [1, tokens, neurons] carries gradients, `here[l]` [neurons] are its values at the position; `gates[l]`
    [neurons]: the output of the FFN's non-linearity; `ffn[l]`, `streams[l]` [width]: what the down-projection adds, and the
    stream behind the layer; `logits` [vocabulary]; `final`: the last norm with its input and output (None: no norm).
    """

    model: Model
    position: int
    logits: torch.Tensor | None = None
    neurons: dict[int, torch.Tensor] = field(default_factory=dict)
    gates: dict[int, torch.Tensor] = field(default_factory=dict)
    ffn: dict[int, torch.Tensor] = field(default_factory=dict)
    streams: dict[int, torch.Tensor] = field(default_factory=dict)
    final: tuple[Norm, torch.Tensor, torch.Tensor] | None = None

    @property
    def here(self) -> list[torch.Tensor]:
        return [self.neurons[i][0, self.position].detach() for i in range(self.model.n_layers)]

    def gradients(self, value: torch.Tensor) -> list[torch.Tensor]:
        """The derivative of a number at every layer's neurons, at the position, [neurons] each."""
        found = torch.autograd.grad(value, [self.neurons[i] for i in range(self.model.n_layers)])
        return [gradient[0, self.position] for gradient in found]


@torch.enable_grad()
def record(model: Model, site: Site, *, linear: bool = False) -> Record:
    """Run the prompt of a site. `linear`: gradients are those of `relp` (values stay what they are).

    Raises `InputError` for `linear` where the FFN's non-linearity is no module of its own, and cannot be told.

    Example
    -------
    >>> record(model, site).logits.shape
    torch.Size([4000])
    """
    found = Record(model, site.position)
    ids = torch.tensor([site.ids], device=model.device)
    places = torch.zeros(1, dtype=torch.long, device=ids.device), torch.tensor([site.position], device=ids.device)
    with _hooks(found, ids.shape[1], linear):
        found.logits = model.logits_at(ids, torch.ones_like(ids), *places)[0]
    if linear and len(found.gates) < model.n_layers:
        raise InputError(f"model {model.name}", found=Literal("a layer whose non-linearity is no module of its own"),
                         expected="a module, as SiLU or GELU, between the FFN's projections")  # fmt: skip
    return found


@contextmanager
def _hooks(found: Record, tokens: int, linear: bool):
    model, handles, inside = found.model, [], set()
    try:
        for i, (layer, down) in enumerate(zip(model.layers, model.down_projections, strict=True)):
            inside.update(layer.modules())
            handles.append(layer.register_forward_hook(_keep(found.streams, i, found.position, tokens)))
            handles += [m.register_forward_hook(_activation_hook(found, i, tokens, linear)) for m in activations(layer)]
            handles.append(down.register_forward_pre_hook(_neuron_hook(found, i, tokens, linear)))
            handles.append(down.register_forward_hook(_keep(found.ffn, i, found.position, tokens)))
        for module in model.network.modules():
            if is_norm(module):
                handles.append(module.register_forward_hook(_norm_hook(found, tokens, linear, module in inside)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def activations(layer: nn.Module) -> list[nn.Module]:
    """Modules of a layer, outside attention, that can be the FFN's non-linearity: without parts or parameters."""
    return [
        module for path, module in layer.named_modules()
        if path and not IN_ATTENTION.search(path + ".") and not any(True for _ in module.children())
        and not any(True for _ in module.parameters()) and not is_norm(module)
        and not isinstance(module, nn.Dropout | nn.Identity)
    ]  # fmt: skip


def gated(model: Model, layer: int) -> bool:
    """Whether a layer's neurons are products of a gate and a value."""
    ups = model.up_projections[layer]
    return len(ups) == 2 or by_input(ups[0], ups[0].weight).shape[1] == 2 * model.n_neurons


def _keep(where: dict, i: int, position: int, tokens: int):
    def hook(module, inputs, output):
        output = output[0] if isinstance(output, tuple) else output
        where[i] = output.reshape(tokens, -1)[position]

    return hook


def _activation_hook(found: Record, i: int, tokens: int, linear: bool):
    def hook(module, inputs, output):
        if not isinstance(output, torch.Tensor) or output.numel() != tokens * found.model.n_neurons:
            return None
        if linear:
            # z * (a / z) with the second factor constant: SiLU's sigmoid, GELU's normal distribution function.
            z = inputs[0]
            output = z * torch.where(z == 0, 0.5, output / torch.where(z == 0, 1.0, z)).detach()
        found.gates[i] = output.reshape(tokens, -1)[found.position].detach()
        return output

    return hook


def _neuron_hook(found: Record, i: int, tokens: int, linear: bool):
    def hook(module, inputs):
        h = inputs[0]
        if linear and gated(found.model, i):
            h = (h + h.detach()) / 2
        if not h.requires_grad:
            h = h.detach().requires_grad_()
        # What is kept lies on the gradient's path: the down-projection gets a view of it.
        h = h.reshape(1, tokens, -1)
        found.neurons[i] = h
        return (h.reshape(inputs[0].shape), *inputs[1:])

    return hook


def _norm_hook(found: Record, tokens: int, linear: bool, inside: bool):
    def hook(module, inputs, output):
        x = inputs[0]
        if inside and not linear:
            return None
        norm = Norm.of(module, x.reshape(-1, x.shape[-1])[0] if x.ndim < 4 else x[0, 0])
        if not inside and len(found.streams) == found.model.n_layers:
            rows = x.reshape(-1, x.shape[-1])
            at = found.position if len(rows) == tokens else 0
            found.final = (norm, rows[at].detach(), output.reshape(rows.shape)[at].detach())
        return norm.with_fixed_scale(x, output) if linear else None

    return hook


@dataclass(frozen=True, eq=False)
class Readout:
    """How the stream becomes logits, the final norm's scale being what it was: logits = U (directions(x) * scale) + offset.

    `unembedding` [vocabulary, width]; `offset` [vocabulary] holds the norm's and the head's bias.
    """

    norm: Norm
    scale: torch.Tensor
    unembedding: torch.Tensor
    offset: torch.Tensor

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """[..., vocabulary] of streams [..., width]."""
        return self.change(x) + self.offset

    def change(self, x: torch.Tensor) -> torch.Tensor:
        """What is added to the logits by vectors [..., width] that are added to the stream."""
        return (self.norm.directions(x) * self.scale) @ self.unembedding.T


def readout(found: Record, *, check: bool = True) -> Readout:
    """The linear map from stream to logits of a pass. `check=False`: of a model for which another pass was checked.

    Raises `InputError` where there is none: FFN outputs are normed or scaled before they are added (BERT, Gemma 2), or logits
    are more than a matrix times the normed stream (capped, scaled, behind a transform).

    Example
    -------
    >>> readout(record(model, site)).unembedding.shape
    torch.Size([4000, 192])
    """
    model, last = found.model, found.streams[found.model.n_layers - 1].detach()
    for i, projection in enumerate(model.down_projections if check else ()):
        probe = torch.ones_like(last)
        probe[::3] = -2
        slope = torch.autograd.grad((found.streams[i] * probe).sum(), found.neurons[i], retain_graph=True)[0]
        if not _alike(slope[0, found.position], adjoint(projection, probe)):
            raise InputError(f"model {model.name}, layer {i}", found=Literal("an FFN output that changes on its way"),
                             expected="one that is added to the stream as it is")  # fmt: skip
    head = model.network.get_output_embeddings()
    if found.final is None:
        one = torch.ones_like(last)
        found.final = (Norm(one, 0 * one, False), last, last)
    norm, x, y = found.final
    offset = norm.bias @ head.weight.T
    if getattr(head, "bias", None) is not None:
        offset = offset + head.bias
    result = Readout(norm, norm.scale(x, y), head.weight, offset.detach())
    if not _alike(x, last) or not _alike(result.logits(last), found.logits):
        raise InputError(f"model {model.name}, head", found=Literal("a transform of its own"),
                         expected="logits that are a matrix times the normed stream")  # fmt: skip
    return result


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-3 * b.abs().max())
