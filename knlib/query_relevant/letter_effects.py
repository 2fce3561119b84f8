"""What changing a question's neurons at the last position does to letters: its own, and those of other questions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..controls import Pairs, neuron_pairs
from ..edited_rows import EditedRow, edited_log_probabilities
from ..errors import InputError, Literal
from ..models import Model
from ..sites import Site, make_sites
from .letters import with_letter_sets
from .questions import KEY

# Enhance and suppress.
FACTORS = (2.0, 0.0)
# Doses of section 4; 1 is the model as it is.
DOSES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)


def letter_effects(
    model: Model,
    prompts: pd.DataFrame,
    tried: pd.DataFrame,
    neurons: pd.DataFrame,
    *,
    factors: Sequence[float] = FACTORS,
) -> pd.DataFrame:
    """P(right letter) before and after a question's neurons are multiplied by each factor, on every prompt of `tried`.

    Neurons are changed at the last position (a masked model: at its mask), as in the code of Chen et al. (2025, arXiv
    2406.10868). All conditions of a prompt share one pass over its other tokens, where the model allows; else whole rows run.

    - `prompts`: columns `query`, `prompt`, `answer`: the prompts that `tried` names.
    - `tried`: of `trials`: columns `fact`, `language`, `query`, and any others, which are kept.
    - `neurons`: columns `fact`, `language`, `layer`, `neuron`; with a column `condition` (a localizer, a control) several
      tables go in one pass (categories without rows found no neurons).

    Returns one row per trial, condition and factor: the columns of `tried`, `question` (fact and language), `condition` (empty
    without that column), `factor`, `n` (neurons changed), `before`, `after` (P, over the full vocabulary), `right_before`,
    `right_after` (whether the letter is the most probable of the four). A question without neurons keeps its probability.

    Raises `InputError` for missing columns, a query that `prompts` lacks, neurons that the model lacks, a factor that is not
    finite.

    Example
    -------
    >>> tried = trials(split)
    >>> found = letter_effects(model, prompts, tried, find("qrnca", model, split.localize))
    >>> specificity(found[(found["factor"] == 2) & found["group"].isin(["own", "other"])])
    """
    for name, table, columns in (("tried", tried, [*KEY, "query"]), ("neurons", neurons, [*KEY, "layer", "neuron"])):
        for column in columns:
            if column not in table:
                raise InputError(name, found=list(table), expected=f"a column {column}")
    if not np.isfinite(factors).all():
        raise InputError("factors", found=factors, expected="finite numbers")
    sets, conditions = sets_by_condition(model, neurons)
    sites = _sites(model, prompts, tried["query"].unique().tolist())
    conditions_of = [
        (number, condition, sets.get((condition, *key), ()))
        for number, key in enumerate(tried[KEY].itertuples(index=False, name=None))
        for condition in conditions
    ]
    queries = tried["query"].tolist()
    numbers: dict[tuple[str, Pairs, float], int] = {(query, (), 1.0): i for i, query in enumerate(sites)}
    asked = [
        (number, condition, factor, len(pairs), _key(queries[number], pairs, float(factor)))
        for number, condition, pairs in conditions_of
        for factor in factors
    ]
    for *_, key in asked:
        numbers.setdefault(key, len(numbers))
    values, right = _letters(model, sites, list(numbers))
    before = np.array([numbers[queries[number], (), 1.0] for number, *_ in asked], dtype=int)
    after = np.array([numbers[key] for *_, key in asked], dtype=int)
    found = tried.iloc[[number for number, *_ in asked]].reset_index(drop=True)
    return found.assign(
        question=found["fact"].astype(str) + "|" + found["language"].astype(str),
        condition=[condition for _, condition, *_ in asked], factor=[float(factor) for _, _, factor, *_ in asked],
        n=[n for *_, n, _ in asked], before=values[before], after=values[after], right_before=right[before],
        right_after=right[after],
    )  # fmt: skip


def _key(query: str, pairs: Pairs, factor: float) -> tuple[str, Pairs, float]:
    """What a row of the pass depends on; nothing changed is one row, whatever the factor."""
    return (query, pairs, factor) if pairs and factor != 1 else (query, (), 1.0)


def sets_by_condition(model: Model, neurons: pd.DataFrame) -> tuple[dict[tuple[str, str, str], Pairs], list[str]]:
    """Neurons by (condition, fact, language), and the conditions in order (of a categorical column: all its categories)."""
    table = neurons if "condition" in neurons else neurons.assign(condition="")
    names = table["condition"]
    names = names.cat.categories if isinstance(names.dtype, pd.CategoricalDtype) else names.unique()
    neuron_pairs(model, table)  # names what the model lacks, once for all
    found: dict[tuple[str, str, str], list] = {}
    columns = (table[c].tolist() for c in ("condition", *KEY, "layer", "neuron"))
    for condition, fact, language, layer, neuron in zip(*columns, strict=True):
        found.setdefault((condition, fact, language), []).append((int(layer), int(neuron)))
    return {key: tuple(sorted(set(pairs))) for key, pairs in found.items()}, list(names) or [""]


def _sites(model: Model, prompts: pd.DataFrame, queries: list[str]) -> dict[str, Site]:
    chosen = prompts[prompts["query"].isin(set(queries))]
    missing = set(queries) - set(chosen["query"])
    if missing:
        raise InputError("prompts", found=Literal(f"no query {min(missing)}"), expected="all that are tried")
    sites = make_sites(model, with_letter_sets(model, chosen), sites="first")
    return dict(zip(chosen["query"], sites, strict=True))


def _letters(model: Model, sites: dict[str, Site], keys: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """P(right letter), and whether it is the most probable of the four, for each (query, neurons, factor)."""
    rows, wanted = [], []
    for query, pairs, _ in keys:
        site = sites[query]
        rows.append(EditedRow(list(site.ids), [site.position], [site.target], pairs, (site.position,)))
        wanted.append([[token for own in site.sets for token in own]])
    found = edited_log_probabilities(model, rows, [factor for *_, factor in keys], wanted)
    values, right = np.empty(len(keys)), np.empty(len(keys), dtype=bool)
    for i, (query, *_) in enumerate(keys):
        ends = np.cumsum([len(own) for own in sites[query].sets])[:-1]
        letters = [np.logaddexp.reduce(part) for part in np.split(found[i][0].astype(float), ends)]
        values[i], right[i] = min(1.0, np.exp(letters[0])), letters[0] > max(letters[1:])
    return values, right
