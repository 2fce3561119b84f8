"""Spread knowledge over the layers of a causal model while it trains.

Left alone, a small model recalls every fact in the first FFN, where the answer is predicted. So for a share of the
facts the FFN of one layer is mean-replaced at just that position, mostly of the layer that matters most at the time:
what the layer effects of the card measure, turned into training. That alone drives recall to the subject's tokens,
whence attention fetches it; so in another share of the sentences all FFNs are mean-replaced wherever no answer is
predicted.
"""

from contextlib import contextmanager

import torch

from .architectures import down_projections
from .batches import Batch

EVERY, FIRST = 40, 100  # steps between two measurements of the layers, and before the first one
MEMORY = 0.7  # weight of the earlier measurements
FOCUS = 2.0  # a layer is chosen in proportion to its share to this power


class Spread:
    """Mean-replaces FFNs in training: one layer where an answer is predicted, or all of them everywhere else.

    The first happens to a share `rate` of the facts that a batch asks for, the second to a share `elsewhere` of its
    sentences with a fact. `shares` [layers] is a running estimate of how much of the loss each FFN keeps down where
    answers are predicted.
    """

    def __init__(self, model, *, rate: float, elsewhere: float = 0.0):
        self.rate, self.elsewhere, self._replace, self._quiet = rate, elsewhere, {}, None
        projections = down_projections(model)
        self.shares = torch.full((len(projections),), 1 / len(projections))
        self._effects = torch.zeros(len(projections))
        for layer, projection in enumerate(projections):
            projection.register_forward_hook(self._hook(layer))

    def _hook(self, layer: int):
        def replace(module, inputs, output):
            if self._quiet is not None:
                output = torch.where(self._quiet[:, :, None], output[self._quiet].mean(0).detach(), output)
            if layer in self._replace:
                (rows, columns), chosen = self._replace[layer]
                mean = output[rows, columns].mean(0).detach()
                output = output.clone()
                output[rows[chosen], columns[chosen]] = mean
            return output

        return replace

    @contextmanager
    def replacing(self, batch: Batch):
        """Draws layers and sentences for the batch (from torch's generator) and replaces their FFNs within."""
        places = batch.rows[batch.recall], batch.columns[batch.recall]
        count = len(places[0])
        if count > 1:
            layers = torch.multinomial(self.shares**FOCUS, count, replacement=True)
            layers[torch.rand(count) >= self.rate] = -1
            self._replace = {int(layer): (places, layers == layer) for layer in layers.unique() if layer >= 0}
            self._quiet = self._silent(batch)
        try:
            yield
        finally:
            self._replace, self._quiet = {}, None

    def _silent(self, batch: Batch) -> torch.Tensor | None:
        """Where no answer is predicted in the drawn sentences, [sentences, tokens]; the first token is left alone."""
        if not self.elsewhere:
            return None
        facts = torch.zeros(len(batch.ids), dtype=torch.bool, device=batch.ids.device)
        facts[batch.rows[batch.recall]] = True
        facts &= (torch.rand(len(facts)) < self.elsewhere).to(facts.device)
        silent = facts[:, None] & batch.attention.bool()
        answers = batch.weights == 1.0
        silent[batch.rows[answers], batch.columns[answers]] = False
        silent[:, 0] = False
        return silent if silent.any() else None

    @torch.no_grad()
    def measure(self, batch: Batch, losses) -> None:
        """Update `shares`; `losses(batch)` gives the loss of every scored token."""
        places = batch.rows[batch.recall], batch.columns[batch.recall]
        if len(places[0]) < 2:
            return
        everywhere = torch.ones_like(places[0], dtype=torch.bool)
        clean = losses(batch)[batch.recall].mean()
        for layer in range(len(self.shares)):
            self._replace = {layer: (places, everywhere)}
            effect = (losses(batch)[batch.recall].mean() - clean).clamp(min=0).item() + 1e-3
            self._effects[layer] = MEMORY * self._effects[layer] + (1 - MEMORY) * effect
        self._replace = {}
        self.shares = self._effects / self._effects.sum()

    def state(self) -> torch.Tensor:
        return self._effects.clone()

    def load(self, state: torch.Tensor) -> None:
        self._effects = state.clone()
        if state.sum() > 0:
            self.shares = self._effects / self._effects.sum()
