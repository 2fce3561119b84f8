"""All sets of attention entries that a query is tried with, by name: its synapses, and what they are compared with."""

from dataclasses import dataclass, field

import numpy as np

from ..controls import generator
from ..models import Model
from .measure import Change
from .mediation import DOSES
from .synapse_controls import mass_matched, of_another, of_columns, random_columns
from .synapses import Columns, select_synapses

CONTROLS = ("random", "mass_matched", "other_fact", "sinks", "subject", "relation")
# A control whose mass is off by more than this share of the synapses' is none.
TOLERANCE = 0.1


@dataclass(frozen=True, eq=False)
class Condition:
    """Entries of attention to change, by which rule they came about, and how; `n` entries hold `mass` of all attention."""

    mode: str
    alpha: float
    operator: str
    factor: float
    set: str
    entries: np.ndarray = field(repr=False)

    def change(self) -> Change:
        return Change(np.where(self.entries, self.factor, 1.0).astype(np.float32), self.operator)


def conditions(
    model: Model, own: Columns, other: Columns | None, factor: float, options: dict, *, doses: bool, key: str
) -> list[Condition]:
    """All sets of entries that a query is tried with.

    The synapses (`self`) of mode `norm` at `alpha`, with all `CONTROLS`, and renormalised, in a masked model also without the
    answer's columns (`self_without_masks`: they hold the sites); of modes `paper` and `budget`, and where they are suppressed of
    `norm` at the other `alphas`, with fewer. `doses`: all factors of `DOSES`. `other`: a query of another fact whose columns align
    (None: no set `other_fact`). Draws depend on the seed and `key` alone.
    """
    found = []

    def add(mode, alpha, names, operator="plain", factors=(factor,)):
        for name, entries in _sets(own, other, mode, alpha, names, (options["seed"], key)).items():
            found.extend(Condition(mode, alpha, operator, f, name, entries) for f in factors)

    main, few = options["alpha"], ("self", "mass_matched")
    add("norm", main, ("self", *CONTROLS, *(("self_without_masks",) if model.kind == "masked" else ())))
    add("norm", main, few, operator="renormalised")
    add("paper", main, (*few, "other_fact"))
    add("budget", main, few)
    for alpha in options["alphas"] if factor == 0 else ():
        add("norm", alpha, few)
    if doses:
        add("norm", main, few, factors=[dose for dose in DOSES if dose != factor])
    return found


def _sets(own: Columns, other: Columns | None, mode: str, alpha: float, names, key: tuple) -> dict[str, np.ndarray]:
    synapses = select_synapses(own, mode=mode, alpha=alpha)
    # Mode `paper` takes sinks for synapses: its controls may, too.
    pool = np.ones_like(synapses) if mode == "paper" else np.broadcast_to(~own.sinks, synapses.shape)
    found = {}
    for name in names:
        draw = generator(*key, mode, alpha, name)
        if name == "self":
            found[name] = synapses
        elif name == "self_without_masks":
            found[name] = synapses & (own.kinds != "answer")
        elif name == "random":
            found[name] = random_columns(synapses, pool, draw)
        elif name == "mass_matched":
            entries = mass_matched(synapses, own.mass, pool, draw)
            wanted = own.mass[synapses].sum()
            if abs(own.mass[entries].sum() - wanted) <= TOLERANCE * wanted:
                found[name] = entries
        elif name != "other_fact":
            columns = own.sinks if name == "sinks" else own.kinds == name
            found[name] = of_columns(synapses, columns, draw)
        elif other is not None:
            found[name] = of_another(synapses, other, mode)
    return found
