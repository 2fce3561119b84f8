"""Figures about neurons: the path of integrated gradients, rules, layers, sets of methods, effects of scaling.

Each function takes a table and returns a matplotlib figure. Languages are labelled by their codes.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .effect_groups import GROUPS
from .plots import COLORS, by_script, heat_map

CONDITION_COLORS = {"neurons": COLORS[3], "layer_matched": COLORS[7]}
CONDITION_NAMES = {"neurons": "its neurons", "layer_matched": "as many random neurons of the same layers"}


def path_lines(curve: pd.DataFrame, title: str) -> Figure:
    """P(answer) along the path and its slope, one line a layer.

    `curve`: columns `layer`, `alpha`, `probability`, `slope`, of one query.
    """
    layers = sorted(curve["layer"].unique())
    colors = sns.color_palette("viridis_r", len(layers))
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.5))
    for color, layer in zip(colors, layers, strict=True):
        rows = curve[curve["layer"] == layer]
        axes[0].plot(rows["alpha"], rows["probability"], color=color, linewidth=1.6, label=str(layer))
        axes[1].plot(rows["alpha"], rows["slope"], color=color, linewidth=1.6)
    axes[0].set(title=title, ylabel="P(answer)", ylim=(-0.02, 1.02))
    axes[1].set(title="What is integrated", ylabel="slope dP/dα")
    for ax in axes:
        ax.set(xlabel="α: share of the layer's neurons", xlim=(0, 1))
    figure.legend(title="layer", loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def riemann_bars(curve: pd.DataFrame, steps: int, title: str) -> Figure:
    """One layer's slope as a curve, with the rectangles that a sum over `steps` right ends puts in its place.

    `curve`: columns `alpha`, `slope`, of one query and layer, fine enough to be interpolated.
    """
    ends = np.arange(1, steps + 1) / steps
    heights = np.interp(ends, curve["alpha"], curve["slope"])
    figure, ax = plt.subplots(figsize=(7.2, 3.3))
    ax.bar(ends - 1 / steps, heights, 1 / steps, align="edge", color=COLORS[1], alpha=0.35, edgecolor=COLORS[1],
           linewidth=0.6, label=f"{steps} right ends")  # fmt: skip
    ax.plot(curve["alpha"], curve["slope"], color=COLORS[0], linewidth=1.8, label="slope along the path")
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set(title=title, xlabel="α: share of the layer's neurons", ylabel="slope dP/dα", xlim=(0, 1))
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def rule_error_lines(table: pd.DataFrame) -> Figure:
    """Error against price of every rule, both axes logarithmic: median as a line, worst query as a dotted one.

    `table`: columns `rule`, `setting`, `nodes`, `error`, one row per query.
    """
    figure, ax = plt.subplots(figsize=(7.2, 3.8))
    for color, (name, rows) in zip(COLORS, table.groupby("rule", sort=False), strict=False):
        found = rows.groupby("setting").agg(nodes=("nodes", "mean"), median=("error", "median"), worst=("error", "max"))
        found = found.sort_values("nodes")
        ax.plot(found["nodes"], found["median"], "o-", color=color, markersize=5, linewidth=1.5, label=name)
        ax.plot(found["nodes"], found["worst"], "v:", color=color, markersize=5, linewidth=1, alpha=0.8)
    ax.plot([], [], "o-", color="grey", label="median query")
    ax.plot([], [], "v:", color="grey", label="worst query")
    ax.axhline(0.01, color="black", linewidth=0.7, linestyle="--")
    ticks = [tick for tick in (2, 5, 10, 20, 40, 80, 160, 320) if tick <= 1.3 * table["nodes"].max()]
    ax.set(xscale="log", yscale="log", xlabel="points computed per layer", ylabel="largest error / largest score",
           title="Errors of the rules; dashed: 1 %")  # fmt: skip
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def layer_bars(table: pd.DataFrame, title: str) -> Figure:
    """Share of each set's neurons in every layer: `table` is layers x sets, columns sum to 1 (or are all 0)."""
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    width = 0.8 / table.shape[1]
    for i, (name, shares) in enumerate(table.items()):
        x = np.arange(len(table)) + (i - (table.shape[1] - 1) / 2) * width
        ax.bar(x, shares * 100, width, color=COLORS[i], label=name)
    ax.set(title=title, xlabel="layer", ylabel="% of neurons", xticks=range(len(table)))
    ax.set_xticklabels(table.index)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def sets_and_overlap(sizes: dict[str, list[int]], overlap: pd.DataFrame) -> Figure:
    """Left, how many neurons each method returns per fact (and language); right, how much the sets overlap.

    `sizes`: method -> one number per set. `overlap`: methods x methods, mean Jaccard index in [0, 1].
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 3.6), width_ratios=(1, 1.05))
    names = list(sizes)
    for i, name in enumerate(names):
        values, counts = np.unique(sizes[name], return_counts=True)
        axes[0].scatter(np.full(len(values), i), values, s=14 + 170 * counts / max(1, counts.sum()),
                        color=COLORS[i], alpha=0.65, linewidth=0)  # fmt: skip
        if len(values):
            axes[0].plot([i - 0.3, i + 0.3], [np.median(sizes[name])] * 2, color="black", linewidth=1.5)
    axes[0].set(title="Neurons per set (bar: median)", ylabel="neurons", xticks=range(len(names)),
                xlim=(-0.6, len(names) - 0.4))  # fmt: skip
    axes[0].set_xticklabels([name.replace(", ", "\n") for name in names])
    axes[0].set_yscale("symlog", linthresh=1)
    top = max((max(values, default=1) for values in sizes.values()), default=1)
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if tick <= 1.6 * top]
    axes[0].set_yticks(ticks, [str(tick) for tick in ticks])
    axes[0].minorticks_off()
    axes[0].set_ylim(-0.5, 1.8 * max(top, 1))
    heat_map(overlap, "Overlap of the sets", label="mean Jaccard, %", ax=axes[1], vmin=0, vmax=100, square=True)
    axes[1].set_xticklabels([name.replace(", ", "\n") for name in overlap.columns])
    sns.despine(ax=axes[0])
    figure.tight_layout()
    return figure


def effect_points(table: pd.DataFrame, *, ylabel: str = "change of P(answer), %") -> Figure:
    """Change of P(answer) with 95 % intervals by group, one panel a factor, neurons beside their control.

    `table`: index (`factor`, `group`, `condition`), columns `change`, `low`, `high` as shares; groups as in `GROUPS`.
    """
    table = table.reset_index()
    groups = [name for name in GROUPS if name in set(table["group"])]
    factors = list(table["factor"].unique())
    figure, axes = plt.subplots(len(factors), 1, figsize=(8.6, 2.6 * len(factors) + 0.5), sharex=True, squeeze=False)
    for ax, factor in zip(axes[:, 0], factors, strict=True):
        for shift, (condition, color) in zip((-0.12, 0.12), CONDITION_COLORS.items(), strict=True):
            rows = table[(table["factor"] == factor) & (table["condition"] == condition)].set_index("group")
            rows = rows.reindex(groups) if len(rows) else rows
            values = rows[["change", "low", "high"]] * 100
            errors = np.abs(values[["low", "high"]].to_numpy().T - values["change"].to_numpy())
            ax.errorbar(np.arange(len(groups)) + shift, values["change"], yerr=errors, fmt="o", color=color,
                        markersize=6, linewidth=1.4, label=CONDITION_NAMES[condition])  # fmt: skip
        ax.axhline(0, color="black", linewidth=0.7)
        ax.set(title=f"neurons × {factor:g}", ylabel=ylabel, xticks=range(len(groups)), xlim=(-0.5, len(groups) - 0.5))
        ax.set_xticklabels([GROUPS[name] for name in groups])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=2, loc="lower center", bbox_to_anchor=(0.5, -0.04))
    sns.despine(figure)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    return figure


def scaled_bars(table: pd.DataFrame, title: str) -> Figure:
    """P(answer) by language: hollow bars as the model is, filled ones with the neurons scaled.

    `table`: index language, columns `before`, `after`.
    """
    table = table.loc[by_script(table.index)]
    figure, ax = plt.subplots(figsize=(8, 2.8))
    ax.bar(table.index, table["after"], color=COLORS[0], alpha=0.85, label="scaled")
    ax.bar(table.index, table["before"], color="none", edgecolor="black", linewidth=1.1, label="as it is")
    ax.set(title=title, ylabel="P(answer)", ylim=(0, 1.02), xlabel="")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure
