"""Norms as linear maps: gain, bias, whether they centre, and the scale that they had at a point."""

from dataclasses import dataclass

import torch
from torch import nn

# So large that a norm's epsilon does not count.
LARGE = 1000


def is_norm(module: nn.Module) -> bool:
    """Whether a module without parts is a norm, by its class's name (norms of transformers have no class in common)."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


@dataclass(frozen=True, eq=False)
class Norm:
    """y = gain * centred x * scale + bias: `gain`, `bias` [width]; `centres`: a LayerNorm takes the mean off first.

    The scale (one over the standard deviation, or root mean square) is what depends on x other than linearly.
    """

    gain: torch.Tensor
    bias: torch.Tensor
    centres: bool

    @classmethod
    @torch.no_grad()
    def of(cls, module: nn.Module, like: torch.Tensor) -> "Norm":
        """Measured, not read (some norms store the gain less 1), for inputs such as `like` [..., width].

        Example
        -------
        >>> Norm.of(nn.LayerNorm(4), torch.zeros(4)).centres
        True
        """
        point = torch.ones_like(like).detach()
        point[..., ::2] = -1
        if like.shape[-1] % 2:
            # The last three, so that the mean is 0 all the same.
            point[..., -3:] = point.new_tensor([1, -2, 1])
        bias = module.forward(torch.zeros_like(point))
        size = point.pow(2).mean(-1, keepdim=True).sqrt()
        gain = (module.forward(LARGE * point) - bias) / point * size
        level = module.forward(LARGE * torch.ones_like(point)) - bias
        return cls(gain, bias, bool(level.abs().max() < 0.5 * gain.abs().max()))

    def directions(self, x: torch.Tensor) -> torch.Tensor:
        """What the norm makes of vectors [..., width] but for scale and bias."""
        return self.gain * (x - x.mean(-1, keepdim=True) if self.centres else x)

    def scale(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The scale that led from x to y [..., width], [..., 1], without gradient."""
        with torch.no_grad():
            u = self.directions(x)
            return ((y - self.bias) * u).sum(-1, keepdim=True) / (u * u).sum(-1, keepdim=True).clamp_min(1e-30)

    def with_fixed_scale(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """y, the norm's output at x, with the gradient it has where the scale is a constant."""
        line = self.directions(x) * self.scale(x, y)
        return y.detach() + line - line.detach()
