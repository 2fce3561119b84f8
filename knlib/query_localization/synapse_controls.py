"""Sets of attention entries to compare synapses with (spec, 4.3): alike in all but what makes them synapses."""

import numpy as np

from .synapses import Columns, best


def random_columns(own: np.ndarray, pool: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """As many other columns of the same heads, uniform; where a head has too few, of other heads of its layer.

    `own`, `pool`: bool [layers, heads, columns]; only entries of the pool outside `own` are drawn. Fewer where a layer has no
    more of them.

    Example
    -------
    >>> random_columns(synapses, ~np.broadcast_to(columns.sinks, synapses.shape), generator(0)).sum(2)
    """
    chosen, free = np.zeros_like(own), pool & ~own
    for layer in range(len(own)):
        for head in range(own.shape[1]):
            some = np.flatnonzero(free[layer, head])
            chosen[layer, head, draw.permutation(some)[: own[layer, head].sum()]] = True
        lacking = own[layer].sum() - chosen[layer].sum()
        rest = np.flatnonzero(free[layer] & ~chosen[layer])
        chosen[layer].reshape(-1)[draw.permutation(rest)[:lacking]] = True
    return chosen


def mass_matched(own: np.ndarray, mass: np.ndarray, pool: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Other entries that together hold as much attention as `own`, layer by layer, drawn in proportion to their mass.

    Synapses are chosen for their mass, so as many others hold less: these are as many as it takes. What a layer lacks is taken
    from the other layers. `mass` [layers, heads, columns] as in `Columns`.
    """
    chosen, free, lacking = np.zeros_like(own), pool & ~own & (mass > 0), 0.0
    for layer in range(len(own)):
        target = mass[layer][own[layer]].sum()
        chosen[layer] = _up_to(target, mass[layer], free[layer], draw)
        if chosen[layer].sum() == free[layer].sum():
            lacking += max(0.0, target - mass[layer][chosen[layer]].sum())
    return chosen | _up_to(lacking, mass, free & ~chosen, draw)


def _up_to(target: float, mass: np.ndarray, free: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Entries drawn one after the other until their sum is as near to the target as it gets."""
    places = np.flatnonzero(free)
    # The order in which weighted draws without replacement come.
    order = places[np.argsort(draw.exponential(size=len(places)) / mass.reshape(-1)[places], kind="stable")]
    sums = np.concatenate([[0.0], mass.reshape(-1)[order].cumsum()])
    chosen = np.zeros(mass.size, bool)
    chosen[order[: int(np.abs(sums - target).argmin())]] = True
    return chosen.reshape(mass.shape)


def of_columns(own: np.ndarray, columns: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """As many entries in every layer, drawn from the given columns (bool [columns]) of all its heads; all where these are fewer.

    They may be synapses: this asks what the columns do, not what else there is.
    """
    chosen = np.zeros_like(own)
    for layer in range(len(own)):
        places = np.flatnonzero(np.broadcast_to(columns, own.shape[1:]))
        chosen[layer].reshape(-1)[draw.permutation(places)[: own[layer].sum()]] = True
    return chosen


def of_another(own: np.ndarray, other: Columns, mode: str) -> np.ndarray:
    """As many synapses of another query, its strongest by the rule of `mode`; its columns must mean the same."""
    return best(other.mass if mode == "paper" else np.where(other.sinks, 0, other.norm), int(own.sum()))
