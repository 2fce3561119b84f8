"""What sharing would look like by chance: random neurons of the same layers, and other facts in every language's place."""

import numpy as np
import pandas as pd

from .controls import generator
from .errors import InputError, Literal


def redrawn(table: pd.DataFrame, n_neurons: int, *, seed: int = 0) -> pd.DataFrame:
    """The table with other neurons: every (fact, scope) set keeps its size in every layer, its neurons are drawn at random.

    What random sets of the same sizes and layers share. `n_neurons`: per layer. Columns `fact`, `scope`, `layer`, `neuron`.
    Raises `InputError` where a layer has fewer neurons than a set.

    Example
    -------
    >>> pair_overlaps(redrawn(table, model.n_neurons), facts, languages)["same"].mean()
    """
    found = table[["fact", "scope", "layer", "neuron"]].copy()
    drawn = np.empty(len(found), dtype=int)
    place = pd.Series(np.arange(len(found)), index=found.index)
    for (fact, scope, layer), rows in place.groupby([found["fact"], found["scope"], found["layer"]], sort=False):
        if len(rows) > n_neurons:
            raise InputError(
                "n_neurons", found=n_neurons, expected=f"at least {len(rows)}, as {fact} has in layer {layer}"
            )
        draw = generator(seed, fact, scope, layer)
        drawn[rows.to_numpy()] = draw.choice(n_neurons, len(rows), replace=False)
    return found.assign(neuron=drawn)


def mixed_facts(queries: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """The queries with every language's facts exchanged within their relation: a "fact" is another one in each language.

    Localized again from the same attributions, what is still shared belongs to the relation or to the languages, not to a
    fact. The order of a relation's facts is drawn for every language apart, so two languages keep the same fact with
    probability 1 / (facts of the relation): the chance level errs upwards, the less the more facts. Relations
    with a single fact are left out. Raises `InputError` where no relation has two.

    Example
    -------
    >>> mixed = localize("re_lcb", attributions, mixed_facts(queries))
    """
    facts = queries.groupby("relation")["fact"].transform("nunique")
    kept = queries[facts > 1]
    if kept.empty:
        raise InputError("queries", found=Literal("no relation with two facts"), expected="facts to exchange")
    names = pd.Series(index=kept.index, dtype=object)
    for (relation, language), rows in kept.groupby(["relation", "language"], sort=False):
        # Not the facts of this language alone: one that it lacks leaves its place to another.
        order = sorted(kept.loc[kept["relation"] == relation, "fact"].unique())
        partner = dict(zip(order, generator(seed, relation, language).permutation(order), strict=True))
        names.loc[rows.index] = rows["fact"].map(partner)
    return kept.assign(fact=names.astype(str))
