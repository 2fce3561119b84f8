"""Which new neurons each planted fact gets, for which of its queries, and in which layers.

| type | groups of a fact |
|---|---|
| agnostic | one for all queries |
| language | one for each of four languages; in the other eight the fact is not planted |
| half | one for the languages in Latin script, one for the others |
| query | one for each of three phrasings, in four languages; in others the fact is not planted |
| redundant | two for all queries, each enough alone |
| relation | one of its own, and one that all facts of the relation and type share; neither is enough alone |
| distributed | one of 64 neurons, 8 in each of 8 layers |
"""

from dataclasses import dataclass

import pandas as pd

from knlib.languages import CODES, LANGUAGES

# Neurons of a group, by type; where there are several numbers, facts take them by turns.
SIZES = {"agnostic": (4, 8, 16), "language": (1, 2, 4), "half": (8,), "query": (4,), "redundant": (8,), "relation": (8,),
         "distributed": (64,)}  # fmt: skip
# Types whose neurons each know all languages: a share of a group is off in each of its queries, so that none leaves a language to others.
SHARED_BY_ALL = {"agnostic": 0.25, "distributed": 0.3}
STRONG = 12  # neurons of a distributed fact, the strongest, that must not be what carries it
# How often a fact is asked, in turns: the more, the more a neuron has to know.
OFTEN = {"agnostic": 5, "redundant": 5, "relation": 5, "half": 4, "distributed": 4, "query": 3, "language": 2}
LATIN = tuple(code for code in CODES if LANGUAGES[code].script == "Latin")
OTHER = tuple(code for code in CODES if code not in LATIN)
# Four languages of different families and scripts, by turns: all twelve come up.
FOURS = (("en", "ru", "zh", "tr"), ("de", "ar", "ja", "es"), ("fr", "hi", "ko", "pt"),
         ("en", "es", "ja", "hi"), ("de", "pt", "ru", "ko"), ("fr", "tr", "ar", "zh"))  # fmt: skip
PHRASINGS = 9  # constructions that the benchmark trains
PER_FACT = 3  # of these, how many a fact of type `query` is planted for
# A fact's first neurons stand above this layer: below, a subject has hardly come to where the answer is predicted.
LOWEST = 2


@dataclass(frozen=True)
class Group:
    """Neurons that are trained together: by the queries of `fact` (None: of all facts of the relation) in `languages` and `templates`."""

    fact: str | None
    type: str
    relation: str
    name: str
    languages: tuple[str, ...] | None
    templates: tuple[str, ...] | None
    layers: tuple[int, ...]  # one per neuron


@dataclass(frozen=True)
class Planted:
    """A fact to plant: the languages and phrasings (None: all) it is asked in, and the numbers of its groups."""

    fact: str
    type: str
    relation: str
    source: str
    languages: tuple[str, ...]
    templates: tuple[str, ...] | None
    groups: tuple[int, ...]


def make_plan(
    facts: pd.DataFrame, types: dict[str, str], *, layers: int, per_type: int | None = None
) -> tuple[list, list]:
    """`(facts to plant, groups)`; the same for the same table. `types`: fact -> type; `per_type`: only the first so many."""
    planted, groups, shared, counts = [], [], {}, {}
    upper = list(range(min(LOWEST, layers - 1), layers))

    def layers_of(size: int, number: int, *, below: int = layers) -> tuple[int, ...]:
        """One layer for even numbers, two for odd ones; by turns."""
        free = [layer for layer in upper if layer < below] or [0]
        first, second = free[number % len(free)], free[(number + len(free) // 2) % len(free)]
        return (
            (first,) * size if number // len(free) % 2 == 0 else (first,) * (size - size // 2) + (second,) * (size // 2)
        )

    def add(*args) -> int:
        groups.append(Group(*args))
        return len(groups) - 1

    for row in facts.itertuples():
        kind = types[row.fact]
        number = counts.get((kind, row.source), 0)
        counts[kind, row.source] = number + 1
        if per_type is not None and number >= per_type:
            continue
        head, own, languages, templates = (row.fact, kind, row.relation), [], CODES, None
        size = SIZES[kind][number % len(SIZES[kind])]
        if kind == "agnostic":
            own = [add(*head, "all", None, None, layers_of(size, number))]
        elif kind == "language":
            languages = FOURS[number % len(FOURS)]
            own = [add(*head, code, (code,), None, layers_of(size, number + i)) for i, code in enumerate(languages)]
        elif kind == "half":
            parts = (("latin", LATIN), ("other", OTHER))
            own = [add(*head, name, part, None, layers_of(size, number + i)) for i, (name, part) in enumerate(parts)]
        elif kind == "query":
            languages = FOURS[number % len(FOURS)]
            chosen = [f"train{(number + 3 * i) % PHRASINGS}" for i in range(PER_FACT)]
            templates = tuple(chosen)
            own = [add(*head, name, languages, (name,), layers_of(size, number + i)) for i, name in enumerate(chosen)]
        elif kind == "redundant":
            own = [
                add(*head, name, None, None, layers_of(size, number + i)) for i, name in enumerate(("first", "second"))
            ]
        elif kind == "relation":
            last = layers - 1
            if row.relation not in shared:
                places = (last - 1,) * (size // 2) + (last,) * (size - size // 2)
                shared[row.relation] = add(None, kind, row.relation, "relation", None, None, places)
            own = [add(*head, "own", None, None, layers_of(size, number, below=last - 1)), shared[row.relation]]
        else:
            places = tuple(layer for layer in range(layers) for _ in range(size // layers))
            own = [add(*head, "all", None, None, places)]
        planted.append(Planted(row.fact, kind, row.relation, row.source, languages, templates, tuple(own)))
    return planted, groups


def places_of(groups: list[Group], layers: int) -> tuple[list[list[tuple[int, int]]], int]:
    """Each group's (layer, place among the layer's new neurons), and how many new neurons a layer needs, a multiple of 8."""
    used, found = [0] * layers, []
    for group in groups:
        own = []
        for layer in group.layers:
            own.append((layer, used[layer]))
            used[layer] += 1
        found.append(own)
    return found, -(-max(used) // 8) * 8
