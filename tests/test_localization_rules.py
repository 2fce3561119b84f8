"""The rules of each localizer by hand: votes of KN, thresholds of AMIG, the bound of MATRICE."""

import numpy as np
import pytest
from localizer_cases import case, pairs, random_case

from knlib.errors import InputError
from knlib.localization import localize, relation_neurons
from knlib.localization.gates import gather
from knlib.localization.matrice import re_lcb

# KN


def votes(queries, agree):
    """One neuron reaches 1 in `agree` of the queries of three languages; another in all of them."""
    return case({"f": {code: [[1.0 * (i < agree), 1.0] for i in range(queries)] for code in ("en", "ru", "ja")}})


@pytest.mark.parametrize("queries, agree, options, kept", [
    (4, 3, {}, True), (4, 2, {}, False), (2, 2, {}, True), (2, 1, {}, False), (2, 2, {"strict_floor": True}, False),
    (10, 7, {}, True), (10, 6, {}, False), (10, 6, {"p": 0.6}, True), (10, 6, {"p": {"en": 0.6, "ru": 0.6, "ja": 0.7}}, False),
    (4, 2, {"p": 0.5}, False), (4, 2, {"p": 0.5, "floor": 0}, True),
])  # fmt: skip
def test_votes_of_queries(queries, agree, options, kept):
    table = localize("kn_share", *votes(queries, agree), resamples=0, **options)
    assert ((0, 0) in pairs(table)) == kept
    assert ((0, 1) in pairs(table)) == (not options.get("strict_floor"))


def test_refinement_moves_the_share_until_two_to_five_neurons_are_left():
    """n neurons, neuron i in the first 20 - i of 20 queries: a share p leaves those with 20 - i >= 20 p."""
    value = np.array([[1.0 if q < 20 - i else 0.0 for i in range(12)] for q in range(20)])
    attributions, queries = case({"f": dict.fromkeys(("en", "ru", "ja"), value)})
    plain = localize("kn_share", attributions, queries, resamples=0)
    assert len(pairs(plain, "en")) == 7  # 20 - i >= 14
    refined = localize("kn_share", attributions, queries, resamples=0, refine=True)
    assert len(pairs(refined, "en")) == 5  # p .8: 20 - i >= 16
    # Too few: p falls, six times at most.
    few = np.array([[1.0 if q < share else 0.0 for share in (20, 12, 7, *[0] * 9)] for q in range(20)])
    attributions, queries = case({"f": {"en": few, "ru": few, "ja": value}})
    refined = localize("kn_share", attributions, queries, resamples=0, refine=True)
    assert [len(pairs(refined, code)) for code in ("en", "ru", "ja")] == [2, 2, 5]  # every language on its own
    hopeless = np.array([[1.0 if q < share else 0.0 for share in (20, 7)] for q in range(20)])
    refined = localize("kn_share", *case({"f": dict.fromkeys(("en", "ru", "ja"), hopeless)}), resamples=0, refine=True)
    assert len(pairs(refined, "en")) == 1  # p .4 = 8 of 20 is the end


def test_relation_neurons():
    scores = {f"f{i}": {c: [[1.0, i < 2, i == 5]] * 3 for c in ("en", "ru", "ja")} for i in range(12)}
    table = localize("kn_share", *case(scores), resamples=0, drop_generic=False)
    found = relation_neurons(table)
    everywhere = found[found["scope"] == "all"]
    assert everywhere[["neuron", "facts"]].values.tolist() == [[0, 12], [1, 2]]
    assert everywhere["share"].tolist() == [1, pytest.approx(2 / 12)]
    assert len(relation_neurons(table, share=0.5)) == 4  # one neuron, three languages and all


# AMIG


def test_amig_takes_what_is_above_the_threshold_of_the_language():
    attributions, queries = case({"f": {"en": [[0.25, 0.2, 1], [0, 0, 1]], "zh": [[0.21, 0.9, 1], [0, 0, 1]]}})
    found = localize("amig", attributions, queries, min_languages=2, resamples=0)
    assert pairs(found) == {(0, 0), (0, 2)}  # .2 is not above .2
    found = localize("amig", attributions, queries, min_languages=2, resamples=0, t={"en": 0.3, "zh": 0.2})
    assert pairs(found) == {(0, 2)} and pairs(found, "zh") == {(0, 0), (0, 1), (0, 2)}
    with pytest.raises(InputError, match="one for zh"):
        localize("amig", attributions, queries, t={"en": 0.3})


# MATRICE


def shared_by(k, codes):
    return case({"f": {code: [[0.5 * (i < k), 1.0]] for i, code in enumerate(codes)}}, entropy=0.1)


def test_agnostic_needs_a_share_of_the_languages():
    codes = ["en", "de", "fr", "es", "pt", "ru", "ar", "hi", "zh", "ja", "ko", "tr"]
    for k, bare, default in ((12, True, True), (10, True, True), (9, True, False), (8, False, False)):
        attributions, queries = shared_by(k, codes)
        assert ((0, 0) in pairs(localize("re_lcb", attributions, queries, rho=0, resamples=0))) == bare
        assert ((0, 0) in pairs(localize("re_lcb", attributions, queries, resamples=0))) == default


def test_at_most_k_max_neurons_the_best_ones():
    value = np.linspace(1, 0.5, 30)
    attributions, queries = case({"f": {code: [value, value] for code in ("en", "ru", "ja")}}, entropy=0.1)
    assert pairs(localize("re_lcb", attributions, queries, resamples=0)) == {(0, i) for i in range(20)}
    assert len(pairs(localize("re_lcb", attributions, queries, resamples=0, k_max=None))) == 30


def test_an_uncertain_query_weighs_less():
    attributions, queries = case({"f": {code: [[1, 0.4], [0, 1]] for code in ("en", "ru", "ja")}})
    sure = queries.assign(entropy=[0.1, 0.9] * 3)
    table = localize("re_lcb", attributions, sure, resamples=0)
    row = table[(table["scope"] == "all") & (table["neuron"] == 0)].iloc[0]
    assert row["mu"] == pytest.approx(0.9)
    assert row["n_l"] == pytest.approx(1 / (0.9**2 + 0.1**2))
    fact = gather(attributions, sure, min_gold_prob=0, max_entropy=1)[0][0]
    assert re_lcb(fact, ablate=("certainty", "query", "language"), kappa=0).score[0] == pytest.approx(0.5)
    assert fact.certainty.tolist() == pytest.approx([0.9, 0.1] * 3)
    floor = gather(attributions, queries.assign(entropy=1.0), min_gold_prob=0, max_entropy=1)[0][0]
    assert (floor.certainty == 0.05).all()


def test_kappa_widens_the_bound():
    attributions, queries = random_case()
    fact = gather(attributions, queries, min_gold_prob=0, max_entropy=1)[0][0]
    mean, bound, wider = (re_lcb(fact, kappa=k).score for k in (0, 1, 2))
    assert np.allclose(mean - bound, bound - wider) and (mean > bound).all()
    with pytest.raises(InputError, match="kappa"):
        re_lcb(fact, kappa=-1)
