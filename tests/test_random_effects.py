"""The random-effects estimator against known answers, a slow loop, and statsmodels."""

import math

import numpy as np
import pytest
from statsmodels.stats.meta_analysis import combine_effects

from knlib.localization.random_effects import random_effects


def estimate(values, weights=None, **options):
    """Of one neuron, from a list of scores per language."""
    language = np.repeat(np.arange(len(values)), [len(v) for v in values])
    scores = np.concatenate([np.asarray(v, dtype=float) for v in values])[:, None]
    weights = np.ones(len(scores)) if weights is None else np.concatenate([np.asarray(w, dtype=float) for w in weights])
    return random_effects(scores, language, weights, **options)


def bound(found):
    return found.mu - np.sqrt(found.tau2 + found.se2)


def random_case(seed, neurons=50):
    draw = np.random.default_rng(seed)
    language = np.repeat(np.arange(5), draw.integers(1, 6, 5))
    scores = draw.normal(size=(5, neurons))[language] * draw.uniform(0, 0.5, neurons)
    scores += draw.normal(size=(len(language), neurons)) * 0.2 + 0.4
    return scores, language, draw.uniform(0.05, 1, len(language))


# Worked out by hand from the definitions: UQ, Q, C, tau2, mu, SE2, S.
KNOWN = [
    ([[0.5, 0.5], [0.5, 0.5]], None, [1e-6] * 2, 0, 1e6, 0, 0.5, 5e-7, 0.499293),
    ([[0.6], [0.2]], None, [1e-6] * 2, 80000, 1e6, 0.079999, 0.4, 0.04, 0.053591),
    ([[0.6, 0.8], [0.5, 0.7], [0.1, 0.3]], None, [0.010001] * 3, 13.9986, 199.98, 0.059999, 0.5, 0.023333, 0.211327),
    ([[0.9, 0.5, 0.7], [0.8, 0.4], [0.75]], None, [0.014477, 0.027144, 0.039185], 0.388089, 79.852523, 0, 0.681679,
     0.007608, 0.594453),
    ([[0.6, 0.8, 0], [0.5, 0.7], [0.1, 0.3]], [[0.9, 0.7, 0.05], [1, 1], [1, 1]], [0.015835, 0.013299, 0.013299],
     9.178148, 141.906472, 0.050584, 0.486598, 0.021569, 0.217986),
]  # fmt: skip


@pytest.mark.parametrize("values, weights, uq, q, c, tau2, mu, se2, s", KNOWN)
def test_known_answers(values, weights, uq, q, c, tau2, mu, se2, s):
    found = estimate(values, weights)
    assert np.allclose(found.uq[:, 0], uq, atol=1e-6, rtol=0)
    for value, expected in ((found.q, q), (found.c, c)):
        assert value.item() == pytest.approx(expected, rel=2e-6, abs=1e-6)
    for value, expected in ((found.tau2, tau2), (found.mu, mu), (found.se2, se2), (bound(found), s)):
        assert value.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "languages, bounds", [(7, [0.4996, 0.2265, 0.0963, 0]), (12, [None, 0.3081, 0.2141, 0.1396, 0.0771])]
)
def test_bound_of_a_neuron_that_some_languages_lack(languages, bounds):
    for missing, expected in enumerate(bounds):
        if expected is not None:
            found = estimate([[0.5]] * (languages - missing) + [[0.0]] * missing)
            assert bound(found).item() == pytest.approx(expected, abs=5e-5)


def by_loop(scores, language, weights):
    """The same estimator, one neuron and one query at a time."""
    results = []
    for j in range(scores.shape[1]):
        languages = sorted(set(language.tolist()))
        m, s2, n, d = [], [], [], []
        for k in languages:
            at = [i for i in range(len(language)) if language[i] == k]
            total = sum(weights[i] for i in at)
            w = [weights[i] / total for i in at]
            n.append(1 / sum(x * x for x in w))
            d.append(max(n[-1] - 1, 0.5))
            m.append(sum(x * scores[i, j] for x, i in zip(w, at, strict=True)))
            s2.append(n[-1] / d[-1] * sum(x * (scores[i, j] - m[-1]) ** 2 for x, i in zip(w, at, strict=True)))
        pooled = sum(a * b for a, b in zip(d, s2, strict=True)) / sum(d)
        uq = [(3 * pooled + a * b) / (3 + a) / c + 1e-6 for a, b, c in zip(d, s2, n, strict=True)]
        mean = sum(x / u for x, u in zip(m, uq, strict=True)) / sum(1 / u for u in uq)
        q = sum((x - mean) ** 2 / u for x, u in zip(m, uq, strict=True))
        c = sum(1 / u for u in uq) - sum(1 / u**2 for u in uq) / sum(1 / u for u in uq)
        tau2 = max(0.0, (q - (len(m) - 1)) / c)
        total = sum(1 / (u + tau2) for u in uq)
        mu = sum(x / (u + tau2) for x, u in zip(m, uq, strict=True)) / total
        results.append((*m, *uq, q, c, tau2, mu, 1 / total, max(0.0, 1 - (len(m) - 1) / q) if q else 0.0))
    return np.array(results).T


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_loop_over_neurons_and_queries(seed):
    case = random_case(seed)
    found = random_effects(*case)
    ours = np.vstack([found.m, found.uq, found.q, found.c, found.tau2, found.mu, found.se2, found.i2])
    assert np.allclose(ours, by_loop(*case), rtol=1e-8, atol=1e-12)
    assert (found.tau2 == 0).any() and (found.tau2 > 0).any()  # both branches were seen


