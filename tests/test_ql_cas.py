"""Consistency-aware scores and the strategies that rank by them, by hand."""

import numpy as np
import pytest

from knlib.errors import InputError
from knlib.query_localization.cas import minus_relation, t_bound, weighted
from knlib.query_localization.strategies import (
    STRATEGIES,
    Fitted,
    above,
    chosen,
    matched,
    relative,
    strategy_scores,
    top,
    typical_size,
)

LAYERS, NEURONS = 3, 40


@pytest.mark.parametrize(
    ("values", "score", "bound"), [([1, 1, 1], 0.7, 1.0), ([3, 0, 0], 0.2757, -0.8856), ([2, 1, 0], 0.4551, -0.0887)]
)
def test_known_answers(values, score, bound):
    """With .7 and .3; the first takes the population's spread, the second the sample's."""
    assert float(weighted(values)) == pytest.approx(score, abs=5e-5)
    assert float(t_bound(values)) == pytest.approx(bound, abs=5e-5)


def test_scores_are_per_neuron_and_order_of_queries_does_not_matter():
    values = np.random.default_rng(0).normal(size=(4, LAYERS, NEURONS))
    for score in (weighted, t_bound):
        assert score(values).shape == (LAYERS, NEURONS)
        assert score(values[::-1]) == pytest.approx(score(values))
        assert float(score(values)[1, 5]) == pytest.approx(float(score(values[:, 1, 5])))
    with pytest.raises(InputError, match="at least 2 queries"):
        t_bound(values[:1])


def test_minus_relation_leaves_the_fact_itself_out():
    values = np.array([[1.0, 0.0], [3.0, 2.0]])
    others = [np.array([4.0, 0.0]), np.array([0.0, 0.0])]
    found = minus_relation(values, values.mean(0) + others[0] + others[1], 3)
    assert found == pytest.approx([2 - 2, 1 - 0])
    assert minus_relation(values, values.mean(0), 1) == pytest.approx([2, 1])


def fitted(seed=0, queries=4):
    draw = np.random.default_rng(seed)
    scores = relative(draw.random((queries, LAYERS, NEURONS)) ** 8)
    return Fitted("f", scores, 1, draw.normal(size=scores.shape), 5 * scores.mean(0) ** 2, 5)


def test_strategies_by_hand():
    scores = np.array([[0.9, 0.1, 0.5, 0.3], [0.2, 1.0, 0.5, 0.4], [0.1, 0.3, 0.5, 0.9], [0.8, 0.1, 0.5, 0.2]])[:, None]
    own = Fitted("f", scores, 0, scores[..., ::-1], np.array([[9.0, 1.5, 2.0, 1.8]]), 2)
    expected = {
        "self": [0.9, 0.1, 0.5, 0.3], "union": [0.9, 1.0, 0.5, 0.9], "intersection": [0.1, 0.1, 0.5, 0.2],
        "refine": [0.2, 0.1, 0.5, 0.3], "top_mean": [0.5, 0.375, 0.5, 0.45],
        "cas": scores[:, 0].mean(0) - 0.43 * scores[:, 0].std(0),
        "cas_minus_relation": 2 * scores[:, 0].mean(0) - [9.0, 1.5, 2.0, 1.8],
        "cas_paper": (0.7 * scores[:, 0].mean(0) - 0.3 * scores[:, 0].std(0))[::-1],
    }  # fmt: skip
    for name, values in expected.items():
        assert strategy_scores(own, name)[0] == pytest.approx(values), name
    assert strategy_scores(own, "refine", p=0.7)[0] == pytest.approx(strategy_scores(own, "refine")[0])
    assert strategy_scores(own, "cas", ratio=0.0) == pytest.approx(strategy_scores(own, "top_mean"))
    # The steady neuron wins only where spread counts: 0 and 2 have the same mean.
    assert top(strategy_scores(own, "cas"), 1) == ((0, 2),)


@pytest.mark.parametrize("m", [1, 7, 20])
def test_sets_have_exactly_m_members_and_random_avoids_and_matches_self(m):
    own = fitted()
    for name in STRATEGIES:
        pairs = chosen(own, name, m)
        assert len(pairs) == len(set(pairs)) == m, name
    drawn, best = chosen(own, "random", m), chosen(own, "self", m)
    assert not set(drawn) & set(best)
    assert sorted(layer for layer, _ in drawn) == sorted(layer for layer, _ in best)
    assert chosen(own, "random", m) == drawn and (m == 1 or chosen(own, "random", m, seed=1) != drawn)
    assert matched(own, best, 0, "a") != matched(own, best, 0, "b") or m == 1


def test_random_is_drawn_among_neurons_of_similar_activation():
    own = fitted()
    activations = np.zeros((4, LAYERS, NEURONS))
    activations[:, :, 20:] = 5.0
    own = Fitted("f", own.scores, 1, activations, own.relation_total, 5)
    for layer, neuron in (pair for pair in chosen(own, "self", 3)):
        ((_, other),) = matched(own, ((layer, neuron),), 0)
        assert (other >= 20) == (neuron >= 20)


def test_ties_go_to_the_first_neuron_and_thresholds_are_relative():
    scores = np.array([[0.5, 0.5, 0.1], [0.5, 0.0, 0.2]])
    assert top(scores, 2) == ((0, 0), (0, 1))
    assert above(scores, 0.3) == ((0, 0), (0, 1), (1, 0), (1, 2)) and above(-scores, 0.3) == ()
    two = relative(np.stack([scores, 10 * scores]))
    assert two[0] == pytest.approx(two[1]) and two.max() == 1.0
    assert not relative(-np.ones((1, 2, 3))).any()
    assert typical_size(two) == 4 and typical_size(0 * two) == 1


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="strategy: found 'best'"):
        strategy_scores(fitted(), "best")
    with pytest.raises(InputError, match="m: found 1000"):
        chosen(fitted(), "cas", 1000)
