"""query_relevant/metrics.py: R, U, S, PCR and the 2 x 2 table by hand, and what their intervals promise."""

import numpy as np
import pandas as pd
import pytest

from knlib.errors import InputError
from knlib.query_relevant.metrics import fact_language, flips, specificity, wilson


def table(own, other):
    """Effects of questions 0, 1, ...: `own`, `other` lists of (before, after)."""
    rows = [(i, "own", *pair) for i, pair in enumerate(own)] + [(i, "other", *pair) for i, pair in enumerate(other)]
    return pd.DataFrame(rows, columns=["question", "group", "before", "after"])


OWN = [(0.4, 0.6), (0.6, 0.7), (0.5, 0.5)]
OTHER = [(0.5, 0.51), (0.5, 0.52), (0.4, 0.42)]


def test_by_hand():
    """Spec test 17."""
    found = specificity(table(OWN, OTHER))
    assert found.related.estimate == pytest.approx(100 * 0.3 / 1.5)
    assert found.unrelated.estimate == pytest.approx(100 * 0.05 / 1.4)
    assert found.specificity.estimate == pytest.approx(20 - 100 * 0.05 / 1.4)
    assert found.pcr.estimate == pytest.approx(20 / (100 * 0.05 / 1.4))
    assert found.related_mean.estimate == pytest.approx(100 * (0.5 + 1 / 6 + 0) / 3)
    odds = [np.log(b / (1 - b)) - np.log(a / (1 - a)) for a, b in OWN]
    assert found.related_odds.estimate == pytest.approx(np.mean(odds))
    assert found.specificity_odds.estimate == pytest.approx(found.related_odds.estimate - found.unrelated_odds.estimate)
    assert found.related.clusters == 3 and found.related.low <= 20 <= found.related.high


def test_flipping_the_change_flips_r_and_not_pcr():
    """Spec test 17."""

    def flipped(pairs):
        return [(a, 2 * a - b) for a, b in pairs]

    found, turned = specificity(table(OWN, OTHER)), specificity(table(flipped(OWN), flipped(OTHER)))
    assert turned.related.estimate == pytest.approx(-found.related.estimate)
    assert turned.specificity.estimate == pytest.approx(-found.specificity.estimate)
    assert turned.pcr.estimate == pytest.approx(found.pcr.estimate)
    assert (turned.pcr.low, turned.pcr.high) == pytest.approx((found.pcr.low, found.pcr.high))


def test_no_unrelated_change_gives_a_bound():
    """Spec test 17."""
    nothing = specificity(table(OWN, [(0.5, 0.5)] * 3))
    assert np.isnan(nothing.pcr.estimate) and nothing.pcr.low == np.inf
    noisy = specificity(table(OWN, [(0.5, 0.52), (0.5, 0.48), (0.5, 0.5)]))
    largest = max(abs(noisy.unrelated.low), abs(noisy.unrelated.high))
    assert np.isnan(noisy.pcr.estimate) and noisy.pcr.high == np.inf
    assert noisy.pcr.low == pytest.approx(20 / largest) and largest > 0
    # Below half a percent it is no denominator, however sure.
    small = specificity(table(OWN, [(0.5, 0.501)] * 3))
    assert np.isnan(small.pcr.estimate) and small.pcr.low == pytest.approx(20 / 0.2)


def test_a_ratio_of_means_does_not_follow_the_smallest_probability():
    found = specificity(table([(0.5, 0.5), (0.001, 0.01)], [(0.5, 0.5)] * 2))
    assert found.related.estimate == pytest.approx(100 * 0.009 / 0.501)
    assert found.related_mean.estimate == pytest.approx(450)


def test_duplicated_prompts_change_nothing():
    """Spec test 20: questions are drawn, not prompts."""
    effects = table(OWN, OTHER)
    one, two = specificity(effects), specificity(pd.concat([effects, effects]))
    assert str(one) == str(two)
    # Nor does a copy of one question's prompts weigh it more.
    assert str(one) == str(specificity(pd.concat([effects, effects[effects["question"] == 1]])))


def test_random_sets_cover_zero():
    """Spec test 19, on a planted stand-in: a random set changes own and other prompts by the same law."""
    draw, covered = np.random.default_rng(0), 0
    for repeat in range(100):
        before = draw.uniform(0.3, 0.7, size=(2, 60))
        after = (before * (1 + draw.normal(0.01, 0.1, size=(2, 60)))).clip(0, 1)
        pairs = [list(zip(b, a, strict=True)) for b, a in zip(before, after, strict=True)]
        found = specificity(table(*pairs), draws=1000, seed=repeat).specificity
        covered += found.low <= 0 <= found.high
    assert covered >= 90


