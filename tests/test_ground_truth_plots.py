"""Figures of notebook 07, from synthetic tables: what is drawn is what the tables say."""

import matplotlib

matplotlib.use("Agg")

import ground_tables as tables
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from knlib.errors import InputError
from knlib.ground_truth import claim_plots, fact_plots, method_plots, plots
from knlib.ground_truth.estimates import by_size
from knlib.ground_truth.questions import Finding, best_thresholds, decide
from knlib.ground_truth.scorers import MATRICE, localizers, rows, scores
from knlib.ground_truth.summary import summary
from knlib.localization import LOCALIZERS
from knlib.statistics import Interval


@pytest.fixture(scope="module")
def facts():
    return tables.facts_table(each=4)


@pytest.fixture(scope="module")
def board(facts):
    return tables.board_table(facts)


@pytest.fixture(autouse=True)
def fits_a_page():
    yield
    sizes = [plt.figure(number).get_size_inches() for number in plt.get_fignums()]
    plt.close("all")
    assert all(wide <= 14 and high <= 9 for wide, high in sizes)


def labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def dots(ax, color=None):
    """{y: x} of dots with intervals, in one colour."""
    lines = [c.lines[0] for c in ax.containers]
    kept = [line for line in lines if color is None or to_rgba(line.get_color()) == to_rgba(color)]
    return {round(float(y)): float(x) for line in kept for x, y in zip(*line.get_data(), strict=True)}


def estimate(board, row, measure, kind="all"):
    own = board[
        (board["row"] == row) & (board["measure"] == measure) & (board["kind"] == kind) & (board["scope"] == "all")
    ]
    return own["estimate"].iloc[0]


def test_every_row_has_a_name_and_a_family():
    names = [plots.name_of(row) for row in rows()]
    assert len(set(names)) == len(names) and set(LOCALIZERS) - {"mean"} <= set(plots.NAMES)
    assert set(scores()) <= set(plots.NAMES)
    assert all(plots.family(row) in plots.FAMILIES for row in rows())
    own = plots.default_rows(rows())
    assert MATRICE in own and "re_lcb from ig" not in own and set(scores()) <= set(own)
    assert len(own) == len(scores()) + len(localizers()) - 1


def test_the_scoreboard_has_the_truth_on_top_and_its_numbers(board):
    figure = plots.scoreboard_figure(board, tables.costs_table())
    cells, points, cost = figure.axes[:3]
    names = labels(cells)
    assert names[0] == "truth" and names[-1] == "random" and "letters: QRNCA" not in names
    found = dots(points)
    assert len(found) == len(names)
    assert found[names.index("MATRICE")] == pytest.approx(estimate(board, MATRICE, "average_precision"))
    drawn = cells.images[0].get_array()
    where = (names.index("MATRICE"), [text.get_text().split()[0] for text in cells.get_xticklabels()].index("query"))
    assert drawn[where] == pytest.approx(estimate(board, MATRICE, "average_precision", "query"))
    assert cost.get_xscale() == "log" and any("facts" in text.get_text() for text in points.texts)
    (band,) = points.patches
    assert band.get_x() <= 0 <= band.get_x() + band.get_width()


def test_forty_rows_fit_and_letters_are_in_one_language(board):
    rows_shown = list(dict.fromkeys(board["row"]))
    figure = plots.scoreboard_figure(board, tables.costs_table(), rows_shown, scope="language")
    assert "letters: QRNCA" in labels(figure.axes[0]) and len(labels(figure.axes[0])) == len(rows_shown)
    with pytest.raises(InputError, match="average_precision over all"):
        plots.scoreboard_figure(board, tables.costs_table(), ["letters: qrnca"])


def test_curves_fall_as_they_do(facts):
    figure = method_plots.recall_curves(tables.curves_table(facts), ["ig", "random"])
    assert [ax.get_title() or ax.get_title(loc="left") for ax in figure.axes] == list(plots.KINDS) and legend(
        figure
    ) == ["IG", "random"]
    line = figure.axes[0].lines[0].get_ydata()
    mean = facts[(facts["row"] == "ig") & (facts["kind"] == "agnostic") & (facts["scope"] == "all")][
        "average_precision"
    ].mean()
    assert line[0] == pytest.approx(mean) and line[-1] == pytest.approx(mean / 2)
    with pytest.raises(InputError, match="one to 8"):
        method_plots.recall_curves(tables.curves_table(facts), ["nothing"])


def test_who_is_fooled_has_relation_left_and_redundant_right(board):
    figure = method_plots.fooled_points(board, ["ig", MATRICE, "random", "truth"])
    left, right = figure.axes
    assert labels(left) == ["MATRICE", "IG", "random"]  # the truth cannot be fooled
    assert dots(left)[0] == pytest.approx(estimate(board, MATRICE, "common_at_k", "relation"))
    colors = [style[0] for style in method_plots.STYLES[:2]]
    for color, kind in zip(colors, ("agnostic", "redundant"), strict=True):
        assert dots(right, color)[1] == pytest.approx(estimate(board, "ig", "groups_at_k", kind))


