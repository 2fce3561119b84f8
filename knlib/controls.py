"""Sets of neurons, and controls: sets that match one of interest in all but the claim that is tested."""

from collections.abc import Iterable
from zlib import crc32

import numpy as np
import pandas as pd

from .errors import InputError, Literal
from .models import Model

CONTROLS = ("random", "layer_matched", "activation_matched", "other_fact")
# An activation-matched neuron is drawn from this many of its layer with the most similar |activation|.
NEAREST = 20

Pairs = tuple[tuple[int, int], ...]


def neuron_pairs(model: Model, neurons: pd.DataFrame | Iterable[tuple[int, int]]) -> Pairs:
    """Distinct (layer, neuron) pairs, sorted, from a table with these columns or from pairs.

    Raises `InputError` for a pair that the model does not have.

    Example
    -------
    >>> neuron_pairs(model, [(3, 5), (0, 7), (3, 5)])
    ((0, 7), (3, 5))
    """
    if isinstance(neurons, pd.DataFrame):
        if not {"layer", "neuron"} <= set(neurons):
            raise InputError("neurons", found=list(neurons), expected="a table with columns layer and neuron")
        neurons = zip(neurons["layer"], neurons["neuron"], strict=True)
    pairs = tuple(sorted({(int(layer), int(neuron)) for layer, neuron in neurons}))
    for layer, neuron in pairs:
        if not (0 <= layer < model.n_layers and 0 <= neuron < model.n_neurons):
            raise InputError("neurons", found=(layer, neuron),
                             expected=f"layer below {model.n_layers}, neuron below {model.n_neurons}")  # fmt: skip
    return pairs


def generator(seed: int, *names: object) -> np.random.Generator:
    """A random generator that depends on the seed and names alone, not on the order of calls."""
    return np.random.default_rng([seed, *(crc32(str(name).encode()) for name in names)])


def random_neurons(pairs: Pairs, layers: int, neurons: int, draw: np.random.Generator) -> Pairs:
    """As many neurons, uniform over all that are not in `pairs`; a pair is (layer, neuron).

    Example
    -------
    >>> len(random_neurons(((0, 1), (2, 3)), 4, 16, generator(0)))
    2
    """
    taken = {layer * neurons + neuron for layer, neuron in pairs}
    free = np.setdiff1d(np.arange(layers * neurons), list(taken))
    if len(free) < len(pairs):
        raise InputError("controls", found=Literal(f"{len(pairs)} of {layers * neurons} neurons"),
                         expected="at most half of the model's neurons")  # fmt: skip
    chosen = draw.choice(free, len(pairs), replace=False)
    return tuple(sorted((int(c) // neurons, int(c) % neurons) for c in chosen))


def layer_matched(pairs: Pairs, neurons: int, draw: np.random.Generator) -> Pairs:
    """As many neurons in every layer, uniform over those that are not in `pairs`."""
    chosen = []
    for layer in sorted({layer for layer, _ in pairs}):
        own = [neuron for other, neuron in pairs if other == layer]
        chosen += [(layer, n) for _, n in random_neurons(tuple((0, n) for n in own), 1, neurons, draw)]
    return tuple(sorted(chosen))


def activation_matched(pairs: Pairs, activations: np.ndarray, draw: np.random.Generator) -> Pairs:
    """For every neuron another one of its layer with a similar |activation|; `activations` [layers, neurons]."""
    chosen: set[tuple[int, int]] = set()
    taken = set(pairs)
    for layer, neuron in sorted(pairs):
        size = np.abs(activations[layer])
        order = np.argsort(np.abs(size - size[neuron]), kind="stable").tolist()
        free = [n for n in order if (layer, n) not in chosen and (layer, n) not in taken]
        if not free:
            raise InputError("controls", found=Literal(f"too many neurons in layer {layer}"),
                             expected="at most half of a layer's")  # fmt: skip
        chosen.add((layer, int(draw.choice(free[:NEAREST]))))
    return tuple(sorted(chosen))
