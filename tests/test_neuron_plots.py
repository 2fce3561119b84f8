"""Figures about neurons show the numbers of their tables."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from knlib import neuron_plots


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_path_lines_draw_one_line_a_layer_in_both_panels():
    alphas = np.linspace(0, 1, 5)
    curve = pd.concat([
        pd.DataFrame({"layer": layer, "alpha": alphas, "probability": alphas**layer, "slope": layer * alphas})
        for layer in (2, 1, 3)
    ])  # fmt: skip
    left, right = neuron_plots.path_lines(curve, "x").axes
    assert [line.get_label() for line in left.lines] == ["1", "2", "3"]
    assert left.lines[1].get_ydata() == pytest.approx(alphas**2)
    assert right.lines[2].get_ydata() == pytest.approx(3 * alphas)


def test_riemann_bars_have_the_height_at_their_right_end():
    alphas = np.linspace(0, 1, 201)
    curve = pd.DataFrame({"alpha": alphas, "slope": 3 * alphas**2})
    ax = neuron_plots.riemann_bars(curve, 4, "x").axes[0]
    boxes = [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in ax.patches]
    assert np.allclose(boxes, [(k / 4, 0.25, 3 * ((k + 1) / 4) ** 2) for k in range(4)])
    # The sum over right ends of 3 x^2 with 4 steps: 3 * 30 / 64, where the integral is 1.
    assert sum(width * height for _, width, height in boxes) == pytest.approx(90 / 64)


def test_rule_error_lines_show_median_and_worst_by_nodes():
    table = pd.DataFrame({
        "rule": "riemann", "setting": [20, 20, 20, 5, 5, 5], "nodes": [19.0] * 3 + [4.0] * 3,
        "error": [0.1, 0.2, 0.9, 0.3, 0.4, 0.5],
    })  # fmt: skip
    ax = neuron_plots.rule_error_lines(table).axes[0]
    median, worst = ax.lines[:2]
    assert median.get_label() == "riemann"
    assert (median.get_xdata().tolist(), median.get_ydata().tolist()) == ([4, 19], [0.4, 0.2])
    assert worst.get_ydata().tolist() == [0.5, 0.9]
    assert ax.get_xscale() == ax.get_yscale() == "log"


def test_layer_bars_show_percent():
    table = pd.DataFrame({"a": [0.25, 0.75], "b": [1.0, 0.0]}, index=[0, 1])
    ax = neuron_plots.layer_bars(table, "x").axes[0]
    assert [bar.get_height() for bar in ax.patches] == [25, 75, 100, 0]


def test_sets_show_medians_and_overlap_in_percent():
    overlap = pd.DataFrame([[1.0, 0.25], [0.25, 1.0]], index=["a, one", "b"], columns=["a, one", "b"])
    figure = neuron_plots.sets_and_overlap({"a, one": [1, 5, 3], "b": []}, overlap)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [3, 3]
    assert [text.get_text() for text in figure.axes[1].texts] == ["100", "25", "25", "100"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["a\none", "b"]


def test_effect_points_keep_groups_in_order_and_intervals_in_place():
    rows = {
        (factor, group, condition): {"change": -0.5, "low": -0.75, "high": -0.125 if condition == "neurons" else 0.25}
        for factor in (0, 2)
        for group in ("other", "same", "language")
        for condition in ("neurons", "layer_matched")
    }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["factor", "group", "condition"])
    figure = neuron_plots.effect_points(table)
    assert [ax.get_title("left") or ax.get_title() for ax in figure.axes] == ["neurons × 0", "neurons × 2"]
    names = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert names == [neuron_plots.GROUPS[g] for g in ("same", "language", "other")]
    own, control = figure.axes[0].containers
    ends = np.array([segment[:, 1] for segment in own[2][0].get_segments()])
    assert np.allclose(ends, [[-75, -12.5]] * 3)
    assert control[0].get_ydata().tolist() == [-50] * 3


def test_scaled_bars_stand_in_the_order_of_scripts():
    table = pd.DataFrame({"before": [0.9, 0.8, 0.7], "after": [0.1, 0.2, 0.3]}, index=["ja", "en", "tr"])
    ax = neuron_plots.scaled_bars(table, "x").axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["en", "tr", "ja"]
    after, before = ([bar.get_height() for bar in bars] for bars in ax.containers)
    assert (after, before) == ([0.2, 0.3, 0.1], [0.8, 0.7, 0.9])
