"""Figures, tables and live helpers of notebook 04, from synthetic tables."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tiny_study import tiny_study

from knlib.errors import InputError
from knlib.query_localization import explorer, live, plots, synapse_plots, tables
from knlib.query_localization.mapping import SETS
from knlib.query_localization.scores import overlap_scores
from knlib.query_localization.synapses import Columns
from knlib.query_localization.thresholds import SWEEP
from knlib.query_localization.verdicts import HYPOTHESES
from knlib.view import View

MODELS = ("one", "two")
LABELS = ("consistent", "inconsistent")
DRAW = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def ends(value):
    return {"estimate": value, "low": value - 0.1, "high": value + 0.1, "facts": 9}


def score_rows():
    """Rows of consistency cells: two models, three methods, two modes, twelve facts of two relations."""
    return pd.DataFrame([
        {"model": model, "method": method, "mode": mode, "set": name, "part": "all", "relation": f"r{i % 2}",
         "fact": f"r{i % 2}:{i}", "cs_2_k4": (i + shift) / 13, "j_star": i / 11, "jaccard": 0.4, "j_null": 0.1,
         "j_ceil": 0.9, "j_random": 0.01}
        for model in MODELS for shift, method in enumerate(("ig", "sig", "amig")) for mode in ("ours", "paper")
        for name in ("threshold", "top10") for i in range(12)
    ])  # fmt: skip


def effect_rows(**columns):
    """One row for every combination, with an estimate and its interval."""
    index = pd.MultiIndex.from_product(columns.values(), names=columns)
    return pd.DataFrame([dict(zip(columns, key, strict=True)) | ends(0.1 * i) for i, key in enumerate(index)])


def edit_rows():
    strategies = ["self", "union", "top_mean", "cas", "t_bound", "random"]
    rows = [
        {"model": model, "edit": edit, "strategy": name, "times": times, "n": 10 * times, "reliability": 0.9,
         "generality": 0.1 * i, "locality": 1 - 0.1 * times, "avg": 0.5, "dppl": 0.01}
        for model in MODELS for edit in ("erase", "update") for i, name in enumerate(strategies) for times in (1.0, 5.0)
    ]  # fmt: skip
    outside = [row | {"strategy": "outside", "times": 0.0} for row in rows if row["strategy"] == "self"]
    return pd.DataFrame(rows + outside[::2])


def columns_of(layers=2, heads=3, width=5):
    mass = DRAW.uniform(size=(layers, heads, width))
    kinds = np.array(["sink", *["relation"] * (width - 2), "subject"])
    return Columns(mass, np.tile(np.arange(width, 0, -1), (layers, 1)), kinds)


def figures():
    table = score_rows()
    own = table[(table["method"] == "ig") & (table["mode"] == "ours") & (table["set"] == "top10")]
    maps = {f"query {i}": DRAW.uniform(size=(4, 6)) for i in range(3)}
    numbers = effect_rows(k=[2, 3], kind=list(plots.KIND_STYLES), score=list(plots.SCORE_NAMES))
    columns = columns_of()
    return {
        "maps": plots.fact_maps(maps, {name: values > 0.8 for name, values in maps.items()}),
        "violins": plots.score_violins(own),
        "numbers": plots.scores_by_number(numbers),
        "shares": plots.share_lines(tables.shares(table, SWEEP), threshold=0.3),
        "mapping": plots.mapping_bars(effect_rows(model=MODELS, factor=[0.0, 2.0], label=LABELS, set=SETS)),
        "welch": plots.welch_bars(
            pd.DataFrame({"circular": [9.0, 8.0], "split-half": [1.0, np.nan]}, index=MODELS), np.linspace(0, 1, 1000)
        ),
        "attention": synapse_plots.attention_map(columns, columns.norm > 0.2, list("abcde"), "x"),
        "values": synapse_plots.value_points(
            effect_rows(model=MODELS, factor=[0.0, 2.0], set=["self", "sinks"], neurons=["members", "matched"])
        ),
        "doses": synapse_plots.dose_and_mediation(
            effect_rows(model=MODELS, set=["self", "mass_matched"], factor=[0.0, 1.0, 2.0]),
            effect_rows(model=MODELS, neurons=["members", "matched", "share"]),
        ),
        "frontier": synapse_plots.frontier(edit_rows()),
    }


def test_every_figure_has_labelled_axes_and_speaks_of_consistent_and_inconsistent_only():
    for name, figure in figures().items():
        figure.canvas.draw()
        texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
        assert not any("K_I" in text for text in texts), name
        panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
        assert panels, name
        for ax in panels:
            assert ax.get_title(loc="left") or ax.get_title(), name
            assert ax.get_ylabel() or ax.get_subplotspec().colspan.start > 0, name


def test_lines_and_marks_are_the_numbers_of_the_tables():
    shares = tables.shares(score_rows(), SWEEP)
    ax = plots.share_lines(shares, threshold=0.3).axes[0]
    own = shares[(shares["model"] == "one") & (shares["method"] == "ig") & (shares["mode"] == "ours")]
    line = next(line for line in ax.lines if line.get_label() == "ig")
    assert np.allclose(line.get_ydata(), own["estimate"] * 100) and np.allclose(line.get_xdata(), SWEEP)
    assert ax.lines[-1].get_xdata()[0] == 0.3
    left, right = plots.welch_bars(
        pd.DataFrame({"circular": [9.0], "split-half": [np.nan]}, index=["one"]), np.linspace(0, 1, 1000)
    ).axes
    assert "54.7" in left.get_title(loc="left") + left.get_title()
    assert {text.get_text() for text in right.texts} == {"9.0", "none"}
    one = synapse_plots.frontier(edit_rows(), times=5.0).axes[0]
    assert {tuple(np.ravel(line.get_xydata())) for line in one.lines if line.get_label() == "union"} == {(10.0, 50.0)}


def test_shares_count_facts_below_a_threshold_and_below_it_under_all_methods():
    found = tables.shares(score_rows(), [0.3]).set_index(["model", "method", "mode"])["estimate"]
    # Facts 0 ... 11 score i/13, (i+1)/13, (i+2)/13: below .3 are 4, 3 and 2 of 12, under all methods 2.
    expected = {"ig": 4 / 12, "sig": 3 / 12, "amig": 2 / 12, "all three": 2 / 12}
    assert {name: found["one", name, "ours"] for name in expected} == pytest.approx(expected)
    table = tables.share_table(score_rows())
    assert table.loc[("one", "ig"), "static 0.3"].startswith("33 [")
    assert table.loc[("one", "ig"), "J* < .5"].startswith("50 [") and table.loc[("one", "ig"), "two modes"] == "no"
    overlap = tables.overlap_table(score_rows())
    assert overlap.loc[("two", "sig"), ["J_null", "J", "J_ceil"]].tolist() == pytest.approx([0.1, 0.4, 0.9])


def test_shipped_models_keep_their_slots_and_others_take_what_is_free():
    assert tables.slots_for("atlas-bert, some/model") == {"G": "some/model", "B": "atlas-bert"}
    assert tables.slots_for("some/model") == {"G": "some/model"}
    for wrong in ("", "a,b,c,d", "a,a"):
        with pytest.raises(InputError, match="MODELS"):
            tables.slots_for(wrong)


def test_every_hypothesis_has_its_rules_and_the_papers_evidence_before_results():
    table = tables.hypothesis_table()
    assert {name.split()[0] for name in table.index} == set(tables.EVIDENCE)
    assert (table["supported when"].str.contains("interval above") | table["supported when"].str.contains("interval below")).all()  # fmt: skip


def test_verdict_table_quotes_readings_and_says_where_there_is_none():
    verdicts = pd.DataFrame({"hypothesis": ["H1"], "claim": ["c"], "verdict": ["undecided"], "model": ["one"]})
    readings = pd.DataFrame([
        {"hypothesis": "H1", "model": "one", "predicted": "above 0.5", "holds": "yes", **ends(0.75)},
        {"hypothesis": "H1", "model": "one", "predicted": "above 0.1", "holds": "?", "estimate": None, "low": None,
         "high": None},
    ])  # fmt: skip
    row = tables.verdict_table(verdicts, readings).loc[("H1", "one")]
    assert row["ours"] == "0.75 [0.65, 0.85] (above 0.5: yes); ? (above 0.1: ?)" and row["verdict"] == "undecided"


def test_bins_hold_the_largest_score_and_their_members():
    scores = np.arange(10.0).reshape(2, 5)
    values, dots = live.binned(scores, [9, 0], width=2)
    assert values.shape == (2, 3) and values.max() == 1 and values[0].tolist() == pytest.approx([1 / 9, 3 / 9, 4 / 9])
    assert np.argwhere(dots).tolist() == [[0, 0], [1, 2]]


def test_by_number_agrees_with_the_scores_and_mixes_other_facts():
    queries = pd.DataFrame([
        {"query": f"{f}{t}", "fact": f"r:{f}", "relation": "r", "template": f"t{t}", "answer": f"a{f}"}
        for f in range(4) for t in range(3)
    ])  # fmt: skip
    # Every fact has two neurons of its own, and one of each template.
    sets = [np.array([10 * f, 10 * f + 1, 100 + t]) for f in range(4) for t in range(3)]
    table = live.by_number(queries, sets, 50).set_index(["kind", "k", "score"])["estimate"]
    for score, value in overlap_scores(sets[:3]).items():
        if score in live.SCORES:
            assert table["one fact", 3, score] == pytest.approx(value)
    assert table["other facts", 3, "jaccard"] == 0 and ("random neurons", 3, "cs_2") in table.index


def test_live_rows_are_compared_with_stored_ones_in_order_within_equal_keys():
    rows = pd.DataFrame({"fact": ["a", "a", "b"], "value": [1.0, 2.0, 3.0]})
    assert live.gap_to_stored(rows, rows, ["fact"], "value") == 0
    assert live.gap_to_stored(rows[1:], rows, ["fact"], "value") == 1
    assert np.isnan(live.gap_to_stored(rows, rows.assign(fact="c"), ["fact"], "value"))


def test_tables_skip_what_was_not_run():
    results, slots = {}, {"G": "one"}
    for table in (tables.mapping_effects, tables.synapse_values, tables.doses, tables.mediation, tables.edits):
        assert table(results, slots).empty
    assert tables.status(results, slots, []).empty
    with pytest.raises(InputError, match="no model"):
        tables.verdicts(results, slots)
    found = SimpleNamespace(rows=pd.DataFrame({"fact": ["a", "b"]}), summary={}, provenance={"hash": "h"})
    assert tables.status({"A1": found}, slots, ["A1"]).loc["A1", ["facts", "result"]].tolist() == [2, "stored"]


def test_sliders_redraw_figure_and_numbers(monkeypatch):
    shown = []
    monkeypatch.setattr(View, "show", lambda self, *things: shown.extend(things))
    study = tiny_study()
    boxes = {
        "threshold": explorer.threshold_slider(score_rows(), 0.3),
        "alpha": explorer.alpha_slider(study.model, next(study.queries.itertuples()), 0.3),
        "budget": explorer.budget_slider(edit_rows(), "one", 4.0),
    }
    assert len(shown) == 6
    sliders = {name: box.children[0] for name, box in boxes.items()}
    assert sliders["budget"].value == 5.0
    sliders["threshold"].value = 0.6
    figure, table = shown[-2:]
    assert table.loc["one", "ig"].startswith("67 [") and figure.axes[0].lines[-1].get_xdata()[0] == 0.6
    few = shown[3].loc["norm", "synapses"]
    sliders["alpha"].value = 0.9
    assert 0 < shown[-1].loc["norm", "synapses"] < few and shown[-1].loc["norm", "in sinks, %"] == 0
    sliders["budget"].value = 1.0
    assert shown[-1].loc["self", ("erase", "loc")] == 90


def test_without_an_inconsistent_fact_the_mapping_hypothesis_is_undecided():
    parts = next(h for h in HYPOTHESES if h.id == "H3").parts
    summary = {"self_less": {"all": {}, "consistent": {}, "inconsistent": {}}, "interaction": {}}
    assert [reading.find(summary) for part in parts for reading in part] == [None, None]
    nothing = pd.DataFrame({"circular": [np.nan], "split-half": [np.nan]}, index=["one"])
    assert plots.welch_bars(nothing, np.linspace(0, 1, 100)).axes[1].get_ylim() == (0, 1)
