"""Figures about what neurons do: each function takes tables of a stored result (`load_result`) and returns a matplotlib figure.

Localizers stand below each other, with the same names in every figure; intervals are of 95 %.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from ..plots import COLORS
from .plots import CHANCE, name_of, number_map

# Factor -> name and colour of the operation.
OPERATIONS = {2.0: ("enhance, × 2", COLORS[2]), 0.0: ("suppress, × 0", COLORS[3])}
CONTROL = "random_layer_matched"
SETS = {"own": ("the class's neurons", COLORS[0]), "random": ("as many random ones", COLORS[7]),
        "other_class": ("another class's", COLORS[1])}  # fmt: skip
PREDICTORS = {"letter_vote": "letter vote", "answer_activity": "answer activity", "probe": "probe"}
# Wider than this, in per cent: an axis that is linear near 0 and logarithmic beyond.
WIDE = 150


def scoreboard_points(board: pd.DataFrame, questions_of: str = "all") -> Figure:
    """R, U and S of every localizer and operation: filled, wordings held out; open, wordings that localized.

    `board`: `scoreboard` of a stored result; `questions_of`: `all`, `correct` or `not taught`.
    """
    board = board[(board["questions_of"] == questions_of) & board["factor"].isin(OPERATIONS)]
    labels = {"R": "R: change of P(right letter)\non its own questions, %", "U": "U: the same on questions\nof other relations, %",
              "S": "S = R - U,\npoints"}  # fmt: skip
    names = list(dict.fromkeys(board["condition"]))
    figure, axes = plt.subplots(1, 3, figsize=(12.6, 1.7 + 0.36 * len(names)), sharey=True, layout="constrained")
    for ax, (column, label) in zip(axes, labels.items(), strict=True):
        for i, (sample, filled) in enumerate((("held_out", True), ("in_sample", False))):
            own = board[board["sample"] == sample]
            if column != "U" or filled:  # U has no sample
                _rows(ax, names, own, column, shift=0.09 if i else -0.09, filled=filled)
        _widen(ax, board[[column, f"{column}_low", f"{column}_high"]].to_numpy(float))
        ax.set(xlabel=label)
    handles = [*_operations(), Line2D([], [], color="0.4", marker="o", linestyle="", label="wording held out"),
               Line2D([], [], color="0.4", marker="o", markerfacecolor="white", linestyle="", label="wording that localized")]  # fmt: skip
    _finish(figure, handles)
    return figure


def _rows(ax, names: list[str], table: pd.DataFrame, column: str, *, shift: float = 0.0, filled: bool = True) -> None:
    """A dot with its interval for every localizer and operation, both in the localizer's row."""
    for place, (factor, (_, color)) in zip((-0.2, 0.2), OPERATIONS.items(), strict=True):
        own = table[table["factor"] == factor].set_index("condition").reindex(names)
        value, low, high = (own[c].to_numpy(float) for c in (column, f"{column}_low", f"{column}_high"))
        errors = np.nan_to_num(np.maximum([value - low, high - value], 0))
        ax.errorbar(value, np.arange(len(names)) + place + shift, xerr=errors, fmt="o", color=color, markersize=4.5, linewidth=1.1,
                    markerfacecolor=color if filled else "white", alpha=1 if filled else 0.75)  # fmt: skip
    _row_axis(ax, names)


def _row_axis(ax, names: list[str]) -> None:
    for y in range(1, len(names)):
        ax.axhline(y - 0.5, color="0.92", linewidth=0.8, zorder=0)
    ax.axvline(0, color="black", linewidth=0.8, zorder=0)
    ax.set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
    ax.set_yticklabels([name_of(name) for name in names])


def _widen(ax, values: np.ndarray) -> None:
    """A symmetric logarithmic axis where a few localizers do ten times what the others do."""
    if np.nanmax(np.abs(values)) > WIDE:
        ax.set_xscale("symlog", linthresh=10)
        ticks = [-1000, -100, -10, 0, 10, 100, 1000]
        low, high = np.nanmin(values) * 1.3, np.nanmax(values) * 1.3
        ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        ax.set_xlim(min(low, -5), max(high, 5))
        ax.minorticks_off()


def _operations() -> list[Line2D]:
    return [Line2D([], [], color=color, marker="o", linestyle="", label=name) for name, color in OPERATIONS.values()]


def _finish(figure: Figure, handles: list) -> None:
    figure.legend(handles, [h.get_label() for h in handles], loc="outside lower center", ncols=len(handles))
    sns.despine(figure)


