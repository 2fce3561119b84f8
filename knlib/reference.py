"""Attribution's plain reference: one prompt and one layer at a time, whole forward passes, one hook.

Slow and obviously right. It serves architectures that the fast path does not know, models spread over several
devices, and the tests.
"""

import numpy as np
import torch

from .models import Model
from .sites import Site, answer_values, neuron_vectors, uncached


class PathBatch:
    """Some sites, and straight paths of one layer's neurons that end at a site's own, or where `set_paths` is told.

    `neurons` [sites, layers, neurons] is what the model computes; `owner[p]` the site of path p; `begin` [paths, layers,
    neurons] where the path starts, `end` where it ends (None: at the site's own). `layers` are the layers asked about, and
    requests count within them: k is layer `layers[k]`. `log_values` [sites] is the objective (its logarithm
    for `prob`) of the model as it is.

    Subclasses answer `measure`, `ablate`, `difference`, `project`.
    """

    def __init__(self, model: Model, sites: list[Site], layers: list[int], objective: str):
        self.model, self.sites, self.layers, self.objective = model, sites, layers, objective
        self.neurons: torch.Tensor
        self.log_values: np.ndarray

    def set_paths(self, owner: list[int], begin: torch.Tensor | None, end: torch.Tensor | None = None) -> None:
        """Which site each path belongs to, where it starts (None: at zero) and ends (None: at the site's own neurons)."""
        self.owner = torch.tensor(owner, device=self.neurons.device)
        self.end = end
        self.begin = torch.zeros_like(self.neurons[self.owner]) if begin is None else begin

    def difference_neurons(self, layer: int) -> torch.Tensor:
        """End minus start of every path, [paths, neurons]."""
        return self.end_neurons(layer) - self.begin[:, layer]

    def end_neurons(self, layer: int) -> torch.Tensor:
        """End of every path, [paths, neurons]."""
        return self.neurons[self.owner, layer] if self.end is None else self.end[:, layer]


class ReferenceBatch(PathBatch):
    """The paths of some sites, measured with whole forward passes."""

    path = "reference"

    def __init__(self, model: Model, sites: list[Site], layers: list[int], objective: str, rows: int = 64):
        super().__init__(model, sites, layers, objective)
        self.rows = rows
        # Unpadded, one by one: nothing to get wrong.
        vectors = [neuron_vectors(model, [site.ids], [site.position]) for site in sites]
        self.neurons = torch.cat(vectors)[:, layers]
        self.log_values = np.array([self.replaced(s, 0, self.neurons[s, :1], False)[0][0] for s in range(len(sites))])
        self.set_paths(list(range(len(sites))), None)

    def replaced(self, site: int, layer: int, vectors: torch.Tensor, gradient: bool):
        """Log-values [n] (numpy) and their gradients [n, neurons] where the neurons are `vectors` [n, neurons]."""
        where = self.sites[site]
        projection = self.model.down_projections[self.layers[layer]]
        values, gradients = [], []
        for part in vectors.split(self.rows):
            part = part.detach().clone().requires_grad_(gradient)
            ids = torch.tensor([where.ids] * len(part), device=self.model.device)

            def inject(module, inputs, part=part, shape=ids.shape):
                hidden = inputs[0].reshape(*shape, -1).clone()
                hidden[:, where.position] = part.to(hidden)
                return (hidden.reshape(inputs[0].shape), *inputs[1:])

            handle = projection.register_forward_pre_hook(inject)
            try:
                with torch.set_grad_enabled(gradient):
                    mask = torch.ones_like(ids)
                    logits = self.model.network(input_ids=ids, attention_mask=mask, **uncached(self.model)).logits
                    rows = torch.full((len(part),), site)
                    found = answer_values(logits[:, where.position], self.sites, rows, self.objective)
                    if gradient:
                        gradients.append(torch.autograd.grad(found.sum(), part)[0])
            finally:
                handle.remove()
            values.append(found.detach().cpu().double().numpy())
        return np.concatenate(values), torch.cat(gradients) if gradient else None

    def measure(self, path: np.ndarray, layer: np.ndarray, alpha: np.ndarray):
        """Log-values [m] and their gradients [m, neurons] at points alpha of the paths, each in one layer."""
        values = np.empty(len(path))
        gradients = self.neurons.new_empty(len(path), self.neurons.shape[-1])
        for p, k in sorted(set(zip(path.tolist(), layer.tolist(), strict=True))):
            own = np.flatnonzero((path == p) & (layer == k))
            start = self.begin[p, k]
            steps = torch.as_tensor(alpha[own], dtype=start.dtype, device=start.device)[:, None]
            points = start + steps * (self.end_neurons(k)[p] - start)
            values[own], gradients[torch.as_tensor(own)] = self.replaced(int(self.owner[p]), k, points, True)
        return values, gradients

    def ablate(self, site: int, layer: int, begin: torch.Tensor) -> np.ndarray:
        """Log-values [neurons] where one neuron at a time is set to its value in `begin` [neurons]."""
        clean = self.neurons[site, layer]
        rows = clean.repeat(len(clean), 1)
        rows.diagonal().copy_(begin)
        return self.replaced(site, layer, rows, False)[0]

    def difference(self, layer: int) -> torch.Tensor:
        """End minus start of every path, in the space of `measure`'s gradients, [paths, neurons]."""
        return self.difference_neurons(layer)

    def project(self, layer: int, gradient: torch.Tensor) -> torch.Tensor:
        """Gradients of `measure`'s space as gradients of neurons."""
        return gradient
