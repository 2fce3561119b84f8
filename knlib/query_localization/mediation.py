"""Does attention act through the neurons? Runs in which one of the two is held as it was (spec, 4.4)."""

import numpy as np
import pandas as pd

from ..controls import Pairs
from .intervals import Draws
from .measure import Change

DOSES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
# Below this mean |effect on log p| a share of it says nothing.
SMALLEST = 0.05


def mediation_changes(
    synapses: np.ndarray, sets: dict[str, Pairs], clean: dict[str, np.ndarray], changed: dict[str, np.ndarray]
) -> dict[str, Change]:
    """Runs that part the way through the neurons from all others, by name.

    `sets`: name -> neurons (`members`, and `matched`: others of like layer and activation); `clean`, `changed`: their values
    [sites, neurons] without and with the factors `synapses` [layers, heads, columns] on attention. `clamped <set>`: attention
    changed, the neurons at their clean values; `reverse <set>`: attention clean, the neurons at the values they had when it
    was changed.

    Example
    -------
    >>> list(mediation_changes(factors, {"members": pairs}, {"members": before}, {"members": after}))
    ['clamped members', 'reverse members']
    """
    found = {}
    for name, pairs in sets.items():
        found[f"clamped {name}"] = Change(synapses=synapses, neurons=pairs, values=clean[name])
        found[f"reverse {name}"] = Change(neurons=pairs, values=changed[name])
    return found


def mediated_share(rows: pd.DataFrame, draws: Draws) -> dict[str, dict]:
    """Shares of the synapses' effect on log p, from one row per fact with `free` (nothing held) and the four runs' columns.

    `members`, `matched`: 1 - mean(clamped) / mean(free), what is lost when these neurons cannot follow; `share`: the first less
    the second, what goes through the members in particular; `reverse members`, `reverse matched`: mean(reverse) / mean(free),
    what their values bring about alone. None where |mean(free)| < 0.05.

    Example
    -------
    >>> mediated_share(rows, draws)["share"]["estimate"]
    0.31
    """
    free, facts = rows["free"], rows["fact"]
    tops = {
        "members": free - rows["clamped members"], "matched": free - rows["clamped matched"],
        "share": rows["clamped matched"] - rows["clamped members"],
        "reverse members": rows["reverse members"], "reverse matched": rows["reverse matched"],
    }  # fmt: skip
    shares = {name: draws.ratio(top, free, facts) for name, top in tops.items()}
    effect = draws.mean(free, facts)
    if effect["estimate"] is None or abs(effect["estimate"]) < SMALLEST:
        undefined = dict.fromkeys(("estimate", "low", "high"))
        shares = {name: value | undefined for name, value in shares.items()}
    return {"free": effect} | shares
