"""Figures about what methods claim: how sure they are of a neuron, and of which type a fact is.

Each function takes a table of `load_results` and returns a matplotlib figure. Names and order of methods: `plots`.
"""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..errors import InputError, Literal
from ..plots import COLORS
from ..query_relevant.plots import number_map
from .method_plots import STYLES
from .plots import default_rows, name_of, shown_kinds
from .scorers import MATRICE

DECISIONS = ("agnostic", "language", "half", "query", "none")


def calibration_points(table: pd.DataFrame, rows: Sequence[str] = (MATRICE,)) -> Figure:
    """How often a neuron is true that resampled queries find again with a stated frequency; left over all languages, right in one.

    `table`: `calibration` of `load_results`; on the dotted line a method would say how sure it may be. Larger dots are of more
    neurons. Raises `InputError` for rows without frequencies.

    Example
    -------
    >>> calibration_points(tables["calibration"])
    """
    own = table[table["row"].isin(rows)]
    if own.empty:
        raise InputError(
            "rows", found=list(rows), expected=Literal("some of " + ", ".join(dict.fromkeys(table["row"])))
        )
    rows = [row for row in rows if row in set(own["row"])]
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.4), sharey=True, layout="constrained")
    for ax, (scope, title) in zip(
        axes, {"all": "over all languages", "language": "in one language"}.items(), strict=True
    ):
        ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1)
        for place, (row, (color, marker, dash)) in enumerate(zip(rows, STYLES, strict=False)):
            line = own[(own["row"] == row) & (own["scope"] == scope)].sort_values("stated")
            # Slightly apart, so that intervals do not hide each other.
            x = line["stated"].to_numpy(float) + 0.008 * (place - (len(rows) - 1) / 2)
            ax.vlines(x, line["low"], line["high"], color=color, linewidth=1.2)
            ax.plot(x, line["estimate"], dash, color=color, linewidth=1.2)
            ax.scatter(x, line["estimate"], s=25 + 150 * line["neurons"] / own["neurons"].max(), color=color, marker=marker,
                       linewidth=0, zorder=3)  # fmt: skip
        ax.set(
            title=title, xlabel="stated: found again in this share of resamples", xlim=(-0.03, 1.04), ylim=(-0.03, 1.03)
        )
    axes[0].set_ylabel("true: planted for the fact")
    handles = [Line2D([], [], color=color, marker=marker, linestyle=dash, label=name_of(row))
               for row, (color, marker, dash) in zip(rows, STYLES, strict=False)]  # fmt: skip
    figure.legend([*handles, Line2D([], [], color="black", linestyle=":")], [*map(name_of, rows), "calibrated"],
                  loc="outside lower center", ncols=min(4, len(rows) + 1))  # fmt: skip
    sns.despine(figure)
    return figure


def confusion_maps(table: pd.DataFrame, rows: Sequence[str] | None = None) -> Figure:
    """Which type methods take a fact for, in per cent of the facts of a type; the right one is framed.

    `table`: `confusion` of `load_results`; `rows`: at most eight (default: the localizers of `default_rows`, nothing left out). Types that have one group for all
    queries count as agnostic. Raises `InputError` where no row decides.

    Example
    -------
    >>> confusion_maps(tables["confusion"], ["ig", "re_lcb from ig_mask_words"])
    """
    if rows is None:
        rows = [
            row for row in default_rows(table["row"]) if row == "ig" or (" from " in row and " without " not in row)
        ]
    rows = [row for row in rows if row in set(table["row"])][:8]
    if not rows:
        raise InputError("rows", found=list(rows), expected=Literal("some that claim a type"))
    own = table[table["row"].isin(rows)]
    kinds, lines = shown_kinds(own), -(-len(rows) // 4)
    across = -(-len(rows) // lines)
    figure, axes = plt.subplots(lines, across, figsize=(1.6 + 2.75 * across, 1.2 + lines * (0.7 + 0.27 * len(kinds))), sharex=True,
                                sharey=True, squeeze=False, layout="constrained")  # fmt: skip
    for ax, row in zip(axes.flat, rows, strict=False):
        shares = own[own["row"] == row].pivot_table(index="kind", columns="decision", values="share", fill_value=0)
        values = 100 * shares.reindex(columns=list(DECISIONS), fill_value=0).reindex(kinds)
        image = number_map(ax, values.to_numpy(float), vmin=0, vmax=100)
        for y, kind in enumerate(kinds):
            x = DECISIONS.index(kind if kind in DECISIONS else "agnostic")
            ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=COLORS[3], linewidth=2))
        ax.set(
            xticks=range(len(DECISIONS)),
            yticks=range(len(kinds)),
            xlabel="taken for (framed: right)",
            ylabel="planted as",
        )
        ax.set_title(textwrap.fill(name_of(row), 26))
        ax.set_xticklabels(DECISIONS, rotation=35, ha="right")
        ax.set_yticklabels(kinds)
        ax.label_outer()
    for ax in list(axes.flat)[len(rows) :]:
        ax.remove()
    figure.colorbar(image, ax=axes, label="% of the facts of a type", shrink=0.7, aspect=30)
    return figure