def fact_language_figure(table: pd.DataFrame, localizer: str = "qrnca") -> Figure:
    """Left, the 2 x 2 tables of one localizer; right, for all of them, what sharing the fact or the language adds.

    `table`: `fact_language` of a stored result.
    """
    names = list(dict.fromkeys(table["condition"]))
    height = max(4.2, 1.5 + 0.28 * len(names))
    figure = plt.figure(figsize=(12.6, height), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 3.2))
    own = table[table["condition"] == localizer].set_index("factor")
    cells = [["same_same", "same_other"], ["other_same", "other_other"]]
    top = float(np.nanmax(np.abs(own[[c for row in cells for c in row]].to_numpy()))) if len(own) else 1.0
    for ax, (factor, (name, _)) in zip(left.subplots(2, 1), OPERATIONS.items(), strict=True):
        values = [[own[cell].get(factor, np.nan) for cell in row] for row in cells]
        number_map(ax, np.array(values, dtype=float), "+.1f", 10, cmap="vlag", vmin=-top, vmax=top)
        ax.set(title=f"{name_of(localizer)}, {name}: %", xticks=(0, 1), yticks=(0, 1))
        ax.set_xticklabels(["same\nlanguage", "other\nlanguage"])
        ax.set_yticklabels(["same\nfact", "other\nfact"])
    axes = right.subplots(1, 2, sharey=True)
    labels = {"fact": "fact effect, points:\n(same fact, other language) - (other, other)",
              "language": "language effect, points:\n(other fact, same language) - (other, other)"}  # fmt: skip
    for ax, (column, label) in zip(axes, labels.items(), strict=True):
        _rows(ax, names, table, column)
        _widen(ax, table[[column, f"{column}_low", f"{column}_high"]].to_numpy(float))
        ax.set(xlabel=label)
    _finish(figure, _operations())
    return figure


