"""The 39 cells of the study as data: 13 experiments on three models.

The paper speaks of "39 sets of experiments"; their division is not public, this one is ours (spec, section 6).
"""

from dataclasses import dataclass

# The paper has three models; so have we. A slot takes any model.
SLOTS = {"G": "atlas-gpt2", "L": "atlas-llama", "B": "atlas-bert"}


@dataclass(frozen=True)
class Cell:
    """One of the 39: what is done (`experiment`, `options`) to which model (`slot`), from which other cells (`inputs`)."""

    id: str
    slot: str
    experiment: str
    options: dict
    inputs: tuple[str, ...] = ()


def _cells() -> dict[str, Cell]:
    """Spec, section 6: each experiment for G, L and B in turn; `A1`, `A4` and `A7` are the `ig` cells of the three."""
    plan = [
        ("A", "consistency", [{"method": "ig"}, {"method": "sig"}, {"method": "amig"}]),
        ("B", "modification", [{"edit": "erase"}, {"edit": "update"}]),
        ("C", "mapping", [{"factor": 0.0}, {"factor": 2.0}]),
        ("D", "synapse_effects", [{"factor": factor, "read": read} for factor in (0.0, 2.0) for read in ("value", "answer")]),
        ("E", "cas_editing", [{"edit": "erase"}, {"edit": "update"}]),
    ]  # fmt: skip
    cells, located_by = {}, dict(zip(SLOTS, ("A1", "A4", "A7"), strict=True))
    for letter, experiment, variants in plan:
        for number, (slot, options) in enumerate((slot, options) for slot in SLOTS for options in variants):
            name = f"{letter}{number + 1}"
            cells[name] = Cell(name, slot, experiment, options, () if letter == "A" else (located_by[slot],))
    return cells


CELLS = _cells()
