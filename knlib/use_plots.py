"""Figures about the three uses of neurons: edits across languages, enhancement, injection.

Each function takes tables of `knlib.uses.use_summary` and returns a matplotlib figure.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from . import cross_lingual_edits, enhancement, injection
from .plots import COLORS

CONTROL = COLORS[7]


def editing_points(table: pd.DataFrame, title: str) -> Figure:
    """Left, the share of answers that are the new object; right, of answers that an edit of another fact left alone.

    `table`: `use_summary(edited, ["arm", "group"])`, shares with 95 % intervals; each arm beside its control.
    """
    names = cross_lingual_edits.GROUPS
    own = {name: label for name, label in names.items() if name not in cross_lingual_edits.LOCALITY}
    others = {name: names[name] for name in cross_lingual_edits.LOCALITY}
    figure, axes = plt.subplots(1, 2, figsize=(11.4, 3.8), width_ratios=(4, 2))
    _points(axes[0], table, own)
    _points(axes[1], table, others)
    axes[0].set(title=title, ylabel="answer is the new object, %")
    axes[1].set(title="Other facts", ylabel="answer unchanged, %")
    return _finished(figure, axes[0])


def enhancement_points(after: pd.DataFrame, before: pd.DataFrame, title: str) -> Figure:
    """The share of right answers with the neurons scaled, beside the control, a dash where it was before.

    `after`, `before`: `use_summary(test, ["arm", "group"], value)` with the values `right_after` and `right_before`.
    """
    figure, ax = plt.subplots(figsize=(7.6, 3.6))
    _points(ax, after, enhancement.GROUPS, before)
    ax.set(title=title, ylabel="right answers, %")
    return _finished(figure, ax)


def injection_points(after: pd.DataFrame, before: pd.DataFrame, title: str) -> Figure:
    """The share of wanted answers after training, by what was trained, beside the control, a dash where it was before.

    `after`, `before`: `use_summary(injected, ["arm", "group"], value)` with the values `success_after` and
    `success_before`.
    """
    figure, ax = plt.subplots(figsize=(9.4, 3.8))
    _points(ax, after, injection.GROUPS, before)
    ax.set(title=title, ylabel="wanted answers, %")
    return _finished(figure, ax)


def _points(ax, table: pd.DataFrame, groups: dict[str, str], before: pd.DataFrame | None = None) -> None:
    """One place a group, in it one colour an arm: a dot with its interval, and an open grey one for the control."""
    arms = list(dict.fromkeys(table.index.get_level_values("arm")))
    shown = [name for name in groups if name in set(table.index.get_level_values("group"))]
    slot, x = 0.84 / len(arms), np.arange(len(shown))
    for i, arm in enumerate(arms):
        rows, center = table.loc[arm].reindex(shown) * 100, x + (i - (len(arms) - 1) / 2) * slot
        _dots(ax, center - 0.14 * slot, rows[["estimate", "low", "high"]], color=COLORS[i], label=arm)
        if rows["control"].notna().any():
            _dots(ax, center + 0.2 * slot, rows[["control", "control_low", "control_high"]], color=CONTROL,
                  markerfacecolor="white", zorder=1)  # fmt: skip
        if before is not None:
            then = before.loc[arm].reindex(shown)["estimate"] * 100
            ax.hlines(then, center - 0.45 * slot, center + 0.45 * slot, color="black", linewidth=1.4)
    ax.set(xticks=x, xlim=(-0.5, max(len(shown), 1) - 0.5), ylim=(-4, 104))
    ax.set_xticklabels([groups[name] for name in shown])
    for border in x[1:] - 0.5:
        ax.axvline(border, color="0.9", linewidth=0.8, zorder=0)
    if table["control"].notna().any():
        ax.plot([], [], "o", color=CONTROL, markerfacecolor="white", label="as many random neurons\nof the same layers")
    if before is not None:
        ax.plot([], [], color="black", linewidth=1.4, label="before")


def _dots(ax, x: np.ndarray, values: pd.DataFrame, **options) -> None:
    middle, low, high = values.to_numpy(float).T
    # An interval of one fact has no ends; a bias-corrected one may lie beside its estimate.
    errors = np.nan_to_num([np.maximum(middle - low, 0), np.maximum(high - middle, 0)])
    ax.errorbar(x, middle, yerr=errors, fmt="o", markersize=5.5, linewidth=1.3, **options)


def _finished(figure: Figure, ax) -> Figure:
    entries = list(zip(*ax.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda entry: not isinstance(entry[0], ErrorbarContainer))  # matplotlib puts lines before arms
    handles, labels = zip(*entries, strict=True)
    figure.legend(handles, labels, loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure
