"""Attribution's fast path: every layer's rows in one pass, each row only through the layers above its own.

Exact, not an approximation. The path of one layer's neurons is a straight line in the down-projection's output, so
rows are injected there. A row of layer l needs only layers l + 1, ...: before layer j the batch has the rows of all
layers below j, a staircase. The model drives: it is called once on the clean tokens, and a hook on each layer calls the
layer again, with the same arguments, for the rows. In causal models a row is one token behind a shared prefix.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers.cache_utils import DynamicCache
from transformers.pytorch_utils import Conv1D

from .clean_products import CleanProducts
from .models import Model
from .reference import PathBatch
from .shared_prefix import Prefix
from .sites import Site, adjoint, padded
from .staircase_pass import Injection, Pass


@dataclass(frozen=True)
class Plan:
    """Which shortcuts are exact for an architecture; `knlib.probe` finds out.

    `prefix`: `"shared"` (attention reads one prefix), `"concatenated"` (the cache copies it), `"none"` (rows carry
    the whole sequence; encoders). `broadcast`: injected rows pass the layer's own tail by broadcasting, instead of
    being copies that pass the whole layer. `linear_head`: the head's last module gives the logits.
    """

    prefix: str
    broadcast: bool
    linear_head: bool

    def __str__(self) -> str:
        injection, head = "broadcast" if self.broadcast else "copies", "linear" if self.linear_head else "plain"
        return f"staircase (prefix {self.prefix}, injection {injection}, head {head})"


class StaircaseBatch(PathBatch):
    """The paths of some sites, measured by staircases of at most `rows` token rows each."""

    def __init__(
        self, model: Model, sites: list[Site], layers: list[int], objective: str, plan: Plan, rows: int = 4096
    ):
        real = len(sites)
        sites = sites + [sites[-1]] * (_unmistakable(real, model, sites, plan) - real)
        super().__init__(model, sites, layers, objective)
        self.plan, self.rows, self.path = plan, rows, str(plan)
        side = "left" if model.kind == "causal" else "right"
        pad = model.tokenizer.pad_token_id
        self.ids, self.mask = padded([site.ids for site in sites], pad, side, model.device)
        if self.ids.shape[1] == 1:
            # A masked token before the only one, so that there is a prefix.
            self.ids, self.mask = (nn_pad(x, value) for x, value in ((self.ids, pad), (self.mask, 0)))
        shift = [self.ids.shape[1] - len(site.ids) if side == "left" else 0 for site in sites]
        self.columns = torch.tensor([s.position + d for s, d in zip(sites, shift, strict=True)], device=model.device)
        self.prefix, self.tokens, self._log_values = None, self.ids.shape[1], None
        if plan.prefix != "none" and any(site.position != len(site.ids) - 1 for site in sites):
            raise ValueError("a shared prefix needs the answer's position to be the last")
        clean = Pass(self, {}, None)
        with torch.no_grad():
            self._clean_values = clean.forward() if plan.prefix == "none" else self._run_and_keep(clean)
        self.neurons = torch.stack([clean.neurons[i] for i in layers], dim=1)[:real]
        self.outputs = torch.stack([clean.outputs[i] for i in layers], dim=1)[:real]
        self.set_paths(list(range(real)), None)

    @property
    def log_values(self) -> np.ndarray:
        """Of the model as it is, [sites]: the head runs for it only where no pass of `measure` had the paths' common end."""
        if self._log_values is None:
            with torch.no_grad():
                self._log_values = self._clean_values().cpu().double().numpy()[: len(self.neurons)]
        return self._log_values

    def _run_and_keep(self, clean: Pass) -> Callable[[], torch.Tensor]:
        """Run all tokens once; later passes have the prefix and the last token's products from it, and only that token."""
        cache, self.clean_products = DynamicCache(), CleanProducts(self.model)
        with self.clean_products.recorded():
            values = clean.forward(cache)
        self.prefix = Prefix(self.model, cache, self.mask[:, :-1], self.plan.prefix == "shared")
        self.tokens, self.columns = 1, torch.zeros_like(self.columns)
        return values

    def set_paths(self, owner: list[int], begin: torch.Tensor | None, end: torch.Tensor | None = None) -> None:
        super().set_paths(owner, begin, end)
        if begin is None:
            starts = torch.stack([self._at_zero(i) for i in self.layers])
            self.start_outputs = starts.expand(len(owner), *starts.shape)
        else:
            self.start_outputs = self._projected(begin)
        self.end_outputs = None if end is None else self._projected(end)

    @torch.no_grad()
    def _projected(self, neurons: torch.Tensor) -> torch.Tensor:
        """What the layers' down-projections make of [paths, layers, neurons]."""
        return torch.stack(
            [self.model.down_projections[i].forward(neurons[:, k]) for k, i in enumerate(self.layers)], dim=1
        )

    @torch.no_grad()
    def _at_zero(self, layer: int) -> torch.Tensor:
        """What a layer's down-projection makes of neurons that are all zero, [width]."""
        projection = self.model.down_projections[layer]
        if type(projection) in (nn.Linear, Conv1D):  # the bias, without reading the whole matrix
            return self.outputs.new_zeros(self.outputs.shape[-1]) if projection.bias is None else projection.bias
        return projection.forward(torch.zeros_like(self.neurons[:1, 0]))[0]

    def difference(self, layer: int) -> torch.Tensor:
        """End minus start of every path, behind the down-projection, [paths, width]."""
        ends = self.outputs[self.owner, layer] if self.end is None else self.end_outputs[:, layer]
        return ends - self.start_outputs[:, layer]

    def project(self, layer: int, gradient: torch.Tensor) -> torch.Tensor:
        """Gradients behind the down-projection as gradients of neurons."""
        return adjoint(self.model.down_projections[self.layers[layer]], gradient)

    def measure(self, path: np.ndarray, layer: np.ndarray, alpha: np.ndarray):
        """Log-values [m] and their gradients [m, width] at points alpha of the paths, each in one layer."""
        values = np.empty(len(path))
        gradients = self.outputs.new_empty(len(path), self.outputs.shape[-1])
        room = max(1, self.rows // self.tokens)
        # The end of a path at the site's own neurons is the model as it is: one row, shared by all layers.
        shared = (alpha == 1) & (self.end is None)
        ends, inner = np.flatnonzero(shared), np.flatnonzero(~shared)
        inner = inner[np.argsort(layer[inner], kind="stable")]
        for start in range(0, max(len(inner), 1), room):
            self._pass(path, layer, alpha, inner[start : start + room], ends, values, gradients)
            ends = ends[:0]
        return values, gradients

    def _pass(self, path, layer, alpha, inner, ends, values, gradients) -> None:
        owner = self.owner.cpu().numpy()
        injections, numbers = {}, {}
        for k in np.unique(layer[inner]):
            own = inner[layer[inner] == k]
            p = torch.as_tensor(path[own], device=self.owner.device)
            steps = torch.as_tensor(alpha[own], dtype=self.outputs.dtype, device=p.device)[:, None]
            points = self.start_outputs[p, k] + steps * self.difference(k)[p]
            injections[self.layers[k]], numbers[int(k)] = Injection(self.owner[p], points), own
        shared = None
        if len(ends):
            sites, order = np.unique(owner[path[ends]], return_inverse=True)
            shared = (torch.as_tensor(sites, device=self.owner.device), sorted({self.layers[k] for k in layer[ends]}))
        work = Pass(self, injections, shared)
        with torch.enable_grad():
            found = work.run()
            inner_gradients, end_gradients = work.gradients(found)
        found = found.detach().cpu().double().numpy()
        for k, own in numbers.items():
            values[own] = found[work.places[self.layers[k]]]
            gradients[torch.as_tensor(own)] = inner_gradients[self.layers[k]]
        if len(ends):
            values[ends] = found[work.shared_rows][order]
            if len(sites) == len(self.neurons):
                self._log_values = found[work.shared_rows]
            for k in np.unique(layer[ends]):
                own = layer[ends] == k
                gradients[torch.as_tensor(ends[own])] = end_gradients[self.layers[k]][torch.as_tensor(order[own])]

    @torch.no_grad()
    def ablate(self, site: int, layer: int, begin: torch.Tensor) -> np.ndarray:
        """Log-values [neurons] where one neuron at a time is set to its value in `begin` [neurons]."""
        projection = self.model.down_projections[self.layers[layer]]
        change, values = begin - self.neurons[site, layer], []
        zero = self._at_zero(self.layers[layer])
        for part in torch.arange(len(change), device=change.device).split(max(1, self.rows // self.tokens)):
            steps = torch.zeros(len(part), len(change), dtype=change.dtype, device=change.device)
            steps[torch.arange(len(part), device=part.device), part] = change[part]
            outputs = self.outputs[site, layer] + projection.forward(steps) - zero
            prompts = torch.full((len(part),), site, device=change.device)
            values.append(Pass(self, {self.layers[layer]: Injection(prompts, outputs)}, None).run()[len(self.sites) :])
        return torch.cat(values).cpu().double().numpy()


def _unmistakable(count: int, model: Model, sites: list[Site], plan: Plan) -> int:
    """The least number of prompts, from `count`, that is no other size a layer's arguments may begin with.

    Arguments of a layer are known to be per prompt by their first dimension alone. Attention code of its own may want
    [heads, ...] (MPT) or [prompts * heads, ...] (BLOOM): never one prompt there.
    """
    if plan.prefix == "concatenated":
        count = max(count, 2)
    config = model.network.config.get_text_config()
    taken = {getattr(config, "num_attention_heads", 0), getattr(config, "num_key_value_heads", 0)}
    taken |= {max(len(site.ids) for site in sites)}
    while count in taken and count > 1:
        count += 1
    return count


def nn_pad(tensor: torch.Tensor, value: int) -> torch.Tensor:
    """One column more on the left."""
    return torch.nn.functional.pad(tensor, (1, 0), value=value)
