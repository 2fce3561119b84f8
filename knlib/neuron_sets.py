"""Compare the neuron sets that methods return: how large they are, how much they share, in which layers they lie."""

import numpy as np
import pandas as pd


def neuron_sets(table: pd.DataFrame, by: list[str]) -> dict[tuple, set[tuple[int, int]]]:
    """The (layer, neuron) pairs of every group of a neuron table.

    Example
    -------
    >>> neuron_sets(table, ["fact"])[("capital:FR",)]
    {(5, 301), (6, 12)}
    """
    return {key: set(zip(group["layer"], group["neuron"], strict=True)) for key, group in table.groupby(by, sort=False)}


def set_sizes(table: pd.DataFrame, keys: pd.DataFrame) -> list[int]:
    """How many neurons every row of `keys` (such as the distinct facts and languages asked) has; 0 where none was found.

    Example
    -------
    >>> set_sizes(table, queries[["fact", "language"]].drop_duplicates())
    [4, 0, 3]
    """
    found = neuron_sets(table, list(keys.columns))
    return [len(found.get(key, ())) for key in keys.itertuples(index=False, name=None)]


def overlap(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Methods x methods: Jaccard index of a fact's neurons (languages united), mean over facts.

    `tables`: name -> neuron table (`fact`, `layer`, `neuron`). Facts for which both sets are empty do not count; NaN where
    no fact is left.

    Example
    -------
    >>> overlap({"kn": kn, "amig": amig}).loc["kn", "amig"]
    0.25
    """
    sets = {name: neuron_sets(table, ["fact"]) for name, table in tables.items()}

    def index(a: str, b: str) -> float:
        values = []
        for fact in dict.fromkeys([*sets[a], *sets[b]]):
            one, other = sets[a].get(fact, set()), sets[b].get(fact, set())
            values.append(len(one & other) / len(one | other))
        return float(np.mean(values)) if values else np.nan

    return pd.DataFrame({b: {a: index(a, b) for a in sets} for b in sets})


def layer_shares(tables: dict[str, pd.DataFrame], layers: int) -> pd.DataFrame:
    """Layers x methods: share of a method's neurons in each layer (all 0 where it has none)."""
    shares = {name: table["layer"].value_counts(normalize=True) for name, table in tables.items()}
    return pd.DataFrame(shares).reindex(range(layers)).fillna(0.0)
