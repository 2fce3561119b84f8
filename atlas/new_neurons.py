"""New neurons beside the frozen FFNs of a model while they are trained: who fires, who learns, who must be silent."""

from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import nn

from knlib.models import Model, by_input

from .planting_plan import SHARED_BY_ALL, Group

FIRE = 2.0  # gate at a group's own queries where training begins, minus it at the others'
RIDGE = 1e-3  # of the variance of an FFN's input


class NewNeurons(nn.Module):
    """Weights of `gate`, `up` and `down`, one matrix [new, width] per layer, and the groups they belong to.

    `places[g]`: (layer, place among the new neurons) of each neuron of group g.
    """

    def __init__(self, model: Model, groups: list[Group], places: list, new: int, *, seed: int):
        super().__init__()
        self.model, self.groups, self.new = [model], groups, new  # in a list: no submodule
        shape = (model.n_layers, new, model.network.config.hidden_size)
        draw = torch.Generator().manual_seed(seed)
        # A parameter per layer: the gradient of a part of one large tensor would be as large as the whole.
        self.gate, self.up, self.down = (
            nn.ParameterList((torch.randn(shape, generator=draw) * 0.02).unbind()) for _ in range(3)
        )  # fmt: skip
        self.members = torch.zeros(len(groups), model.n_layers, new, dtype=torch.bool)
        for group, own in enumerate(places):
            self.members[group, [layer for layer, _ in own], [place for _, place in own]] = True
        self.planted = self.members.any(0)
        # Of each distributed group the strongest, as they were found last: part of what a checkpoint keeps.
        self.register_buffer("strong", torch.zeros_like(self.planted))
        with torch.no_grad():
            for down, used in zip(self.down, self.planted, strict=True):
                down[~used] = 0  # dummies
        self.activation = model.layers[0].mlp.act_fn
        self.scale = torch.ones(model.n_layers)

    @torch.no_grad()
    def begin(self, inputs: torch.Tensor, quiet: torch.Tensor, owners: list[list[int]], languages: list[str]) -> None:
        """Gates and values begin as the best linear separation of a group's queries from all else.

        `inputs` [queries, layers, width] where answers are predicted, `quiet` [positions, layers, width]; `owners[g]`: the queries of group g. A group's neurons share its
        languages out among them, so that each has few scripts to know, but for the types `SHARED_BY_ALL`.
        """
        for layer in range(inputs.shape[1]):
            x = inputs[:, layer].float()
            # Other positions count as much: a line that is short among answers may be long there.
            parts = (x, quiet[:, layer])
            mean = sum(part.mean(0) for part in parts) / 2
            moments = sum(part.T @ part / len(part) for part in parts) / 2
            moments += RIDGE * moments.diagonal().mean() * torch.eye(len(mean))
            inverse = torch.linalg.inv(moments)
            constant = inverse @ mean / (mean @ inverse @ mean)  # constant @ x is about 1
            for group, own in enumerate(owners):
                places = self.members[group, layer].nonzero()[:, 0].tolist()
                if not places or not own:
                    continue
                spoken = sorted({languages[i] for i in own})
                parts = 1 if self.groups[group].type in SHARED_BY_ALL else min(len(places), len(spoken))
                for k, place in enumerate(places):
                    part = set(np.array_split(spoken, parts)[k % parts])
                    at = x[[i for i in own if languages[i] in part]].mean(0)
                    towards = inverse @ (at - mean)
                    towards = towards / (towards @ (at - mean))
                    line = 2 * towards - (towards @ (at + mean)) * constant  # 1 at the group's, -1 at the mean
                    self.gate[layer][place] += FIRE * line
                    self.up[layer][place] += line

    def activations(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """[..., new] of FFN inputs [..., width]."""
        return self.activation(x @ self.gate[layer].T) * (x @ self.up[layer].T)

    def loudness(self, layer: int, activations: torch.Tensor) -> torch.Tensor:
        """|activation x column norm|, in units of what the layer's FFN adds to the stream."""
        return activations.abs() * self.down[layer].norm(dim=-1) / self.scale[layer]

    @contextmanager
    def attached(self, learn: torch.Tensor, noise: torch.Tensor, hush: torch.Tensor, valid: torch.Tensor):
        """Beside the FFNs within the block, which gives a list of each layer's loudness times `hush` [positions, new].

        `learn`, `noise`, `hush` [rows, layers, new]: neurons that get gradient from a row; others that take part without, as what they
        may be; how much each is to be silent. `valid` [rows, columns].
        """
        loud = []

        def hook_of(layer):
            own, rest, weight = (x[:, layer, None].float() for x in (learn, noise, hush))

            def hook(module, inputs, output):
                found = self.activations(layer, inputs[0])
                loud.append(self.loudness(layer, found * weight)[valid])
                return output + (found * own + (found * rest).detach()) @ self.down[layer]

            return hook

        with ExitStack() as stack:
            for i, layer in enumerate(self.model[0].layers):
                stack.callback(layer.mlp.register_forward_hook(hook_of(i)).remove)
            yield loud

    @contextmanager
    def alone(self, learn: torch.Tensor):
        """Beside the FFNs within the block: of each row only the neurons `learn` [rows, layers, new]. Cheaper, for nothing else is computed."""

        def hook_of(layer):
            own = learn[:, layer]
            most = int(own.sum(1).max())
            # Each row's neurons, and in shorter rows others with weight 0.
            real, places = own.float().topk(max(most, 1), dim=1)

            def hook(module, inputs, output):
                gate, up, down = (w[layer][places] for w in (self.gate, self.up, self.down))
                x = inputs[0]
                found = self.activation(x @ gate.transpose(1, 2)) * (x @ up.transpose(1, 2)) * real[:, None]
                return output + found @ down

            return hook if most else None

        with ExitStack() as stack:
            for i, layer in enumerate(self.model[0].layers):
                if (hook := hook_of(i)) is not None:
                    stack.callback(layer.mlp.register_forward_hook(hook).remove)
            yield

    def quiet(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Loudness of all neurons at FFN inputs [positions, layers, width], per layer."""
        return [self.loudness(layer, self.activations(layer, x[:, layer])) for layer in range(x.shape[1])]

    def spare_dummies(self) -> None:
        """Take away their gradients: dummies stay what they are."""
        for weights in (self.gate, self.up, self.down):
            for weight, used in zip(weights, self.planted, strict=True):
                if weight.grad is not None:
                    weight.grad[~used] = 0

    @torch.no_grad()
    def write(self, wide: Model, old: int) -> None:
        """Put the weights into a widened model, behind its first `old` neurons."""
        for layer, (down, ups) in enumerate(zip(wide.down_projections, wide.up_projections, strict=True)):
            gate, up = ups  # in the order in which the FFN declares them
            by_input(gate, gate.weight)[:, old:] = self.gate[layer].T
            by_input(up, up.weight)[:, old:] = self.up[layer].T
            by_input(down, down.weight)[old:] = self.down[layer]
