"""The threshold from exchanged facts: few false neurons where none belongs to a fact, all planted ones where some do."""

import math

import numpy as np
import pandas as pd
import pytest
from synthetic_neurons import attributions_of

from knlib.errors import InputError
from knlib.localization import localize, null_threshold

FACTS, CODES, NEURONS = 12, ("en", "ru", "ja", "tr", "ar", "fr"), 120
RELATION = range(50, 55)


def made_up(seed: int, *, own: float, relation: float = 0.4):
    """Neuron f belongs to fact f, five neurons to the relation, and eight others of each fact to a language."""
    draw = np.random.default_rng(seed)
    rows, scores = [], []
    for fact in range(FACTS):
        for code in CODES:
            effect = np.zeros(NEURONS)
            effect[draw.choice(np.arange(60, NEURONS), 8, replace=False)] = draw.uniform(0.3, 1, 8)
            effect[RELATION], effect[fact] = relation, own
            for number in range(3):
                rows.append((f"{fact}|{code}/{number}", f"f{fact}", "capital", code, f"answer {fact}"))
                scores.append(effect * (1 + 0.15 * draw.normal(size=NEURONS)) + 0.03 * draw.normal(size=NEURONS))
    queries = pd.DataFrame(rows, columns=["query", "fact", "relation", "language", "answer"])
    return attributions_of(np.array(scores)[:, None, :], queries["query"]), queries


def found(attributions, queries, t: float) -> set[tuple[str, int]]:
    """(fact, neuron) of the language-agnostic neurons; the rule against relation-wide neurons is off."""
    if math.isinf(t):
        return set()
    table = localize("re_lcb", attributions, queries, t=t, resamples=0, drop_generic=False)
    return set(table.loc[table["scope"] == "all", ["fact", "neuron"]].itertuples(index=False, name=None))


def test_planted_neurons_stay_and_those_of_the_relation_go():
    planted = {(f"f{fact}", fact) for fact in range(FACTS)}
    for seed in range(2):
        case = made_up(seed, own=1.0)
        at_default = found(*case, 0.1)
        assert planted <= at_default and len(at_default) > 2 * FACTS, "the default takes the relation's neurons too"
        chosen = found(*case, null_threshold(*case, draws=5, seed=seed, drop_generic=False))
        assert planted <= chosen and len(chosen - planted) <= 0.1 * len(chosen)


def test_where_no_neuron_belongs_to_a_fact_few_are_chosen():
    """All neurons are false here: of those that the default threshold takes, at most 5 % may stay."""
    taken = chosen = 0
    for seed in range(4):
        case = made_up(seed, own=0.0)
        taken += len(found(*case, 0.1))
        chosen += len(found(*case, null_threshold(*case, draws=5, seed=seed, drop_generic=False)))
    assert taken > 4 * FACTS and chosen <= 0.05 * taken


def test_a_smaller_rate_gives_no_smaller_threshold_and_the_seed_decides():
    case = made_up(1, own=0.5)
    options = {"draws": 3, "drop_generic": False}
    rates = [null_threshold(*case, fdr=fdr, **options) for fdr in (0.5, 0.2, 0.05)]
    assert rates == sorted(rates)
    assert null_threshold(*case, fdr=0.2, **options) == rates[1]
    assert null_threshold(*case, localizer="min_lang", **options) >= 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"localizer": "x"}, "localizer: found 'x'"),
        ({"fdr": 0}, "fdr: found 0"),
        ({"fdr": 1.5}, "fdr: found 1.5"),
        ({"draws": 0}, "draws: found 0"),
        ({"t": 0.1}, "options: found t"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        null_threshold(*made_up(0, own=1.0), **options)


def test_one_fact_cannot_change_places():
    attributions, queries = made_up(0, own=1.0)
    with pytest.raises(InputError, match="no relation with two facts"):
        null_threshold(attributions, queries[queries["fact"] == "f0"])
