"""Figures of query-relevant neurons, from synthetic tables: what is drawn is what the tables say."""

import matplotlib

matplotlib.use("Agg")

import letter_tables
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from knlib.multiple_choice import LETTERS
from knlib.query_relevant import effect_plots, plots, set_plots
from knlib.query_relevant.localizers import names
from knlib.query_relevant.predictors import pooled
from knlib.query_relevant.question_space import class_measures, question_space
from knlib.statistics import Interval


@pytest.fixture(autouse=True)
def fits_a_page():
    yield
    sizes = [plt.figure(number).get_size_inches() for number in plt.get_fignums()]
    plt.close("all")
    assert all(wide <= 14 and high <= 9 for wide, high in sizes)


def prompts():
    rows = [(f"f|en/{w}|{r}", f"en/{w}", r, LETTERS[(w + r) % 4]) for w in range(3) for r in range(4)]
    return pd.DataFrame(rows, columns=["query", "wording", "rotation", "answer"])


def labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def points(ax, color=None):
    """The (x, y) of dots with intervals, in one colour."""
    lines = [c.lines[0] for c in ax.containers]
    chosen = [line for line in lines if color is None or to_rgba(line.get_color()) == to_rgba(color)]
    return [(x, y) for line in chosen for x, y in zip(*line.get_data(), strict=True) if np.isfinite(x)]


def test_every_localizer_has_a_name():
    assert set(names()) <= set(plots.NAMES) and plots.name_of("mine") == "mine"


def test_a_prompt_has_a_row_and_its_right_letter_a_frame():
    shown = prompts()
    letters = pd.DataFrame(np.random.default_rng(0).dirichlet([1] * 4, 12), columns=list(LETTERS))
    letters = letters.assign(query=shown["query"]).sample(frac=1, random_state=0)
    ax = plots.prompt_map(shown.sample(frac=1, random_state=1), letters, "a").axes[0]
    expected = 100 * letters.sort_values("query")[list(LETTERS)].to_numpy()
    np.testing.assert_allclose(ax.images[0].get_array(), expected)
    assert [LETTERS[int(frame.get_x() + 0.5)] for frame in ax.patches] == shown["answer"].tolist()
    assert labels(ax)[:5] == [*(f"en/0, order {i}" for i in range(1, 5)), "en/1, order 1"]


def test_accuracy_is_pooled_by_counts():
    table = letter_tables.accuracy()
    uneven = (table["language"] == "zh") & (table["answer"] == "A") & ~table["taught"]
    table.loc[uneven, ["prompts", "accuracy"]] = 300, 0.1
    figure = plots.accuracy_points(table, Interval(0.27, 0.22, 0.31, 0.95, 5))
    by_language = dict(points(figure.axes[0], plots.TAUGHT[False][1]))
    right, of = 3 * (3 * 18 + 30), 3 * (3 * 30 + 300)
    last = max(by_language)
    assert by_language[last] == pytest.approx(100 * right / of)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["en", "fr", "zh"]
    assert set(legend(figure)) == {"chance", "options only", "taught as multiple choice", "not taught so"}
    assert "options only" not in legend(plots.accuracy_points(table))


def test_accuracy_of_facts_that_were_all_taught():
    table = letter_tables.accuracy()
    assert "not taught so" not in legend(plots.accuracy_points(table[table["taught"]]))


def test_layers_have_a_mean_and_a_gap():
    scores, gaps = np.random.default_rng(0).normal(size=(10, 4)), np.full((10, 4), 0.02)
    left, right = plots.layer_sums(scores, gaps, "t").axes
    means = [line.get_ydata()[0] for line in left.lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 2]
    np.testing.assert_allclose(means, scores.mean(0))
    np.testing.assert_allclose(right.lines[0].get_ydata(), 2)


def test_orders_stand_side_by_side_with_the_chosen_one_framed():
    neurons = pd.DataFrame({"layer": [0, 1, 2], "neuron": [5, 6, 7]})
    values = np.random.default_rng(0).normal(size=(3, 12))
    ax = plots.rotation_map(values, neurons, prompts(), "t", chosen=6).axes[0]
    np.testing.assert_array_equal(ax.images[0].get_array(), values)
    assert labels(ax) == ["L0 N5", "L1 N6", "L2 N7"]
    assert [frame.get_x() for frame in ax.patches] == [5.5]
    assert [label.get_text() for label in ax.get_xticklabels()][:5] == ["A\nen/0", "B", "C", "D", "B\nen/1"]


def test_a_walk_says_who_is_common_and_who_is_left():
    table = pd.DataFrame({"layer": [1, 2, 3], "neuron": [4, 5, 6], "na": [0.5, 0.3, 0.2], "cluster_count": [9, 1, 2], "ica": [0.1, 2.0, 1.5],
                          "score": [0.05, 0.6, 0.3], "is_common": [True, False, False], "final": [False, True, False]})  # fmt: skip
    ax = plots.walk_map(table, "t", rows=3).axes[0]
    said = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in ax.texts}
    assert [said[0, x] for x in range(6)] == ["0.500", "9", "0.10", "0.050", "yes", ""]
    assert [said[y, 5] for y in range(3)] == ["", "yes", ""]
    assert labels(ax) == ["L1 N4", "L2 N5", "L3 N6"]
    assert "no neuron" in plots.walk_map(table.iloc[:0], "t").axes[0].get_title()


def test_sizes_and_layers():
    figure = set_plots.sizes_and_layers(letter_tables.sizes(), letter_tables.layers(), ["qrnca", "oracle", "unknown"])
    assert labels(figure.axes[0]) == [plots.name_of(name) for name in names()]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), 11.5)
    assert [ax.get_title(loc="left").split(":")[0] or ax.get_title().split(":")[0] for ax in figure.axes[1:]] == [
        "QRNCA",
        "ablation (oracle)",
    ]
    heights = [bar.get_height() for bar in figure.axes[1].patches[:8]]
    np.testing.assert_array_equal(heights, 3 * np.arange(8))


def test_overlaps_stand_below_the_diagonal_and_chance_above():
    table = letter_tables.overlap()
    ax = set_plots.overlap_maps(table).axes[0]
    values = np.asarray(ax.images[0].get_array(), float)
    first = table.iloc[0]
    assert values[1, 0] == pytest.approx(100 * first["jaccard"]) and values[0, 1] == pytest.approx(30)
    assert np.isnan(np.diag(values)).all()
    bold = [t for t in ax.texts if t.get_fontweight() == "bold"]
    assert len(bold) == (table.query("kind == 'relation'")["p_lower"] < 0.05).sum()


def test_questions_have_the_colour_of_their_class():
    neurons = letter_tables.neurons()
    space = question_space(neurons)
    relation = dict(zip(neurons["fact"], neurons["relation"], strict=True))
    classes = {"relation": space.points["fact"].map(relation), "language": space.points["language"]}
    measures = {name: class_measures(space, own, permutations=20) for name, own in classes.items()}
    figure = set_plots.question_points(space, classes, measures)
    assert [len(line.get_xdata()) for line in figure.axes[0].lines] == [12, 12]
    assert f"silhouette {measures['relation']['silhouette']:.2f}" in figure.axes[0].get_title()


def test_the_scoreboard_shows_both_samples_of_r_and_s():
    board = letter_tables.board()
    figure = effect_plots.scoreboard_points(board)
    own = board.query("questions_of == 'all' and factor == 2").set_index(["sample", "condition"])
    found = sorted(x for x, _ in points(figure.axes[0], effect_plots.OPERATIONS[2.0][1]))
    np.testing.assert_allclose(found, sorted(own["R"]))
    found = sorted(x for x, _ in points(figure.axes[1], effect_plots.OPERATIONS[2.0][1]))
    np.testing.assert_allclose(found, sorted(own.loc["held_out", "U"]))
    assert labels(figure.axes[0]) == [plots.name_of(name) for name in names()]
    assert figure.axes[0].get_xscale() == "linear"
    board.loc[0, ["R", "R_high"]] = 900, 1000
    assert effect_plots.scoreboard_points(board).axes[0].get_xscale() == "symlog"


def test_facts_and_languages():
    table = letter_tables.fact_language()
    figure = effect_plots.fact_language_figure(table)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[31, 12], [4, -1]])
    found = sorted(x for x, _ in points(figure.axes[3], effect_plots.OPERATIONS[0.0][1]))
    np.testing.assert_allclose(found, sorted(table.query("factor == 0")["language"]))


def test_doses_have_a_band_of_seeds():
    figure = effect_plots.dose_lines(letter_tables.doses())
    ax = figure.axes[0]
    assert dict(points(ax, plots.COLORS[0])) == {d: 20 * (d - 1) for d in (0, 0.5, 1, 1.5, 2, 3, 5)}
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (-20, 15)
    assert legend(figure)[0] == "QRNCA (12 questions)"


def test_flips_are_of_the_right_kind_and_counted():
    table = letter_tables.flips()
    table.loc[(table["factor"] == 2) & (table["flip"] == "to_wrong"), "flipped"] = 999
    figure = effect_plots.flip_points(table)
    said = [t.get_text() for t in figure.axes[0].texts]
    assert said[:2] == ["0/40", "1/41"] and len(said) == 2 * len(names()) and "999/40" not in said
    found = sorted(x for x, _ in points(figure.axes[0], plots.COLORS[0]))
    np.testing.assert_allclose(found, [100 * i / (40 + i) for i in range(len(names()))])


def test_letters_beside_texts():
    board, texts = letter_tables.board(), letter_tables.long_form()
    figure = effect_plots.letter_and_text(board, texts)
    found = sorted(x for x, _ in points(figure.axes[1], effect_plots.OPERATIONS[2.0][1]))
    np.testing.assert_allclose(found, sorted(texts.query("factor == 2")["change"]))


def test_predictors_beside_their_controls():
    table = pooled(letter_tables.predictors())
    assert len(table.query("`class` == 'all'")) == 9
    own = table.query("`class` == 'all' and predictor == 'probe' and set == 'own'").iloc[0]
    assert (own["right"], own["of"]) == (6 * 16, 6 * 48) and own["low"] < own["share"] == 1 / 3 < own["high"]
    figure = effect_plots.predictor_points(table, 0.7)
    assert labels(figure.axes[0]) == [*letter_tables.CLASSES, "all"] and legend(figure)[-1] == "whole model"
    assert len(points(figure.axes[2], effect_plots.SETS["own"][1])) == 7
    without = effect_plots.predictor_points(table[table["predictor"] != "probe"])
    assert len(without.axes) == 2 and legend(without)[-1] == "chance"


def test_agreement_and_cost():
    table, board = letter_tables.agreement(), letter_tables.board()
    axes = effect_plots.agreement_points(table, board).axes
    np.testing.assert_allclose(axes[1].lines[0].get_xdata(), 100 * table["recall"])
    assert axes[3].get_xscale() == "log"
    assert axes[3].lines[0].get_xdata()[0] == pytest.approx(0.06)
