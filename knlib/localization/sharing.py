"""Which languages share a neuron."""

import pandas as pd


def sharing(table: pd.DataFrame) -> pd.DataFrame:
    """One row per (fact, layer, neuron) of a neuron table: the languages in which it was found, and its kind.

    `found_in`: tuple of language codes, sorted. `kind`: `agnostic` (found with scope `all`), `specific` (found in one
    language alone), `partial` (in several, but not agnostic).

    Example
    -------
    >>> sharing(table)["kind"].value_counts()
    """
    keys = ["fact", "layer", "neuron"]
    found = table.groupby(keys, sort=False)["scope"].agg(lambda scopes: tuple(sorted(set(scopes)))).reset_index()
    agnostic = found["scope"].map(lambda scopes: "all" in scopes)
    found["found_in"] = found.pop("scope").map(lambda scopes: tuple(s for s in scopes if s != "all"))
    alone = found["found_in"].map(len) == 1
    found["kind"] = pd.Series("partial", index=found.index).mask(alone, "specific").mask(agnostic, "agnostic")
    return found
