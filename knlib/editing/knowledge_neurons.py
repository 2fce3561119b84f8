"""KN and CAS: a few of a fact's neurons turn from the old answer to the new one; what differs is which neurons.

Neurons are located by attribution; the edit is that of `knlib.editing.value_edit`.
"""

import pandas as pd
import torch

from ..attribution import attribute, query_hash
from ..errors import InputError, Literal
from ..localization import localize, with_entropy
from ..models import Model
from .changes import WeightChange, option_record
from .memory import once
from .neurons import value_changes
from .registry import register
from .rome import stored_part


@register("kn")
def kn(
    model: Model,
    requests: pd.DataFrame,
    *,
    locating: pd.DataFrame,
    facts: pd.DataFrame,
    m: int = 20,
    l1: float = 1.0,
    l2: float = 8.0,
) -> WeightChange:
    """Neurons that most phrasings of a language agree on, in any of the request's languages (Dai et al. 2022, arXiv 2104.08696).

    `locating`: queries of the edited facts in the requests' languages, of other templates; `facts`: with all objects of their
    relations; `m`: neurons of an edit, the best scores first. Their columns change by -l1 |v| e_old + l2 |v| e_new, e the
    mean of the requests' unit rows. Raises `InputError` for an edit without queries to locate with, and as `value_edit`.

    Example
    -------
    >>> with kn(model, requests, locating=edits.locating, facts=facts).applied(model):
    ...     found = predict(model, queries, facts)
    """
    table = _located(model, requests, locating, facts, "kn_share")
    return _changed("kn", model, requests, table[table["scope"] != "all"], {"m": m, "l1": l1, "l2": l2})


@register("cas")
def cas(
    model: Model,
    requests: pd.DataFrame,
    *,
    locating: pd.DataFrame,
    facts: pd.DataFrame,
    m: int = 20,
    l1: float = 1.0,
    l2: float = 8.0,
) -> WeightChange:
    """Neurons whose score is high on average and alike over phrasings and languages: mean less half a standard deviation.

    Consistency-aware editing (Chen et al. 2025, arXiv 2405.14117) with attribution in place of activation; arguments as in `kn`.

    Example
    -------
    >>> with cas(model, requests, locating=edits.locating, facts=facts).applied(model):
    ...     found = predict(model, queries, facts)
    """
    # Few neurons pass the localizer's own threshold: here the budget decides.
    table = _located(model, requests, locating, facts, "cas", t=1e-6)
    return _changed("cas", model, requests, table[table["scope"] == "all"], {"m": m, "l1": l1, "l2": l2})


def _located(
    model: Model, requests: pd.DataFrame, locating: pd.DataFrame, facts: pd.DataFrame, localizer: str, **options
):
    own = locating.merge(requests[["fact", "language"]].drop_duplicates(), on=["fact", "language"])
    for edit, fact in requests[["edit", "fact"]].drop_duplicates().itertuples(index=False):
        if fact not in set(own["fact"]):
            raise InputError(f"locating, edit {edit}", found=Literal(f"no query of {fact}"),
                             expected="some in the languages of its requests")  # fmt: skip
    own, found = once((model.hash, query_hash(own), id(facts)), lambda: _attributed(model, own, facts))
    gates = {"min_languages": 1, "min_families": 1, "resamples": 0}
    return localize(localizer, found, own, **gates, **options)


def _attributed(model: Model, queries: pd.DataFrame, facts: pd.DataFrame) -> tuple:
    queries = with_entropy(model, queries, facts)
    return queries, attribute(model, queries, batch=32)


def _changed(name: str, model: Model, requests: pd.DataFrame, neurons: pd.DataFrame, options: dict) -> WeightChange:
    parts, counts = [], {}
    best = neurons.sort_values("score", ascending=False, kind="stable").drop_duplicates(["fact", "layer", "neuron"])
    for edit, own in requests.groupby("edit", sort=False):
        chosen = best[best["fact"] == own["fact"].iloc[0]].head(options["m"])
        changes = value_changes(model, own, chosen, l1=options["l1"], l2=options["l2"])
        counts[edit] = len(changes)
        for layer in sorted({layer for layer, _ in changes}):
            inside = {neuron: change for (at, neuron), change in changes.items() if at == layer}
            keys = torch.zeros(model.n_neurons, len(inside))
            keys[list(inside), range(len(inside))] = 1
            outputs = torch.stack(list(inside.values()), dim=1)
            parts.append(stored_part(edit, layer, outputs, keys, outputs.dtype))
    return WeightChange(name, option_record(**options), model.name, model.hash, tuple(parts), {"neurons": counts})
