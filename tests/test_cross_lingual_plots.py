"""Figures about sharing show the numbers of their tables."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from knlib import cross_lingual_plots as plots
from knlib.cross_lingual import KINDS


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def profile(value):
    index = pd.MultiIndex.from_product([KINDS, range(2)], names=["kind", "layer"])
    means = np.arange(6.0) + value
    return pd.DataFrame({"mean": means, "low": means - 0.5, "high": means + 1}, index=index)


def test_kind_layers_show_bars_whiskers_and_chance():
    figure = plots.kind_layers(profile(1), {"other facts": profile(0), "random neurons": profile(3)})
    for i, ax in enumerate(figure.axes):
        assert [bar.get_height() for bar in ax.patches] == [2 * i + 1, 2 * i + 2]
        marks = {line.get_label(): list(line.get_ydata()) for line in ax.lines if len(line.get_xdata()) == 2}
        assert marks["other facts"] == [2 * i, 2 * i + 1] and marks["random neurons"] == [2 * i + 3, 2 * i + 4]
        whiskers = [segment[:, 1].tolist() for segment in ax.containers[0][2][0].get_segments()]
        assert whiskers == [[2 * i + 0.5, 2 * i + 2], [2 * i + 1.5, 2 * i + 3]]
    assert (figure.axes[0].get_title("left") or figure.axes[0].get_title()).endswith(": 3.0 per fact")


def test_language_counts_leave_out_what_no_neuron_reaches():
    counts = pd.Series([10.0, 2.0, 0.0, 0.5], index=[1, 2, 3, 4])
    ax = plots.language_count_lines({"located": counts, "random neurons": counts * 0}).axes[0]
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 4] and ax.lines[0].get_ydata().tolist() == [10, 2, 0.5]
    assert len(ax.lines[1].get_xdata()) == 0 and ax.get_yscale() == "log"


def matrix(values):
    return pd.DataFrame(values, index=["ja", "en", "de"], columns=["ja", "en", "de"], dtype=float)


def test_overlap_maps_put_one_table_above_and_one_below():
    above = matrix([[np.nan, 0.1, 0.2], [0.1, np.nan, 0.3], [0.2, 0.3, np.nan]])
    below = matrix([[np.nan, 0.5, np.nan], [0.5, np.nan, 0.4], [np.nan, 0.4, np.nan]])
    ax = plots.overlap_maps({"x": (above, below)}).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["en", "de", "ja"]
    shown = {(round(t.get_position()[1] - 0.5), round(t.get_position()[0] - 0.5)): t.get_text() for t in ax.texts}
    # Rows and columns en de ja; above: en-de 30, en-ja 10, de-ja 20; below: en-de 40, en-ja 50, de-ja none.
    assert shown == {(0, 1): "30", (0, 2): "10", (1, 2): "20", (1, 0): "40", (2, 0): "50"}


def test_overlap_points_by_group():
    summary = pd.DataFrame({
        "facts": [3, 2], "pairs": [5, 4], "same": [0.5, 0.4], "same_low": [0.4, 0.3], "same_high": [0.7, 0.5],
        "other": [0.1, 0.2], "other_low": [0.0, 0.1], "other_high": [0.2, 0.4], "twin": [0.3, np.nan],
        "twin_same": [0.35, np.nan],
    }, index=["same script, spelled alike", "other script, spelled differently"])  # fmt: skip
    ax = plots.overlap_points(summary, pd.Series({"same script, spelled alike": 0.01})).axes[0]
    same, other = ax.containers
    assert same[0].get_ydata().tolist() == [50, 40] and other[0].get_ydata().tolist() == [10, 20]
    ends = [segment[:, 1] for segment in same[2][0].get_segments()]
    assert np.allclose(ends, [[40, 70], [30, 50]])
    values = {line.get_label().split("\n")[0]: line.get_ydata()[0] for line in ax.lines if len(line.get_xdata()) == 2}
    assert values["the twin: other fact,"] == 30 and values["same fact, of those"] == pytest.approx(35)
    assert values["random neurons"] == 1
    assert ax.get_xticklabels()[0].get_text() == "same script\nspelled alike\n3 facts"


def test_effect_map_keeps_scripts_together_and_has_no_minus_zero():
    table = pd.DataFrame({"ja": [-0.001, -0.5, -0.1], "en": [-0.3, 0.2, 0.0], "tr": [0.04, np.nan, 0.0]},
                         index=["ja", "en", "without it"])  # fmt: skip
    table.loc["tr"] = [0.1, 0.1, 0.1]
    ax = plots.effect_map(table, "x").axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["en", "tr", "ja", "without it"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["en", "tr", "ja"]
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["20", "-50", "10", "10", "10", "-30", "4", "0", "0", "0", "-10"]


def test_effects_by_distance_go_from_near_to_far():
    index = pd.MultiIndex.from_product([["left out", "same language"], ["neurons", "layer_matched"]],
                                       names=["distance", "condition"])  # fmt: skip
    summary = pd.DataFrame({"change": [-0.1, 0.0, -0.4, 0.01], "low": -0.5, "high": 0.1}, index=index)
    ax = plots.effect_by_distance(summary).axes[0]
    assert ax.containers[0][0].get_ydata().tolist() == [-40, -10]
    assert ax.get_xticklabels()[0].get_text() == "same language"


def left_out(names):
    n = len(names)
    columns = {c: np.linspace(-0.5, -0.1, n) for c in ("change", "change_low", "change_high")}
    return pd.DataFrame(columns | {c: [0.01] * n for c in ("control", "control_low", "control_high")}, index=names)


def test_left_out_points_one_panel_each():
    figure = plots.left_out_points({"a": left_out(["ja", "en"]), "b": left_out(["en"]).head(0)})
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["en", "ja"]
    assert figure.axes[0].containers[0][0].get_ydata().tolist() == pytest.approx([-10, -50])
    assert not figure.axes[1].containers


def test_localizers_without_effects_keep_their_place():
    sizes = pd.DataFrame([[5.0, 2.0, 0.0], [50.0, 20.0, 3.0]], index=["kn_share", "mean"], columns=list(KINDS))
    figure = plots.localizer_panels(sizes, left_out(["mean"]))
    assert [bar.get_height() for bar in figure.axes[0].patches] == [5, 50, 2, 20, 0, 3]
    values = figure.axes[1].containers[0][0].get_ydata()
    assert np.isnan(values[0]) and values[1] == -50
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["kn\nshare", "mean"]


def test_shared_pair_counts_by_layer_and_fact():
    shared = pd.DataFrame([("r:A", 0, 1, "partial"), ("r:A", 2, 1, "agnostic"), ("r:B", 2, 5, "partial")],
                          columns=["fact", "layer", "neuron", "kind"])  # fmt: skip
    left, right = plots.shared_pair(shared, ["r:A", "r:B"], 3, "x", chance=0.5).axes
    assert [bar.get_height() for bar in left.patches] == [0.5, 0, 0.5, 0, 0, 0.5]
    assert [bar.get_width() for bar in right.patches] == [1, 1, 1, 0]
    assert [label.get_text() for label in right.get_yticklabels()] == ["r:A", "r:B"]
    assert right.lines[0].get_xdata() == pytest.approx([0.5, 0.5])