def test_a_planted_effect_is_found():
    draw = np.random.default_rng(0)
    own = [(p, min(1, 1.3 * p + draw.normal(0, 0.02))) for p in draw.uniform(0.3, 0.7, 60)]
    found = specificity(table(own, [(p, p + draw.normal(0, 0.02)) for p in draw.uniform(0.3, 0.7, 60)]))
    assert found.specificity.low > 0 and found.related.low < 30 < found.related.high + 3


def test_two_runs_are_equal_and_seeds_differ():
    effects = table(OWN, OTHER)
    assert specificity(effects, seed=3) == specificity(effects, seed=3)
    draw = np.random.default_rng(0)
    many = table(*(list(zip(a, b, strict=True)) for a, b in draw.uniform(0.2, 0.8, size=(2, 2, 30))))
    assert specificity(many, seed=3).related.low != specificity(many, seed=4).related.low


def test_bad_effects_are_named():
    effects = table(OWN, OTHER)
    with pytest.raises(InputError, match="expected a column after"):
        specificity(effects.drop(columns="after"))
    with pytest.raises(InputError, match="effects, group: found 'mine', expected own or other"):
        specificity(effects.replace("own", "mine"))
    with pytest.raises(InputError, match="effects, question 2: found prompts of one group only"):
        specificity(effects.iloc[:-1])
    with pytest.raises(InputError, match="fewer than two questions"):
        specificity(effects[effects["question"] == 0])
    for bad in (np.nan, 1.5, -0.1):
        with pytest.raises(InputError, match=r"effects, before: found a value outside \[0, 1\]"):
            specificity(effects.assign(before=bad))


def cross(change):
    """Four facts in two languages: every question's neurons tested on every question, by `change(same fact, same language)`."""
    names = [(f, c) for f in "pqrs" for c in ("en", "de")]
    rows = [(f, c, g, d, 0.5, 0.5 * (1 + change(f == g, c == d))) for f, c in names for g, d in names]
    return pd.DataFrame(rows, columns=["fact", "language", "tested_fact", "tested_language", "before", "after"])


def test_the_table_of_fact_and_language_by_hand():
    found = fact_language(cross(lambda fact, language: 0.05 + 0.2 * fact + 0.1 * language))
    cells = found.cells.set_index(["same_fact", "same_language"])
    assert cells["estimate"].round(9).to_dict() == {
        (True, True): 35,
        (True, False): 25,
        (False, True): 15,
        (False, False): 5,
    }
    assert cells["pairs"].to_dict() == {(True, True): 8, (True, False): 8, (False, True): 24, (False, False): 24}
    assert found.fact.estimate == pytest.approx(20) and found.language.estimate == pytest.approx(10)
    assert found.fact.low == pytest.approx(20) and found.fact.clusters == 8


def test_a_fact_of_one_language_counts_where_it_can():
    effects = cross(lambda fact, language: 0.2 * fact)
    keep = ~(
        (effects["fact"] == "p") & (effects["tested_fact"] == "p") & (effects["language"] != effects["tested_language"])
    )
    found = fact_language(effects[keep])
    assert found.fact.estimate == pytest.approx(20)
    with pytest.raises(InputError, match="found no prompt of same fact, other language"):
        fact_language(effects[effects["language"] == effects["tested_language"]])


def test_duplicated_prompts_leave_the_table():
    """Spec test 20."""
    effects = cross(lambda fact, language: 0.2 * fact)
    assert str(fact_language(effects).fact) == str(fact_language(pd.concat([effects, effects])).fact)


def test_wilson_by_hand():
    z, p, n = 1.959963984540054, 0.8, 10
    middle, half = (
        (p + z**2 / (2 * n)) / (1 + z**2 / n),
        z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n),
    )
    found = wilson(8, 10)
    assert (found.estimate, found.low, found.high) == pytest.approx((0.8, middle - half, middle + half))
    assert np.isnan(wilson(0, 0).estimate) and (wilson(0, 0).low, wilson(0, 0).high) == (0, 1)
    with pytest.raises(InputError, match="successes: found 3, expected from 0 to 2"):
        wilson(3, 2)


def test_flips_are_shares_of_what_could_flip():
    found = flips([True] * 4 + [False] * 2, [True, True, True, False, True, False])
    assert found["to_wrong"].estimate == 0.25 and found["to_wrong"].clusters == 4
    assert found["to_right"].estimate == 0.5 and found["to_right"].clusters == 2
    with pytest.raises(InputError, match="after: found shape"):
        flips([True], [True, False])
