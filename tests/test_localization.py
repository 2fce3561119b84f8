"""Localizers: what they find where the neurons are known, what must not matter, how stable it is, and the registry."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pandas as pd
import pytest
from localizer_cases import OURS, case, counts, pairs, planted, random_case
from synthetic_neurons import SETTINGS, attributions_of, best_f1, f1, synthetic

import knlib.localization as localization
from knlib.errors import InputError
from knlib.localization import LOCALIZERS, Verdict, localize, register, sharing
from knlib.localization.gates import gather
from knlib.localization.matrice import re_lcb
from knlib.localization.stability import stability

# What is found


@pytest.mark.parametrize("name", OURS)
def test_planted_neurons_are_found_exactly(name):
    table = localize(name, *planted(), resamples=20)
    own = {"ru": {(0, 3)}, "ja": {(0, 4)}}
    for code in ("en", "ru", "ja", "tr"):
        assert pairs(table, code) == {(1, 2), (1, 5)} | own.get(code, set())
    # A mean over all queries cannot tell a neuron of one language in four from one of all: 0.9 / 4 is above 0.2.
    assert pairs(table) == {(1, 2), (1, 5)} | ({(0, 3), (0, 4)} if name == "mean" else set())
    shared = table[(table["scope"] == "all") & (table["layer"] == 1)]
    assert shared["languages"].eq(4).all() and shared["queries"].eq(16).all()
    assert table["frequency"].eq(1).all() and table["stability"].eq(1).all()  # equal queries: nothing to resample


def test_kinds_of_sharing():
    found = sharing(localize("re_lcb", *planted(), resamples=0)).set_index(["layer", "neuron"])
    assert found["kind"].to_dict() == {(1, 2): "agnostic", (1, 5): "agnostic", (0, 3): "specific", (0, 4): "specific"}
    assert found.loc[(1, 2), "found_in"] == ("en", "ja", "ru", "tr") and found.loc[(0, 3), "found_in"] == ("ru",)
    attributions, queries = planted()
    two = attributions_of(attributions.scores.values * (queries["language"] != "en").to_numpy()[:, None, None] + 1e-3,
                          queries["query"])  # fmt: skip
    assert set(sharing(localize("amig", two, queries, resamples=0))["kind"]) >= {"specific"}


def test_columns_by_hand():
    attributions, queries = case({"f": {"en": [[6, 10], [8, 10]], "ru": [[5, 10], [7, 10]], "ja": [[1, 10], [3, 10]]}})
    table = localize("re_lcb", attributions, queries.assign(entropy=0.0), resamples=0)
    row = table[(table["scope"] == "all") & (table["neuron"] == 0)].iloc[0]
    # Known answers of scaled scores (.6 .8) (.5 .7) (.1 .3).
    expected = {"score": 0.211327, "mu": 0.5, "tau2": 0.059999, "se2": 0.023333, "uq": 0.010001, "i2": 1 - 2 / 13.9986}
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=1e-6), name
    assert (row["n_l"], row["languages"], row["queries"], row["layer"]) == (2, 3, 6, 0)
    english = table[(table["scope"] == "en") & (table["neuron"] == 0)].iloc[0]
    assert english["mu"] == pytest.approx(0.7) and english["score"] == pytest.approx(0.7 - 0.010001**0.5, abs=1e-6)
    assert english["se2"] == english["uq"] and english["queries"] == 2
    assert pairs(table, "ja") == {(0, 1)}  # .2 - .1 is below .2
    assert table["frequency"].isna().all() and table["stability"].isna().all()


def test_scores_of_the_averages_by_hand():
    attributions, queries = case({"f": {"en": [[6, 10], [8, 10]], "ru": [[5, 10]], "ja": [[1, 10]]}})
    fact = gather(attributions, queries, min_gold_prob=0, max_entropy=1)[0][0]
    values = np.array([0.6, 0.8, 0.1, 0.5])  # languages are sorted
    assert fact.languages == ("en", "ja", "ru") and np.allclose(fact.scores[:, 0], values)
    score = {name: LOCALIZERS[name].find(fact).score[0] for name in OURS}
    assert score["mean"] == pytest.approx(0.5) and score["min_lang"] == pytest.approx(0.1)
    assert score["cas"] == pytest.approx(0.5 - 0.5 * values.std())
    assert score["amig"] == pytest.approx(0.1) and score["kn_share"] == 0
    assert LOCALIZERS["amig"].find(fact).language_score[0, 0] == pytest.approx(0.8)


def test_layers_keep_their_numbers():
    attributions, queries = planted()
    some = replace(attributions, scores=attributions.scores.assign_coords(layer=[3, 9]))
    assert pairs(localize("kn_share", some, queries, resamples=0)) == {(9, 2), (9, 5)}


def test_a_neuron_table_holds_what_was_asked_of_the_attributions():
    """The largest scaled score of a query is 1; attributions of other queries do not matter."""
    attributions, queries = random_case()
    only = queries[queries["fact"] == "fact 1"]
    whole = localize("min_lang", attributions, queries, resamples=5)
    part = localize("min_lang", attributions, only.sample(frac=1, random_state=0), resamples=5)
    pd.testing.assert_frame_equal(part, whole[whole["fact"] == "fact 1"].reset_index(drop=True))
    assert list(part) == [*localization.TABLE_COLUMNS, "relation_generic"]


# What must not matter


@pytest.mark.parametrize("name", OURS)
def test_order_and_scale_do_not_matter(name):
    attributions, queries = random_case()
    keys = ["fact", "scope", "layer", "neuron"]
    whole = localize(name, attributions, queries, resamples=8).set_index(keys).sort_index()
    draw = np.random.default_rng(1)
    order = draw.permutation(len(queries))
    factor = 10 ** draw.uniform(-4, 4, len(queries))[order, None, None]
    mixed = attributions_of(attributions.scores.values[order] * factor, queries["query"].iloc[order])
    for table in (queries.iloc[order], queries.iloc[::-1]):
        again = localize(name, mixed, table, resamples=8).set_index(keys).sort_index()
        pd.testing.assert_frame_equal(again, whole, rtol=1e-9)
    assert len(whole) > 20


# Stability


@pytest.mark.parametrize("name", OURS)
def test_drawing_a_query_twice(name):
    """For votes and plain means it is a second row; for weighted ones a double weight."""
    fact = gather(*random_case(), min_gold_prob=0, max_entropy=1)[0][0]
    options = {"t": 0.08}  # within the noise, so that every query matters
    drawn = np.concatenate([np.random.default_rng(k).permutation([2, 0] + [1] * (n - 2))
                            for k, n in enumerate(np.bincount(fact.language))]).astype(float)  # fmt: skip
    found = LOCALIZERS[name].find(replace(fact, multiplicity=drawn), **options)
    if name == "re_lcb":
        same = re_lcb(replace(fact, certainty=fact.certainty * drawn), **options)
    else:
        rows = np.repeat(np.arange(len(drawn)), drawn.astype(int))
        same = LOCALIZERS[name].find(replace(fact, scores=fact.scores[rows], language=fact.language[rows],
                                             certainty=fact.certainty[rows], multiplicity=np.ones(len(rows))),
                                     **options)  # fmt: skip
    for part in ("score", "found", "language_score", "language_found"):
        assert np.allclose(getattr(found, part), getattr(same, part), rtol=1e-12)
    assert not np.allclose(found.language_score, LOCALIZERS[name].find(fact, **options).language_score)


def test_frequency_of_a_neuron_that_hangs_on_one_query():
    """In each of 3 languages, one of 4 queries carries neuron 0: it is drawn with probability 1 - (3/4)^4 in each."""
    value = [[1.0, 1.0]] + [[0.0, 1.0]] * 3
    attributions, queries = case({f"f{i}": dict.fromkeys(("en", "ru", "ja"), value) for i in range(4)})
    table = localize("amig", attributions, queries, resamples=500)
    chance = 1 - 0.75**4
    unsure = table[table["neuron"] == 0].groupby("scope")["frequency"].mean()
    assert unsure["en"] == pytest.approx(chance, abs=0.05) and unsure["all"] == pytest.approx(chance**3, abs=0.05)
    assert (table.loc[table["neuron"] == 1, "frequency"] == 1).all()
    # The set is {0, 1} or {1}: the overlap is 1 or 1/2.
    row = table[(table["neuron"] == 0) & (table["scope"] == "all")].iloc[0]
    assert row["stability"] == pytest.approx((1 + row["frequency"]) / 2)
    again = localize("amig", attributions, queries, resamples=500)
    pd.testing.assert_frame_equal(table, again)
    other = localize("amig", attributions, queries, resamples=500, seed=1)
    assert not np.array_equal(other["frequency"], table["frequency"])


def test_pairs_of_empty_sets_are_left_out_and_counted():
    # In Japanese no neuron reaches .2 in the mean of queries, although each query has one that reaches 1.
    spread = np.eye(6)
    attributions, queries = case({"f": {"en": [[1, 0, 0, 0, 0, 0]] * 6, "ru": [[1, 0, 0, 0, 0, 0]] * 6, "ja": spread}})
    table, report = localize("min_lang", attributions, queries, t=0.45, resamples=50, report=True)
    assert set(table["scope"]) == {"en", "ru"}
    empty = counts(report, reason="empty_resamples", language="ja")
    assert 0 < empty < 50  # drawn three times of six, a query carries its neuron
    fact = gather(attributions, queries, min_gold_prob=0, max_entropy=1)[0][0]
    found = stability(LOCALIZERS["min_lang"], fact, {"t": 0.45}, LOCALIZERS["min_lang"].find(fact, t=0.45),
                      resamples=50, seed=0)  # fmt: skip
    assert found[2].tolist()[2] == empty and found[1][2] == 0 and found[1][1] == 1  # rows: all, en, ja, ru


# The registry


def test_every_module_of_the_folder_is_imported():
    names = {m.name for m in iter_modules(localization.__path__)}
    assert names == {p.stem for p in Path(localization.__file__).parent.glob("*.py")} - {"__init__"}
    assert all(hasattr(localization, name) for name in names) and set(OURS) <= set(LOCALIZERS)


def test_a_localizer_in_a_file_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "median_of_means.py").write_text(
        "import numpy as np\nfrom .registry import Verdict, register\n\n\n"
        "@register('median_test')\ndef median(fact, *, t=0.2):\n"
        "    each = fact.per_language(np.median)\n    score = np.median(each, 0)\n"
        "    return Verdict(score, score >= t, each, each >= t, fact.scores >= t)\n"
    )
    monkeypatch.setattr(localization, "__path__", [*localization.__path__, str(tmp_path)])
    try:
        import_module("knlib.localization.median_of_means")
        assert pairs(localize("median_test", *planted(), resamples=3)) == {(1, 2), (1, 5)}
        assert not pairs(localize("median_test", *planted(), resamples=3, t=1.1))
    finally:
        LOCALIZERS.pop("median_test", None)


def test_a_name_is_not_taken_twice():
    with pytest.raises(InputError, match="has this one"):
        register("mean")(lambda fact: Verdict)
    assert LOCALIZERS["mean"].find.__module__ == "knlib.localization.averages"


def test_refusals():
    attributions, queries = planted()
    for bad, given, options, message in [
        ("gradient", queries, {}, "kn_share amig"), ("mean", queries, {"p": 1}, "localizer mean, options: found 'p', expected one of t"),
        ("mean", queries.drop(columns="fact"), {}, "a column fact"), ("mean", queries, {"resamples": -1}, "0 or more"),
        ("mean", queries.assign(entropy=1.2), {}, "entropy: found 1.2"), ("mean", queries.assign(entropy=np.nan), {}, "from 0 to 1"),
        ("mean", queries.assign(probability=-0.1), {}, "probability: found -0.1"),
        ("mean", queries.assign(query="x"), {}, "every query id once"), ("mean", queries.head(1).assign(query="x"), {}, "'x'"),
        ("re_lcb", queries, {"ablate": ("tau",)}, "certainty query language"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            localize(bad, attributions, given, **options)
    with pytest.raises(InputError, match="Attributions"):
        localize("mean", attributions.top(3), queries)
    broken = attributions_of(np.full((len(queries), 1, 3), np.nan), queries["query"])
    with pytest.raises(InputError, match="not finite"):
        localize("mean", broken, queries)


# Synthetic neurons


def test_what_the_bound_withstands():
    """Ten seeds of two settings; `tests/benchmarks/localization.py` has sixty of five, and sweeps thresholds."""
    scores = {}
    labels = ("25 % unknown", "50 % unknown")
    for label in labels:
        for seed in range(10):
            attributions, queries, truth = synthetic(SETTINGS[label], seed)
            table = localize("re_lcb", attributions, queries, resamples=0)
            found = np.isin(np.arange(len(truth)), table.loc[table["scope"] == "all", "neuron"])
            scores.setdefault((label, "full default"), []).append(f1(found, truth))
            # Scores alone: the published rules know no entropy, so no language is gated.
            fact = gather(attributions, queries, min_gold_prob=0, max_entropy=1)[0][0]
            for name in OURS:
                verdict = LOCALIZERS[name].find(fact)
                scores.setdefault((label, name), []).append(f1(verdict.found, truth))
                if name in ("re_lcb", "min_lang"):
                    scores.setdefault((label, name, "best"), []).append(best_f1(verdict.score, truth))
                    for t in (0.05, 0.1):
                        scores.setdefault((label, name, t), []).append(f1(verdict.score >= t, truth))
    mean = {key: np.mean(values) for key, values in scores.items()}
    for label in labels:
        assert all(mean[label, "full default"] > mean[label, other] for other in ("amig", "mean", "cas", "kn_share"))
        assert min(mean[label, "re_lcb", 0.1], mean[label, "re_lcb", 0.05]) > mean[label, "min_lang", 0.1]
        # It does not rank better than the plain minimum: with thresholds that know the truth both are as good.
        assert mean[label, "re_lcb", "best"] == pytest.approx(mean[label, "min_lang", "best"], abs=0.01)
    assert mean["50 % unknown", "full default"] >= 0.9 and mean["50 % unknown", "amig"] < 0.5
