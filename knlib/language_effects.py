"""Neurons located in one language, suppressed while the model answers in another: languages x languages."""

from collections.abc import Sequence

import pandas as pd

from .effects import effects
from .errors import InputError
from .languages import script_of
from .models import Model

# How far the language that is asked lies from the one that located.
DISTANCES = ("same language", "same script", "other script", "left out")
# The source of neurons that were located in all languages but the one asked (and its relatives).
WITHOUT = "without it"
CONTROL = "layer_matched"


def language_effects(
    model: Model,
    neurons: pd.DataFrame,
    held_out: pd.DataFrame,
    *,
    without: pd.DataFrame | None = None,
    factor: float = 0.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Every held-out query under the neurons that its fact has in every language, and under layer-matched random ones.

    `neurons`: `fact`, `scope` (the language that located them), `layer`, `neuron`; rows of scope `all` are passed over, and so
    are facts and languages without neurons. `without`: neurons by `fact` and `language`, located without that language
    (`knlib.left_out_effects.left_out_neurons`): a further source, `WITHOUT`.

    Returns a row per query, source and condition (`neurons`, `layer_matched`): the columns of `knlib.effects.effects`, and
    `fact`, `relation`, `source`, `language` (asked), `distance` (`DISTANCES`). Random neurons are drawn anew for every
    query and source.

    Raises `InputError` where no fact of the queries has neurons.

    Example
    -------
    >>> table = language_effects(model, neurons, held_out)
    >>> effect_matrix(table).loc["en", "ja"]
    """
    own = neurons.loc[neurons["scope"] != "all", ["fact", "scope", "layer", "neuron"]]
    # Neurons of a fact in one language are the same whatever language is asked, those located without it are not.
    own = own.rename(columns={"scope": "source"}).assign(target=own["scope"])
    asked = own[["fact", "source", "target"]].drop_duplicates().merge(held_out, on="fact")
    if without is not None:
        rest = without[["fact", "language", "layer", "neuron"]].rename(columns={"language": "target"})
        rest = rest.assign(source=WITHOUT)
        for_all = rest[["fact", "source", "target"]].drop_duplicates()
        more = for_all.merge(held_out, left_on=["fact", "target"], right_on=["fact", "language"])
        own, asked = pd.concat([own, rest]), pd.concat([asked, more])
    if asked.empty:
        raise InputError("neurons", found=sorted(set(own["fact"]))[:3], expected="neurons of the facts that are asked")
    asked = asked.assign(query=asked["source"] + ">" + asked["query"])
    by = ("fact", "source", "target")
    found = effects(model, asked, own, factor=factor, controls=(CONTROL,), match=by, seed=seed)
    found = found.merge(asked[["query", "fact", "relation", "source", "language"]], on="query", validate="many_to_one")
    return found.assign(distance=[_distance(a, b) for a, b in zip(found["source"], found["language"], strict=True)])


def _distance(source: str, asked: str) -> str:
    if source == WITHOUT:
        return DISTANCES[3]
    if source == asked:
        return DISTANCES[0]
    return DISTANCES[1] if script_of(source) == script_of(asked) else DISTANCES[2]


def effect_matrix(table: pd.DataFrame, languages: Sequence[str]) -> pd.DataFrame:
    """Change of P(answer) beyond the control's, over P before: a ratio of means, by source (rows) and language asked.

    -1: the neurons take all probability, the control none; 0: no more than the control. A last row `WITHOUT` where the
    table has it; NaN where nothing was asked.

    Example
    -------
    >>> effect_matrix(table, ("en", "ja")).loc["en", "ja"]
    -0.12
    """
    sums = table.pivot_table(index=["source", "language"], columns="condition", values=["p_before", "p_after"],
                             aggfunc="sum")  # fmt: skip
    before = sums["p_before", "neurons"]
    matrix = ((sums["p_after", "neurons"] - sums["p_after", CONTROL]) / before.where(before > 0)).unstack()
    rows = [*languages, WITHOUT] if WITHOUT in matrix.index else list(languages)
    return matrix.reindex(index=rows, columns=list(languages))