def test_sizes_have_a_line_for_each_type(facts):
    figure = method_plots.size_lines(facts, ["ig", "random"])
    assert legend(figure) == ["IG", "random"]
    own = by_size(facts, "recall").query("row == 'ig'")
    lines = [line for line in figure.axes[2].lines if to_rgba(line.get_color()) == to_rgba(method_plots.STYLES[0][0])]
    assert [len(line.get_xdata()) for line in lines] == [3, 3, 1]  # 1 to 4, 4 to 16, 64
    assert np.concatenate([line.get_ydata() for line in lines]) == pytest.approx(own["estimate"].to_numpy())
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "2", "4", "8", "16", "64"]
    with pytest.raises(InputError, match="one to 8"):
        method_plots.size_lines(facts, ["nothing"])


def test_agreement_leaves_the_oracle_out_and_the_best_on_top():
    table = tables.agreement_table()
    left, _ = method_plots.oracle_points(table).axes
    best = table[table["scores"] != "ablation"].sort_values("estimate")["scores"].iloc[-1]
    assert labels(left)[0] == plots.name_of(best) and "ablation (oracle)" not in labels(left)


def test_calibration_and_types_are_those_of_the_tables():
    table = tables.calibration_table()
    figure = claim_plots.calibration_points(table)
    points = figure.axes[0].collections[-1].get_offsets()
    assert np.allclose(points[:, 1], np.linspace(0.1, 0.8, 5)) and legend(figure) == ["MATRICE", "calibrated"]
    with pytest.raises(InputError, match="re_lcb"):
        claim_plots.calibration_points(table, ["activation"])
    confusion = tables.confusion_table()
    figure = claim_plots.confusion_maps(confusion, ["ig"])
    drawn = figure.axes[0].images[0].get_array()
    own = confusion.set_index(["row", "kind", "decision"])["share"]
    x = claim_plots.DECISIONS.index("half")
    assert drawn[2, x] == pytest.approx(100 * own["ig", "half", "half"]) and np.allclose(drawn.sum(1), 100)
    frames = [(p.get_x() + 0.5, p.get_y() + 0.5) for p in figure.axes[0].patches]
    assert frames == [(0, 0), (1, 1), (2, 2), (3, 3), (0, 4), (0, 5), (0, 6), (0, 7)]


def test_consistency_draws_the_best_threshold_and_the_published_one():
    table = tables.consistency_table(each=8)
    best = best_thresholds(table)
    figure = fact_plots.consistency_points(table, best)
    values, accuracy = figure.axes
    assert labels(values)[0] == "CS_1, above .3" and len(labels(values)) == len(best)
    published = [line.get_xdata()[0] for line in accuracy.lines if line.get_marker() == "X"]
    low = table.loc[table["kind"] == "agnostic", "cs_1 threshold"] >= 0.3
    high = table.loc[table["kind"] == "query", "cs_1 threshold"] < 0.3
    assert len(published) == 2 and published[0] == pytest.approx((low.mean() + high.mean()) / 2)
    with pytest.raises(InputError, match="no score from"):
        fact_plots.consistency_points(table, best, start="nothing")


def test_signatures_have_a_row_for_each_group_that_differs():
    figure = fact_plots.signature_map(tables.signature_table())
    ax = figure.axes[0]
    names = [label.split("  ")[0] for label in labels(ax)]
    assert names[:3] == ["agnostic", "language: its own", "language: others"]
    assert {"relation (its own)", "relation (the relation's)", "distributed (4 strongest)"} <= set(names)
    drawn = ax.images[0].get_array()
    assert drawn[names.index("query: others")].tolist() == pytest.approx([97, 90, 0, 0])


def test_planted_and_natural_neurons_are_boxes_of_their_kind():
    table = tables.neuron_table()
    figure = fact_plots.neuron_boxes(table)
    assert [label.split("\n")[0] for label in labels(figure.axes[0])] == [
        "planted",
        "old, best for",
        "other old",
        "new, of no fact",
    ]
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["", "", "no queries of its own", "no queries of its own"]
    medians = [line.get_xdata()[0] for line in figure.axes[2].lines if line.get_linewidth() == 1.6]
    assert medians[0] == pytest.approx(table.loc[table["kind"] == "planted", "norm"].median())


def test_a_watched_fact_has_a_panel_for_each_kind_of_query():
    figure = fact_plots.watch_figure(tables.watch_table())
    assert legend(figure) == ["en", "ru", "ar", "zh", "loud at its queries", "loud elsewhere"]
    assert [len(ax.lines) for ax in figure.axes] == [4, 4, 4, 2]
    with pytest.raises(InputError, match="columns step language what p"):
        fact_plots.watch_figure(pd.DataFrame({"step": [1]}))


def finding(question, about, low, high):
    interval = Interval((low + high) / 2, low, high, 0.95, 20)
    return Finding(question, about, interval, decide(interval))


def test_the_summary_counts_all_and_prints_what_was_chosen():
    many = [
        finding("Which?", f"{row}, average_precision, agnostic", low, low + 0.2)
        for row, low in (("a", 0.1), ("ig", -0.1), ("b", -0.5), ("c", 0.2), ("d", 0.3))
    ]
    lines = summary([*many, finding("Is it?", "x", 0.1, 0.2)])
    assert lines == ["Which? yes 3, no 1, undecided 1", "    IG, average precision, agnostic: undecided, 0 [-0.1, 0.1]",
                     "Is it? yes 1", "    x: yes, 0.15 [0.1, 0.2]"]  # fmt: skip
    assert summary([finding("Is it?", "cs_1 threshold at 0.3", 0.1, 0.2)])[1].startswith(
        "    CS_1, above .3 at 0.3: yes"
    )
    assert summary([]) == []
