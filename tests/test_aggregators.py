"""Comparisons of localizers: their sets are those of `localize`, their numbers those of the tables."""

import numpy as np
import pandas as pd
import pytest
from synthetic_neurons import attributions_of

from knlib.aggregators import bounds, compare_sets, every_localizer, set_summary, threshold_sweep
from knlib.effect_groups import compare_methods
from knlib.errors import InputError
from knlib.localization import LOCALIZERS, Verdict, localize, register
from knlib.uncertainty_plots import bounds_and_verdicts, stability_strips, sweep_lines

CODES = ("en", "ru", "ja", "tr")


@pytest.fixture(scope="module")
def case():
    """Two facts in four languages: neuron 2 serves all, 5 less and unevenly, 7 one language."""
    draw, rows, values = np.random.default_rng(0), [], []
    for fact in ("capital:FR", "capital:PE"):
        for code in CODES:
            for number in range(4):
                value = 0.01 * draw.random((1, 10))
                value[0, 2] = 1.0
                value[0, 5] = {"en": 0.6, "ru": 0.15}.get(code, 0.35) + 0.02 * draw.normal()
                value[0, 7] = 0.9 * (code == "ja")
                rows.append((f"{fact}|{code}/{number}", fact, "capital", code, fact, 0.1))
                values.append(value)
    queries = pd.DataFrame(rows, columns=["query", "fact", "relation", "language", "answer", "entropy"])
    return attributions_of(np.array(values), queries["query"]), queries


def test_every_localizer_of_the_registry_is_asked(case):
    def only_two(fact):
        best = fact.per_language(np.mean)
        found = np.arange(best.shape[1]) == 2
        return Verdict(best.min(0), found, best, np.broadcast_to(found, best.shape), fact.scores > 0)

    register("only_two")(only_two)
    try:
        tables = every_localizer(*case, resamples=5)
        assert set(tables) == set(LOCALIZERS) and "only_two" in tables
        assert tables["only_two"]["neuron"].tolist() == [2, 2]
        expected = localize("re_lcb", *case, resamples=5)
        expected = expected[expected["scope"] == "all"]
        assert tables["re_lcb"]["score"].tolist() == expected["score"].tolist()
    finally:
        del LOCALIZERS["only_two"]


def test_bounds_are_the_interval_of_a_new_language(case):
    attributions, queries = case
    tables = every_localizer(attributions, queries, resamples=0)
    table = bounds(tables, attributions, queries, "capital:FR")
    assert table.index[0] == "0·2" and set(table.columns) == {"mu", "low", "high", *LOCALIZERS}
    row = tables["re_lcb"].query("fact == 'capital:FR' and neuron == 5").iloc[0]
    assert table.loc["0·5", "low"] == pytest.approx(row["mu"] - (row["tau2"] + row["se2"]) ** 0.5)
    assert table.loc["0·5", "high"] - table.loc["0·5", "mu"] > 3 * (table.loc["0·2", "high"] - table.loc["0·2", "mu"])
    assert table.loc["0·2", list(LOCALIZERS)].all()
    assert table.loc["0·7", "mean"] and not table.loc["0·7", ["re_lcb", "min_lang", "amig", "kn_share"]].any()
    with pytest.raises(InputError, match="capital:XX"):
        bounds(tables, attributions, queries, "capital:XX")


def test_summary_counts_empty_sets(case):
    tables = {"some": localize("re_lcb", *case, resamples=10).query("scope == 'all' and fact == 'capital:FR'")}
    table = set_summary(tables, ["capital:FR", "capital:PE"])
    assert table["neurons"].tolist() == [2, 0]
    assert table["stability"][0] == pytest.approx(1.0) and np.isnan(table["stability"][1])


def test_a_higher_threshold_keeps_a_subset(case):
    found = threshold_sweep(*case, {"re_lcb": [0.05, 0.5], "min_lang": [0.05, 0.2]}, resamples=0)
    assert list(found) == [("re_lcb", 0.05), ("re_lcb", 0.5), ("min_lang", 0.05), ("min_lang", 0.2)]
    sets = {key: set(table["neuron"]) for key, table in found.items()}
    assert sets["re_lcb", 0.05] == {2, 5} and sets["re_lcb", 0.5] == {2}
    assert sets["min_lang", 0.05] == {2, 5} and sets["min_lang", 0.2] == {2}


def test_figures_hold_every_row(case):
    tables = every_localizer(*case, resamples=5)
    figure = bounds_and_verdicts(bounds(tables, *case, "capital:FR"), "capital:FR")
    assert figure.axes[0].get_yticklabels()[0].get_text() == "0·2"
    summary = set_summary(tables, ["capital:FR", "capital:PE"])
    points = stability_strips(summary).axes[1].collections
    assert sum(len(c.get_offsets()) for c in points) == len(summary)
    swept = pd.DataFrame(
        {"name": ["a", "a", "b"], "t": [0.1, 0.2, 0.1], "neurons": [9, 3, 2], "stability": [0.5, 0.4, 1.0],
         "log_change": [-1.0, -0.5, 0.0], "log_low": -1.2, "log_high": 0.1}
    )  # fmt: skip
    lines = sweep_lines(swept).axes[2].get_lines()
    assert [list(line.get_xdata()) for line in lines[:2]] == [[0.1, 0.2], [0.1]]


def test_compared_sets_have_the_effects_of_their_neurons(tiny_model):
    """Tuples may name sets; a fact without a set counts as 0 neurons; one set too few for an interval gives NaN."""
    model = tiny_model("llama")
    columns = ["query", "fact", "relation", "language", "prompt", "space", "answer", "suffix"]
    rows = [("q/0", "a", "r", "en", "ba be", " ", "bi", ""), ("q/1", "b", "r", "en", "bo be", " ", "bu", ""),
            ("q/2", "c", "r", "en", "be bo", " ", "bi", "")]  # fmt: skip
    queries = pd.DataFrame(rows, columns=columns)
    both = pd.DataFrame(
        {
            "fact": ["a", "a", "b"],
            "relation": "r",
            "layer": [0, 1, 1],
            "neuron": [2, 3, 5],
            "stability": [0.5, 0.5, 1.0],
        }
    )
    found = compare_sets(model, {("x", 0.1): both, ("x", 0.2): both[both["fact"] == "a"]}, queries, seed=1)
    assert list(found.index) == [("x", 0.1), ("x", 0.2)]
    assert found["neurons"].tolist() == pytest.approx([1.0, 2 / 3])
    assert found["stability"].tolist() == pytest.approx([0.75, 0.5])
    alone = compare_methods(model, {"x": both.drop(columns="relation")}, queries, seed=1)
    assert found["log_change"].iloc[0] == alone.loc[("x", "neurons"), "log_change"]
    assert np.isnan(found["log_change"].iloc[1])