def dose_lines(table: pd.DataFrame, localizer: str = "qrnca", control: str = CONTROL) -> Figure:
    """Change of P(right letter) over the factor, on own and on other questions, the control's seeds as a band.

    `table`: `doses` of a stored result.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.4, 3.8), sharey=True, layout="constrained")
    for ax, (group, title) in zip(
        axes, {"own": "Its own questions", "other": "Questions of other relations"}.items(), strict=True
    ):
        own, drawn = (
            table[(table["condition"] == name) & (table["group"] == group)].sort_values("factor")
            for name in (localizer, control)
        )
        ax.fill_between(
            drawn["factor"], drawn["draw_low"], drawn["draw_high"], color=COLORS[7], alpha=0.35, linewidth=0
        )
        ax.plot(drawn["factor"], drawn["change"], color=COLORS[7], linewidth=1.5)
        errors = np.maximum([own["change"] - own["low"], own["high"] - own["change"]], 0)
        ax.errorbar(
            own["factor"],
            own["change"],
            yerr=errors,
            fmt="o-",
            color=COLORS[0],
            markersize=5,
            linewidth=1.5,
            elinewidth=1,
        )
        ax.axhline(0, color="black", linewidth=0.7)
        ax.axvline(1, color="black", linewidth=0.7, linestyle=":")
        doses = sorted(table["factor"].unique())
        ax.set(title=title, xlabel="neurons × (dotted: as they are)", xticks=doses)
        ax.set_xticklabels([f"{dose:g}" for dose in doses])
    axes[0].set_ylabel("change of P(right letter), %")
    asked = table.loc[table["condition"] == localizer, "questions"].max()
    _finish(figure, [Line2D([], [], color=COLORS[0], marker="o", label=f"{name_of(localizer)} ({asked} questions)"),
                     Line2D([], [], color=COLORS[7], linewidth=4, alpha=0.6, label=f"{name_of(control)}: seeds")])  # fmt: skip
    return figure


def flip_points(table: pd.DataFrame) -> Figure:
    """How many answers each operation turned, with Wilson intervals and counts: on own prompts, and elsewhere (collateral).

    `table`: `flips` of a stored result. Enhance: wrong answers that became right; suppress: right ones that became wrong.
    """
    names = list(dict.fromkeys(table["condition"]))
    panels = {
        (2.0, "to_right"): "enhance: wrong answers turned right, %",
        (0.0, "to_wrong"): "suppress: right answers turned wrong, %",
    }
    places = {"own": (-0.17, COLORS[0], "its own questions"), "elsewhere": (0.17, COLORS[7], "elsewhere")}
    figure, axes = plt.subplots(1, 2, figsize=(12, 1.4 + 0.36 * len(names)), sharey=True, layout="constrained")
    for ax, ((factor, flip), label) in zip(axes, panels.items(), strict=True):
        chosen = table[(table["factor"] == factor) & (table["flip"] == flip)]
        for place, (shift, color, _) in places.items():
            own = chosen[chosen["place"] == place].set_index("condition").reindex(names)
            value, low, high = (own[c].to_numpy(float) * 100 for c in ("share", "low", "high"))
            there = np.isfinite(value)
            y = np.arange(len(names)) + shift
            ax.errorbar(value[there], y[there], xerr=np.maximum([value - low, high - value], 0)[:, there], fmt="o", color=color, markersize=5,
                        linewidth=1.2)  # fmt: skip
            for at, row in zip(y, own.itertuples(), strict=True):
                if np.isfinite(row.of):
                    ax.text(1.01, at, f"{row.flipped:.0f}/{row.of:.0f}", transform=ax.get_yaxis_transform(), va="center",
                            fontsize=7.5, color=color)  # fmt: skip
        _row_axis(ax, names)
        widest = 100 * chosen["high"].max()
        ax.set(xlabel=label, xlim=(-0.02 * widest, 1.02 * widest))
    _finish(figure, [Line2D([], [], color=c, marker="o", linestyle="", label=text) for _, c, text in places.values()])
    return figure


def letter_and_text(board: pd.DataFrame, long_form: pd.DataFrame) -> Figure:
    """Left, what neurons do to the letter; right, to the text of the answer after the question without options.

    `board`, `long_form`: `scoreboard` and `long_form` of a stored result (wordings held out). Where only the left one moves, they are
    neurons of the letter.
    """
    board = board[(board["questions_of"] == "all") & (board["sample"] == "held_out")]
    texts = long_form.rename(columns={"low": "change_low", "high": "change_high"})
    names = list(dict.fromkeys(board["condition"]))
    figure, axes = plt.subplots(1, 2, figsize=(11, 1.6 + 0.28 * len(names)), sharey=True, layout="constrained")
    _rows(axes[0], names, board, "R_odds")
    _rows(axes[1], names, texts, "change")
    axes[0].set(xlabel="letter: change of the log-odds, nats")
    axes[1].set(xlabel="answer text: change of log p, nats a token")
    _finish(figure, _operations())
    return figure


def predictor_points(table: pd.DataFrame, whole: float | None = None) -> Figure:
    """Right letters of three predictors that see a class's neurons only, beside control sets, by class.

    `table`: `predictors` of a stored result (`pooled` adds the row `all`); `whole`: the model's own accuracy on multiple choice.
    """
    classes = sorted(set(table["class"]) - {"all"}) + (["all"] if "all" in set(table["class"]) else [])
    shown = [name for name in PREDICTORS if name in set(table["predictor"])]
    figure, axes = plt.subplots(1, len(shown), figsize=(2.6 + 3.2 * len(shown), 1.6 + 0.42 * len(classes)), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    for ax, predictor in zip(axes[0], shown, strict=True):
        for shift, (name, (_, color)) in zip((-0.2, 0, 0.2), SETS.items(), strict=True):
            own = table[(table["predictor"] == predictor) & (table["set"] == name)].set_index("class").reindex(classes)
            value, low, high = (own[c].to_numpy(float) * 100 for c in ("share", "low", "high"))
            errors = np.nan_to_num(np.maximum([value - low, high - value], 0))
            ax.errorbar(
                value, np.arange(len(classes)) + shift, xerr=errors, fmt="o", color=color, markersize=5, linewidth=1.2
            )
        _row_axis(ax, classes)
        ax.axvline(CHANCE, color="black", linestyle=":", linewidth=1.2)
        if whole is not None:
            ax.axvline(100 * whole, color="black", linestyle="--", linewidth=1)
        ax.set(title=PREDICTORS[predictor], xlabel="right letters, %", xlim=(-2, 102))
    handles = [Line2D([], [], color=color, marker="o", linestyle="", label=text) for text, color in SETS.values()]
    handles.append(Line2D([], [], color="black", linestyle=":", label="chance"))
    if whole is not None:
        handles.append(Line2D([], [], color="black", linestyle="--", label="whole model"))
    _finish(figure, handles)
    return figure


def agreement_points(agreement: pd.DataFrame, board: pd.DataFrame) -> Figure:
    """Localizers against exact ablation: rank correlation, best 20, own neurons; and what a prompt costs.

    `agreement`, `board`: tables of a stored result.
    """
    table = agreement.assign(
        seconds=agreement["localizer"].map(board.groupby("condition")["seconds_per_prompt"].first())
    )
    panels = {"rank_correlation": "rank correlation\nwith ablation", "recall": "its best 20 found,\n%",
              "precision": "own neurons among\nits best 20, %", "seconds": "seconds a prompt"}  # fmt: skip
    figure, axes = plt.subplots(1, 4, figsize=(12, 1.3 + 0.26 * len(table)), sharey=True, layout="constrained")
    for ax, (column, label) in zip(axes, panels.items(), strict=True):
        value = table[column].to_numpy(float) * (100 if column in ("recall", "precision") else 1)
        if column != "seconds":
            ax.hlines(range(len(table)), 0, value, color="0.8", linewidth=2)
        ax.plot(value, range(len(table)), "o", color=COLORS[0], markersize=6)
        _row_axis(ax, table["localizer"].tolist())
        ax.set(xlabel=label)
        if column == "seconds":
            ax.lines[-1].remove()  # no zero on a logarithmic axis
            ax.set_xscale("log")
            ends = np.log10(np.nanmin(value)), np.log10(np.nanmax(value))
            ax.set_xlim(10 ** (np.floor(ends[0]) - 0.1), 10 ** (np.ceil(ends[1]) + 0.1))  # whole decades have labels
            ax.xaxis.set_minor_formatter(NullFormatter())
        else:
            top = 1 if column == "rank_correlation" else 100
            ax.set_xlim(min(0.0, np.nanmin(value)) - 0.05 * top, 1.05 * top)
    sns.despine(figure)
    return figure
