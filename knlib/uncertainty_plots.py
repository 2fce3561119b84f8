"""Figures about how sure a localizer is: intervals of scores, stability of sets, thresholds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .plots import COLORS

SCORES = ("mu", "low", "high")


def bounds_and_verdicts(table: pd.DataFrame, title: str) -> Figure:
    """Left, a fact's neurons with the interval expected in a new language; right, which localizers keep each.

    `table`: of `knlib.aggregators.bounds`, strongest first.
    """
    names = [column for column in table if column not in SCORES]
    y = np.arange(len(table))
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 1.2 + 0.27 * len(table)), sharey=True, width_ratios=(1.5, 1))
    errors = np.abs(table[["low", "high"]].to_numpy().T - table["mu"].to_numpy())
    axes[0].errorbar(table["mu"], y, xerr=errors, fmt="o", color=COLORS[0], markersize=5, linewidth=1.3)
    axes[0].axvline(0, color="black", linewidth=0.6)
    axes[0].set(title=title, xlabel="score / the query's largest: mean, and range in a new language", yticks=y,
                ylim=(len(table) - 0.5, -0.5))  # fmt: skip
    axes[0].set_yticklabels(table.index)
    for i, name in enumerate(names):
        kept = table[name].to_numpy(bool)
        axes[1].scatter(np.full(kept.sum(), i), y[kept], s=46, color=COLORS[0])
        axes[1].scatter(np.full((~kept).sum(), i), y[~kept], s=10, color="lightgrey")
    axes[1].set(title="kept by", xticks=range(len(names)), xlim=(-0.6, len(names) - 0.4))
    axes[1].set_xticklabels([name.replace("_", "\n") for name in names])
    axes[1].tick_params(axis="y", length=0)
    sns.despine(figure)
    sns.despine(ax=axes[1], left=True)
    figure.tight_layout()
    return figure


def stability_strips(table: pd.DataFrame) -> Figure:
    """Per localizer: overlap of every fact's set with its resampled sets, and the size of the sets.

    `table`: columns `name`, `fact`, `neurons`, `stability`; a bar marks the mean over facts.
    """
    names = list(dict.fromkeys(table["name"]))
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.3))
    for ax, column in zip(axes, ("stability", "neurons"), strict=True):
        for i, name in enumerate(names):
            values = table.loc[table["name"] == name, column].dropna().to_numpy()
            shift = np.linspace(-0.22, 0.22, len(values)) if len(values) > 1 else np.zeros(len(values))
            ax.scatter(i + shift, np.sort(values), s=22, color=COLORS[0], alpha=0.7, linewidth=0)
            if len(values):
                ax.plot([i - 0.3, i + 0.3], [values.mean()] * 2, color="black", linewidth=1.6)
        ax.set(xticks=range(len(names)), xlim=(-0.6, len(names) - 0.4))
        ax.set_xticklabels([name.replace("_", "\n") for name in names])
    axes[0].set(title="Overlap with sets from resampled queries", ylabel="mean Jaccard per fact", ylim=(0, 1.03))
    axes[1].set(title="Neurons per fact (bar: mean)", ylabel="neurons")
    axes[1].set_ylim(-0.5, 1.08 * max(1, table["neurons"].max()))
    axes[1].yaxis.set_major_locator(plt.MaxNLocator(integer=True))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def sweep_lines(table: pd.DataFrame) -> Figure:
    """What a threshold decides: neurons per fact, stability, and the effect of suppressing them, one line a localizer.

    `table`: columns `name`, `t`, `neurons`, `stability`, `log_change`, `log_low`, `log_high` (nats, beyond the control).
    """
    panels = {
        "neurons": "neurons per fact", "stability": "stability (Jaccard)", "log_change": "change of log P,\nless control",
    }  # fmt: skip
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    for ax, (column, label) in zip(axes, panels.items(), strict=True):
        for color, (name, rows) in zip(COLORS, table.groupby("name", sort=False), strict=False):
            rows = rows.sort_values("t")
            ax.plot(rows["t"], rows[column], "o-", color=color, markersize=5, label=name)
            if column == "log_change":
                ax.fill_between(rows["t"], rows["log_low"], rows["log_high"], color=color, alpha=0.15, linewidth=0)
        ax.set(xlabel="threshold t", ylabel=label)
    axes[0].set(title="How many")
    axes[0].set_ylim(bottom=0)
    axes[1].set(ylim=(0, 1.03), title="How stable")
    axes[2].set(title="What they do, suppressed")
    axes[2].axhline(0, color="black", linewidth=0.6)
    axes[2].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure
