"""Figures of the scoreboard, from synthetic tables."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from knlib.languages import CODES
from knlib.scoreboard import lafn_plots, plots
from knlib.scoreboard.tables import COLUMNS

ARMS = ("none", "ft_l", "ft_m", "kn", "cas", "rome", "memit", "alphaedit", "langedit", "grace", "ike", "lafn", "lafn_all", "lafn_all_40",
        "lafn_union", "lafn_per_language", "lafn_random")  # fmt: skip
SEQUENCES = ("ft_m", "rome", "memit", "alphaedit", "grace", "lafn_all")


@pytest.fixture(autouse=True)
def fits_a_page():
    yield
    sizes = [plt.figure(number).get_size_inches() for number in plt.get_fignums()]
    plt.close("all")
    assert sizes and all(wide <= 14 and high <= 9 for wide, high in sizes)


def with_ends(columns, rows, seed=0):
    """A table of random shares with intervals of ± .04; the first of its rows is low."""
    draw, table = np.random.default_rng(seed), {}
    for name in columns:
        value = draw.uniform(0.1, 0.95, len(rows))
        value[0] = 0.05
        table |= {name: value, f"{name}_low": value - 0.04, f"{name}_high": value + 0.04}
    return pd.DataFrame(table, index=rows)


def board():
    table = with_ends(COLUMNS, pd.Index(ARMS, name="arm"))
    table.loc["ike", [f"portability{end}" for end in ("", "_low", "_high")]] = np.nan
    table.loc["rome", ["reliability_low", "reliability_high"]] = np.nan
    return table


def language_matrix(languages=CODES, seed=0):
    draw = np.random.default_rng(seed)
    values = draw.uniform(0, 0.5, (len(languages), len(languages))) + 0.5 * np.eye(len(languages))
    table = pd.DataFrame(values, index=list(languages), columns=list(languages))
    for row, value in (("all at once", 0.97), ("held out", 0.4), ("not edited", 0.02)):
        table.loc[row] = value
    return table


def locality_table():
    index = pd.MultiIndex.from_product([ARMS, plots.KIND_STYLES], names=["arm", "kind"])
    return with_ends(("same", "kept", "kl"), index)


def sequence_table(seed):
    table = with_ends(("reliability", "generality", "locality", "retention"), [1, 10, 100], seed)
    return table.assign(d_loss=[0.0, 0.02, 0.4 + seed / 10])


def lifts():
    lift = np.array([14.0, 9.0, 5.0, 3.0, 2.0, 1.6, 1.3, 1.2])
    return pd.DataFrame(
        {"layer": range(8), "lift": lift, "null": lift / 1.5, "null_low": lift / 1.8, "null_high": lift / 1.2}
    )


def levels():
    return pd.DataFrame({"kind": ["one language twice", "across languages", "another fact"], "estimate": [0.8, 0.35, 0.02],
                         "low": [0.77, 0.3, -0.05], "high": [0.83, 0.4, 0.09]})  # fmt: skip


def probabilities():
    rows = [(code, when, old, new) for code in CODES
            for when, old, new in (("before", 0.8, 0.01), ("inside", 0.05, 0.9), ("after", 0.8, 0.01))]  # fmt: skip
    return pd.DataFrame(rows, columns=["language", "when", "p_old", "p_new"])


def gates():
    theta = np.linspace(0, 1, 21)
    parts = [pd.DataFrame({"language": code, "theta": theta, "hits": 1 - theta**4, "false_hits": (1 - theta) ** (2 + i)})
             for i, code in enumerate(CODES)]  # fmt: skip
    return pd.concat(parts)


def texts(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def test_bars_name_the_arms_and_leave_the_unedited_model_to_a_line():
    figure = plots.metric_bars(board(), ceiling=0.6)
    axes = figure.axes
    assert [ax.get_title(loc="left") or ax.get_title() for ax in axes] == list(plots.METRICS)
    assert texts(axes[0]) == [plots.name_of(arm) for arm in ARMS[1:]]
    widths = [bar.get_width() for bar in axes[0].patches]
    np.testing.assert_allclose(widths, 100 * board()["reliability"].to_numpy()[1:])
    lines = [line.get_xdata()[0] for line in axes[3].lines if len(set(line.get_xdata())) == 1]
    assert {5.0, 60.0} <= {round(float(x), 6) for x in lines}
    assert [t.get_text() for t in axes[3].texts] == ["not asked"]


def test_bars_do_without_an_unedited_row_and_a_ceiling():
    labels = [t.get_text() for t in plots.metric_bars(board().drop("none")).legends[0].get_texts()]
    assert "not edited" not in labels and "ceiling: unedited facts" not in labels


def test_matrices_order_languages_by_script_and_set_other_rows_apart():
    figure = plots.language_matrices(
        {arm: language_matrix(seed=i) for i, arm in enumerate(("rome", "memit", "lafn_all"))}
    )
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()][:6] == ["en", "de", "fr", "es", "pt", "tr"]
    assert texts(ax)[-3:] == ["all at once", "held out", "not edited"]
    values = ax.images[0].get_array()
    assert values.shape == (16, 12) and np.isnan(np.asarray(values, float)[12]).all()
    assert len(ax.texts) == 15 * 12 and len(figure.axes) == 4


def test_a_matrix_of_two_languages_without_more_rows():
    figure = plots.language_matrices({"rome": language_matrix(("en", "ru")).loc[["en", "ru"]]})
    assert figure.axes[0].images[0].get_array().shape == (2, 2)


def test_locality_has_a_panel_for_each_score():
    figure = plots.locality_points(locality_table())
    assert [ax.get_xlabel().split(",")[0] for ax in figure.axes] == [
        "same prediction",
        "right before and after",
        "KL(unedited || edited)",
    ]
    assert texts(figure.axes[0])[0] == "FT-L"


def neuron_sets():
    seeds = [f"lafn_random_{i}" for i in range(5)]
    return with_ends(
        COLUMNS, ["none", "rome", "lafn", "lafn_random", "lafn_per_language", "lafn_union", "lafn_all", *seeds]
    )


def test_neuron_sets_show_the_seeds():
    table = neuron_sets()
    ax = lafn_plots.neuron_set_bars(table).axes[1]
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "located",
        "random",
        "per\nlanguage",
        "union",
        "all",
    ]
    dots = next(line for line in ax.lines if len(line.get_xdata()) == 5)
    np.testing.assert_allclose(dots.get_ydata(), 100 * table["generality"].to_numpy()[-5:])


def test_neuron_sets_tell_how_many_neurons_and_the_width():
    table = neuron_sets()
    table["neurons"] = np.where(table.index.str.startswith("lafn"), np.arange(len(table)) * 1000.4, np.nan)
    figure = lafn_plots.neuron_set_bars(table, width=192)
    said = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert said[:3] == ["located\n\n2,001", "random\n\n3,001", "per\nlanguage\n4,002"]
    assert figure.legends[0].get_title().get_text() == "d_model 192"
    assert lafn_plots.neuron_set_bars(neuron_sets()).legends[0].get_title().get_text() == ""


def test_sequences_have_one_line_per_arm():
    figure = plots.sequence_lines({arm: sequence_table(i) for i, arm in enumerate(SEQUENCES)})
    assert [ax.get_xscale() for ax in figure.axes[:5]] == ["log"] * 5
    assert [t.get_text() for t in figure.axes[5].get_legend().get_texts()] == [plots.name_of(arm) for arm in SEQUENCES]


def cost_table():
    return pd.DataFrame({"seconds": np.geomspace(0.2, 60, len(ARMS) - 1), "touched": 1.0}, index=ARMS[1:])


def test_costs_label_every_arm_that_has_one():
    ax = plots.cost_points(board(), cost_table()).axes[0]
    assert {t.get_text() for t in ax.texts} == {plots.name_of(arm) for arm in ARMS[1:]}
    assert ax.get_xscale() == "log"


def test_labels_of_near_points_do_not_lie_on_each_other():
    table = board()
    table["generality"] = 0.5
    figure = plots.cost_points(table, cost_table().assign(seconds=np.geomspace(1, 3, len(ARMS) - 1)).iloc[:5])
    boxes = [t.get_window_extent() for t in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_lifts_have_a_band_of_mismatched_facts():
    ax = lafn_plots.lift_lines(lifts()).axes[0]
    assert (ax.get_yscale(), ax.get_ylabel()) == ("log", "pairwise lift")
    assert len(ax.collections) == 1


def test_cosines_stand_beside_their_levels():
    matrix = language_matrix().loc[list(CODES)]
    figure = lafn_plots.cosine_maps(matrix, levels(), chance=0.05)
    assert len(figure.axes[0].texts) == 12 * 11
    assert [t.get_text() for t in figure.axes[1].get_xticklabels()] == [
        "one\nlanguage\ntwice",
        "across\nlanguages",
        "another\nfact",
    ]


def test_probabilities_of_both_answers():
    figure = plots.probability_lines(probabilities())
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes] == ["P(old answer)", "P(new answer)"]
    inside = next(line for line in figure.axes[1].lines if line.get_label() == "inside")
    np.testing.assert_allclose(inside.get_ydata(), 0.9)
    assert plots.probability_lines(probabilities().query("when == 'before'")).axes


def test_gates_have_a_panel_for_each_language():
    figure = lafn_plots.gate_curves(gates())
    assert [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes][:2] == ["en", "de"]
    assert len(figure.axes) == 12 and figure.get_supxlabel() == "threshold of the margin"
    # (1 - theta)^2 <= .01 from theta = .9 on
    marked = figure.axes[0].lines[2].get_xdata()[0]
    assert marked == pytest.approx(0.9)


def test_gates_mark_the_thresholds_that_they_are_given():
    figure = lafn_plots.gate_curves(gates(), thresholds={"en": 0.3, "de": 0.4}, label="cosine")
    assert [ax.lines[2].get_xdata()[0] for ax in figure.axes[:2]] == [0.3, 0.4]
    assert [len(ax.lines) for ax in figure.axes[2:]] == [2] * 10 and figure.get_supxlabel() == "cosine"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["hits", "false hits", "calibrated threshold"]


def additivity():
    draw, pairs = np.random.default_rng(0), [("en", "de"), ("en", "ru"), ("ja", "de")]
    rows = [
        (f"f{i}", a, b, code, x)
        for i in range(10)
        for a, b in pairs
        for code, x in zip((a, b), draw.normal(6, 3, 2), strict=True)
    ]
    table = pd.DataFrame(rows, columns=["fact", "a", "b", "language", "summed"])
    return table.assign(together=0.7 * table["summed"] + 0.5 + draw.normal(0, 0.8, len(table)))


def test_additivity_tells_scripts_apart_and_draws_the_fitted_line():
    table = additivity()
    ax = lafn_plots.additivity_points(table, {"slope": 0.5, "intercept": 2.0, "r2": 0.83, "n": 60}).axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    assert list(lines) == ["two scripts, n = 40", "one script, n = 20", "adds up", "slope 0.50, R² 0.83"]
    own = table[(table["a"] == "en") & (table["b"] == "de")]
    np.testing.assert_allclose(np.sort(lines["one script, n = 20"].get_xdata()), np.sort(own["summed"]))
    np.testing.assert_allclose(np.sort(lines["one script, n = 20"].get_ydata()), np.sort(own["together"]))
    x, y = lines["slope 0.50, R² 0.83"].get_data()
    np.testing.assert_allclose(y, 2 + 0.5 * x)
    np.testing.assert_allclose(*lines["adds up"].get_data())
