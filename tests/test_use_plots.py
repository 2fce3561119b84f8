"""Figures about the three uses show the numbers of their tables."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from knlib import cross_lingual_edits, enhancement, injection, use_plots


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def summary(arms, groups, controlled=()):
    rows = {}
    for i, arm in enumerate(arms):
        for j, group in enumerate(groups):
            value = 0.1 * (i + 1) + 0.05 * j
            row = {"estimate": value, "low": value - 0.05, "high": value + 0.1}
            own = {"control": 0.02, "control_low": 0.0, "control_high": np.nan}
            rows[arm, group] = row | (own if arm in controlled else dict.fromkeys(own, np.nan))
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["arm", "group"])
    return table


def values(container):
    return container[0].get_ydata().tolist()


def test_editing_separates_the_edited_fact_from_the_others():
    groups = ["other", "language", "request", "relation"]
    figure = use_plots.editing_points(summary(["a", "b"], groups, ("a", "b")), "x")
    own, others = figure.axes
    names = [label.get_text() for label in own.get_xticklabels()]
    assert names == [cross_lingual_edits.GROUPS[g] for g in ("request", "language")]
    assert len(others.get_xticklabels()) == 2
    # Dots of arm a, its control, then b: groups in the order of the axis.
    assert values(own.containers[0]) == pytest.approx([20, 15]) and values(own.containers[1]) == pytest.approx([2, 2])
    assert values(others.containers[0]) == pytest.approx([25, 10])
    ends = np.array([segment[:, 1] for segment in own.containers[0][2][0].get_segments()])
    assert np.allclose(ends, [[15, 30], [10, 25]])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["a", "b", "as many random neurons\nof the same layers"]
    x = [container[0].get_xdata() for container in own.containers]
    assert all((np.diff(place) == 1).all() for place in x) and len({tuple(place) for place in x}) == 4


def test_enhancement_and_injection_mark_where_answers_were_before():
    table = summary(["LAKN"], list(enhancement.GROUPS), ("LAKN",))
    before = summary(["LAKN"], list(enhancement.GROUPS))
    ax = use_plots.enhancement_points(table, before, "x").axes[0]
    (dashes,) = ax.collections[-1:]
    assert [segment[0, 1] for segment in dashes.get_segments()] == pytest.approx([10, 15, 20])
    table = summary(["LAKN", "full"], list(injection.GROUPS), ("LAKN",))
    figure = use_plots.injection_points(table, table, "x")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list(injection.GROUPS.values())
    assert len(figure.axes[0].containers) == 3
    assert [t.get_text() for t in figure.legends[0].get_texts()][-1] == "before"


def test_intervals_without_ends_are_drawn_as_points():
    table = summary(["a"], ["request"]).assign(low=np.nan, high=np.nan)
    ax = use_plots.editing_points(table, "x").axes[0]
    assert values(ax.containers[0]) == pytest.approx([10])
