"""Figures that compare methods: precision at levels of recall, who is fooled, few and many neurons, agreement with the oracle.

Each function takes tables of `load_results` and returns a matplotlib figure. Names and order of methods: `plots`.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from ..errors import InputError, Literal
from ..plots import COLORS
from .estimates import by_size
from .metrics import CURVE, LEVELS, TOP
from .plots import TRUTH, chance_band, chosen, dots, legend_below, name_of, row_axis, shown_kinds
from .scorers import ORACLE

# Of lines, told apart without colour, too.
STYLES = tuple(
    zip(
        (*COLORS[:5], COLORS[8], COLORS[9], "black"),
        "oDs^vPXp",
        ("-", "--", "-", "--", "-", "--", "-", ":"),
        strict=True,
    )
)


def recall_curves(curves: pd.DataFrame, rows: Sequence[str], *, scope: str = "all") -> Figure:
    """Precision at ten levels of recall, a panel for each type of fact, a line for each of up to eight methods.

    `curves`: of `load_results`. Raises `InputError` for more rows than eight, or none that the table has.

    Example
    -------
    >>> recall_curves(tables["curves"], ["ig", "gradient_x_activation", "random"])
    """
    own = curves[(curves["scope"] == scope) & curves["row"].isin(rows)]
    if own.empty or len(rows) > len(STYLES):
        raise InputError("rows", found=list(rows), expected=Literal(f"one to {len(STYLES)} of the table"))
    kinds = shown_kinds(own)
    lines = -(-len(kinds) // 4)
    figure, axes = plt.subplots(lines, min(4, len(kinds)), figsize=(11.5, 0.8 + 2.5 * lines), sharex=True, sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    rows = [row for row in rows if row in set(own["row"])]
    for ax, kind in zip(axes.flat, kinds, strict=False):
        for row, (color, marker, dash) in zip(rows, STYLES, strict=False):
            line = own[(own["row"] == row) & (own["kind"] == kind)]
            if len(line):
                ax.plot(
                    LEVELS, line[list(CURVE)].iloc[0], dash, color=color, marker=marker, markersize=4, linewidth=1.4
                )
        ax.set(
            title=kind,
            ylim=(-0.03, 1.03),
            xlim=(0.05, 1.03),
            xticks=(0.2, 0.4, 0.6, 0.8, 1),
            xlabel="recall",
            ylabel="precision",
        )
        ax.label_outer()
    for ax in list(axes.flat)[len(kinds) :]:
        ax.remove()
    handles = [Line2D([], [], color=color, marker=marker, linestyle=dash, label=name_of(row))
               for row, (color, marker, dash) in zip(rows, STYLES, strict=False)]  # fmt: skip
    figure.legend(
        handles, [name_of(row) for row in rows], loc="outside lower center", ncols=len(rows) if len(rows) < 6 else 4
    )
    sns.despine(figure)
    return figure


def fooled_points(board: pd.DataFrame, rows: Sequence[str] | None = None, *, scope: str = "all") -> Figure:
    """Left, how many of a fact's best neurons are its relation's; right, how many of its groups are found where one is enough for the answer.

    `board`: of `load_results`; `rows`: default `default_rows` without the truth. A method that redundancy fools finds the one
    group of `agnostic` facts but not both of `redundant` ones.

    Example
    -------
    >>> fooled_points(tables["board"])
    """
    names = _in_order(board, "common_at_k", rows, scope, "relation")
    figure, axes = plt.subplots(1, 2, figsize=(12, 1.7 + 0.29 * len(names)), sharey=True, layout="constrained")
    chance_band(axes[0], board, "common_at_k", scope, "relation")
    dots(axes[0], _lines(board, "common_at_k", "relation", scope, names), range(len(names)), color=COLORS[3])
    axes[0].set(title="relation: taken for the fact's own", xlabel="share of the k best that is the relation's")
    for shift, (kind, (color, marker, _)) in zip((-0.17, 0.17), _two("agnostic", "redundant"), strict=True):
        dots(
            axes[1],
            _lines(board, "groups_at_k", kind, scope, names),
            np.arange(len(names)) + shift,
            color=color,
            fmt=marker,
        )
    axes[1].set(title="redundant: is the second group seen?", xlabel="share of a fact's groups among the k best")
    for ax in axes:
        row_axis(ax, names)
        ax.set_xlim(-0.03, 1.03)
    legend_below(figure, [Line2D([], [], color=COLORS[3], marker="o", linestyle="", label="relation's neurons (band: random)"),
                          *_handles({"agnostic": "agnostic: one group", "redundant": "redundant: two groups"})])  # fmt: skip
    sns.despine(figure)
    return figure


def size_lines(facts: pd.DataFrame, rows: Sequence[str]) -> Figure:
    """How well facts of 1 to 64 neurons are found, each language alone: the ranking, the k best, the method's own set.

    `facts`: of `load_results`; `rows`: up to eight. Lines join facts of one type; where two types have facts of one size, what
    differs is the type. Intervals are of 95 %, those of the same size slightly apart.

    Example
    -------
    >>> size_lines(tables["facts"], ["ig", "gradient_x_activation", "random"])
    """
    rows = [row for row in rows if row in set(facts["row"])]
    if not rows or len(rows) > len(STYLES):
        raise InputError("rows", found=list(rows), expected=Literal(f"one to {len(STYLES)} of the table"))
    labels = {"average_precision": "average precision", "at_k": "true ones among the k best\n(k: number of true ones)",
              "recall": "true ones in the set\nthat the method takes"}  # fmt: skip
    few = facts[facts["row"].isin([*rows, TRUTH])]
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), sharey=True, layout="constrained")
    for ax, (measure, label) in zip(axes, labels.items(), strict=True):
        table = by_size(few, measure)
        for place, (row, (color, marker, dash)) in enumerate(zip(rows, STYLES, strict=False)):
            for _, line in table[table["row"] == row].groupby("kind", sort=False):
                x = line["neurons"] * 1.045 ** (place - (len(rows) - 1) / 2)
                ends = line[["low", "high"]].apply(lambda c, own=line: c.fillna(own["estimate"]))
                ax.vlines(x, ends["low"], ends["high"], color=color, linewidth=1)
                ax.plot(x, line["estimate"], dash, color=color, marker=marker, markersize=5, linewidth=1.3)
        sizes = sorted(set(table["neurons"]))
        ax.set(xlabel="planted neurons", xscale="log", ylim=(-0.03, 1.2), xticks=sizes, yticks=np.linspace(0, 1, 6))
        ax.set_title(label)
        ax.set_xlim(min(sizes, default=1) / 1.4, max(sizes, default=1) * 1.9)
        ax.set_xticklabels(sizes)
        ax.xaxis.set_minor_locator(NullLocator())
        for kind, own in table.groupby("kind", sort=False)["neurons"]:
            y = 1.06 + 0.07 * (list(table["kind"].unique()).index(kind) % 2)
            ax.plot([own.min() * 0.93, own.max() * 1.07], [y, y], color="0.55", linewidth=3, solid_capstyle="butt")
            ax.text(np.sqrt(own.min() * own.max()), y + 0.015, kind, ha="center", va="bottom", fontsize=8, color="0.35")
    handles = [Line2D([], [], color=color, marker=marker, linestyle=dash, label=name_of(row))
               for row, (color, marker, dash) in zip(rows, STYLES, strict=False)]  # fmt: skip
    figure.legend(
        handles, [name_of(row) for row in rows], loc="outside lower center", ncols=len(rows) if len(rows) < 6 else 4
    )
    sns.despine(figure)
    return figure


def _in_order(board: pd.DataFrame, measure: str, rows: Sequence[str] | None, scope: str, kind: str) -> list[str]:
    """Rows that have a measure on facts of a kind, in the order of the scoreboard, the truth left out."""
    has = set(board.loc[(board["measure"] == measure) & (board["scope"] == scope) & (board["kind"] == kind), "row"])
    order = [row for row in chosen(board, "average_precision", rows, scope).index if row in has and row != TRUTH]
    if not order:
        raise InputError("rows", found=rows, expected=Literal(f"some that have {measure} on facts of type {kind}"))
    return order


def _lines(board: pd.DataFrame, measure: str, kind: str, scope: str, names: list[str]) -> pd.DataFrame:
    own = board[(board["measure"] == measure) & (board["kind"] == kind) & (board["scope"] == scope)]
    return own.set_index("row")[["estimate", "low", "high"]].reindex(names)


def _two(*kinds: str) -> list[tuple[str, tuple]]:
    return list(zip(kinds, STYLES, strict=False))


def _handles(labels: dict[str, str]) -> list[Line2D]:
    return [
        Line2D([], [], color=color, marker=marker, linestyle="", label=labels[kind])
        for kind, (color, marker, _) in _two(*labels)
    ]


def oracle_points(agreement: pd.DataFrame) -> Figure:
    """Scores beside exact ablation on facts that were not planted: rank correlation of all neurons, and how many of the 20 best both have.

    `agreement`: `agreement_board` of `load_results`; the best on top.

    Example
    -------
    >>> oracle_points(tables["agreement_board"])
    """
    table = agreement[agreement["scores"] != ORACLE]
    best = table[table["measure"] == "top"].sort_values("estimate", ascending=False, kind="stable")
    names = best["scores"].tolist()
    labels = {"spearman": "rank correlation of all neurons", "top": f"share of the {TOP} best that both have"}
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 1.3 + 0.32 * len(names)), sharey=True, layout="constrained")
    for ax, (measure, label) in zip(axes, labels.items(), strict=True):
        dots(ax, table[table["measure"] == measure].set_index("scores").reindex(names), range(len(names)))
        row_axis(ax, names)
        ax.axvline(0, color="black", linewidth=0.8, zorder=0)
        low = min(0.0, float(table.loc[table["measure"] == measure, ["estimate", "low"]].min(axis=None)))
        ax.set(xlabel=label, xlim=(low - 0.04, 1.03))
    sns.despine(figure)
    return figure
