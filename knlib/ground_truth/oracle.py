"""What single neurons do to an answer, exactly, for all of them; and what pairs of the strongest do beyond their sum.

True of effects, not of storage: of two neurons that are each enough, neither has an effect alone.
"""

from itertools import combinations

import numpy as np
import pandas as pd
import xarray as xr

from ..attribution import attribute
from ..errors import InputError, Literal
from ..models import Model
from ..planting import answer_scores


def ablation_oracle(model: Model, queries: pd.DataFrame, *, baseline="zero", **options) -> xr.Dataset:
    """What each neuron alone adds to the answer, exactly: `prob` and `logprob`, both [query, layer, neuron].

    P (log P) of the answer less the same with this one neuron at its baseline where the answer is predicted, mean over the answer's
    tokens; natural logarithm. One suffix row per neuron, in a masked model a whole row. `baseline`, `options` (`layers`, `sites`,
    `batch`, ...): of `attribute`, whose method `ablation` this is, with both objectives. Errors as `attribute`.

    Example
    -------
    >>> found = ablation_oracle(model, queries.head(1))
    >>> found["prob"].argmax(...)
    """
    found = {
        objective: attribute(
            model, queries, method="ablation", objective=objective, baseline=baseline, **options
        ).scores
        for objective in ("prob", "logprob")
    }
    return xr.Dataset(found)


def pair_interactions(model: Model, queries: pd.DataFrame, scores: xr.DataArray, *, top: int = 30) -> pd.DataFrame:
    """What two of a query's `top` neurons do together beyond the sum of what each does alone, for every pair.

    `scores` [query, layer, neuron] say which are the top ones (the largest). Neurons are set to zero where the answer is predicted.
    Columns: `query`, `layer_a`, `neuron_a`, `layer_b`, `neuron_b`; the drop of P of the whole answer without a, without b, without both, `prob_a`,
    `prob_b`, `prob_both`, and `prob_interaction` = both - a - b; and the same of log P. Redundant neurons interact positively: each
    alone does little, both together do much. Exact: one row per query and set.

    Raises `InputError` for fewer than two neurons.

    Example
    -------
    >>> pairs = pair_interactions(model, queries, ablation_oracle(model, queries)["prob"])
    >>> pairs.nlargest(5, "logprob_interaction")
    """
    if not 2 <= top <= scores[0].size:
        raise InputError("top", found=top, expected=Literal(f"2 to {scores[0].size} neurons"))
    rows, asked, conditions = [], {}, {}

    def number(query: int, dead: tuple) -> int:
        condition = conditions.setdefault(dead, len(conditions))
        return asked.setdefault((query, condition), len(asked))

    for q, name in enumerate(queries["query"]):
        own = scores.sel(query=name).values
        order = np.argsort(-own, axis=None, kind="stable")[:top]
        best = [(int(i) // own.shape[1], int(i) % own.shape[1]) for i in order]
        for a, b in combinations(best, 2):
            places = [number(q, dead) for dead in ((), (a,), (b,), tuple(sorted((a, b))))]
            rows.append((name, *a, *b, *places))
    log_p = answer_scores(model, queries.reset_index(drop=True), list(asked), list(conditions))
    columns = ["query", "layer_a", "neuron_a", "layer_b", "neuron_b"]
    table = pd.DataFrame(rows, columns=[*columns, "clean", "a", "b", "both"])
    found = table[columns].copy()
    for kind, values in (("prob", np.exp(log_p)), ("logprob", log_p)):
        drop = {name: values[table["clean"]] - values[table[name]] for name in ("a", "b", "both")}
        found = found.assign(**{f"{kind}_{name}": value for name, value in drop.items()})
        found[f"{kind}_interaction"] = drop["both"] - drop["a"] - drop["b"]
    return found