def test_equals_statsmodels_given_means_and_variances():
    found = random_effects(*random_case(7))
    seen = set()
    for j in range(found.mu.size):
        other = combine_effects(found.m[:, j], found.uq[:, j], method_re="dl")
        seen.add(bool(other.tau2 > 0))
        assert found.q[j] == pytest.approx(other.q, rel=1e-8)
        assert found.tau2[j] == pytest.approx(max(0, other.tau2), rel=1e-8)
        if other.tau2 > 0:
            assert found.mu[j] == pytest.approx(other.mean_effect_re, rel=1e-8)
            assert found.se2[j] == pytest.approx(other.sd_eff_w_re**2, rel=1e-8)
        else:  # statsmodels lets a variance be negative
            assert found.mu[j] == pytest.approx(other.mean_effect_fe, rel=1e-8)
            assert found.se2[j] == pytest.approx(other.sd_eff_w_fe**2, rel=1e-8)
    assert seen == {True, False}


def test_order_of_queries_and_languages_does_not_matter():
    scores, language, weights = random_case(3)
    whole = random_effects(scores, language, weights)
    order = np.random.default_rng(0).permutation(len(language))
    mixed = random_effects(scores[order], (4 - language)[order], weights[order])
    assert np.allclose(mixed.m[::-1], whole.m, rtol=1e-9) and np.allclose(mixed.uq[::-1], whole.uq, rtol=1e-9)
    for name in ("mu", "tau2", "se2", "q", "i2"):
        assert np.allclose(getattr(mixed, name), getattr(whole, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "values", [[[0.3]] * 4, [[0.5, 0.5]] * 2, [[0.4], [0.4]], [[0.0, 0.0], [0.0]], [[0.7]], [[0.7, 0.1]]]
)
def test_nothing_is_nan_where_there_is_little_or_no_spread(values):
    found = estimate(values)
    for name in ("m", "uq", "n", "mu", "tau2", "se2", "q", "c", "i2"):
        assert np.isfinite(getattr(found, name)).all(), name
    assert (found.uq >= 1e-6).all() and (found.tau2 >= 0).all() and ((found.i2 >= 0) & (found.i2 < 1)).all()


def test_with_one_query_everywhere_all_spread_is_between_languages():
    found = estimate([[0.9], [0.1], [0.5]])
    assert not found.estimable and (found.uq == 1e-6).all()
    assert found.tau2.item() == pytest.approx(0.16, abs=1e-5)  # the sample variance
    assert estimate([[0.9], [0.1, 0.2]]).estimable


def test_one_language_has_no_language_uncertainty():
    found = estimate([[0.7, 0.1]])
    assert found.tau2.item() == found.i2.item() == found.q.item() == found.c.item() == 0
    assert found.mu.item() == pytest.approx(0.4) and found.se2.item() == pytest.approx(found.uq.item())


def test_a_weight_is_what_counts_not_its_scale():
    scores, language, weights = random_case(1)
    a, b = random_effects(scores, language, weights), random_effects(scores, language, 7 * weights)
    assert np.allclose(a.mu, b.mu, rtol=1e-12) and np.allclose(a.uq, b.uq, rtol=1e-9)
    # A query of no weight might as well not be there.
    more = np.vstack([scores, np.full(scores.shape[1], 9.0)])
    c = random_effects(more, np.append(language, 2), np.append(weights, 0))
    assert np.allclose(a.mu, c.mu, rtol=1e-12) and np.allclose(a.tau2, c.tau2, rtol=1e-9, atol=1e-12)


def test_without_both_variances_it_is_the_mean_of_means():
    scores, language, weights = random_case(2)
    found = random_effects(scores, language, np.ones_like(weights), query_variance=False, language_variance=False)
    means = np.stack([scores[language == k].mean(0) for k in range(5)])
    assert np.allclose(found.mu, means.mean(0), rtol=1e-12) and np.allclose(found.se2, 1e-6 / 5)
    assert math.isclose(found.uq.max(), 1e-6)
