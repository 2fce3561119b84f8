"""Do synapses select the neurons that were planted? Their activations while the attention that a query looks at most is cut."""

import numpy as np
import pandas as pd

from ..controls import activation_matched, generator
from ..errors import InputError
from ..models import Model
from ..planting.signatures import serves
from ..query_localization.mapping import site_activations
from ..query_localization.measure import Change, asked, measure
from ..query_localization.synapse_controls import mass_matched
from ..query_localization.synapses import attention_columns, select_synapses
from .study import GroundStudy

KINDS = ("query", "agnostic")
COLUMNS = ["fact", "kind", "language", "served", "matched_attention", "matched_neurons", "others"]


def synapse_selection(study: GroundStudy, facts: list[str], *, seed: int = 0) -> pd.DataFrame:
    """How much of their activation planted neurons keep when a query's synapses are cut, one row per query.

    `served`: sum of |activation| of the neurons planted for this query, over the same with attention as it is. The same for controls:
    `matched_attention`, these neurons with as much other attention cut; `matched_neurons`, other neurons of like activation with
    the synapses cut; `others`: the fact's groups for other phrasings (NaN where it has none). Synapses: mode `norm`, alpha .3.
    Synapses select the neurons if `served` is below both controls. One language of each fact, all its phrasings.

    Raises `InputError` for a model whose attention cannot be opened, and for no fact.

    Example
    -------
    >>> synapse_selection(study, study.facts.query("kind == 'query'")["fact"].head(5))
    """
    if not len(facts):
        raise InputError("facts", found=list(facts), expected="at least one")
    kinds, found = study.facts.set_index("fact")["kind"], []
    groups = dict(tuple(study.truth.groups.groupby("fact")))
    for fact in facts:
        own = study.of([fact])
        for row in own[own["language"] == own["language"].iloc[0]].itertuples():
            served = _pairs(g for g in groups[fact].itertuples() if serves(g, row.language, row.name))
            others = _pairs(g for g in groups[fact].itertuples() if not serves(g, row.language, row.name))
            kept = _kept(study.model, row, served, others, seed)
            found.append({"fact": fact, "kind": kinds[fact], "language": row.language} | kept)
    return pd.DataFrame(found, columns=COLUMNS)


def _pairs(groups) -> tuple:
    return tuple(sorted({pair for group in groups for pair in group.neurons}))


def _kept(model: Model, row, served: tuple, others: tuple, seed: int) -> dict[str, float]:
    query, columns = asked(model, row), attention_columns(model, row)
    entries = select_synapses(columns)
    pool = ~np.broadcast_to(columns.sinks, entries.shape)
    control = mass_matched(entries, columns.mass, pool, generator(seed, row.query, "attention"))
    alike = activation_matched(served, site_activations(model, query), generator(seed, row.query, "neurons"))
    read = (*served, *alike, *others)
    changes = [Change(np.where(cut, 0.0, 1.0).astype(np.float32)) for cut in (np.zeros_like(entries), entries, control)]
    values = np.abs(measure(model, query, changes, read=read, answer=False).values).sum(1)  # [changes, neurons read]
    a, b = len(served), len(served) + len(alike)

    def share(change: int, part: slice) -> float:
        before = values[0, part].sum()
        return float(values[change, part].sum() / before) if before > 0 else np.nan

    return {"served": share(1, slice(0, a)), "matched_attention": share(2, slice(0, a)),
            "matched_neurons": share(1, slice(a, b)), "others": share(1, slice(b, None))}  # fmt: skip
