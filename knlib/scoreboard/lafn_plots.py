"""Figures about what LAFN rests on: shared neurons, shifts of languages, their sums, the cache's gate.

Each function takes a table whose columns it names, and returns a figure. Shares are drawn in per cent.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from ..plots import COLORS, by_script
from .arms import NONE
from .estimates import RANDOM
from .plots import METRICS, ends, legend_below, script_of

NEURONS = {
    "lafn": "located",
    RANDOM: "random",
    "lafn_per_language": "per language",
    "lafn_union": "union",
    "lafn_all": "all",
}
# Whether two languages are written alike: drawn second, the fewer points of one script lie on top.
SCRIPT_STYLES = {False: ("two scripts", COLORS[0], "o"), True: ("one script", COLORS[1], "D")}


def neuron_set_bars(table: pd.DataFrame, *, width: int | None = None) -> Figure:
    """Does it matter which neurons LAFN shifts: bars with intervals, a dot per seed of the random ones.

    `table`: of `tables.scoreboard` with `seeds=True`, on the edits that all these arms have; other arms are left out.
    With a column `neurons` (mean number shifted) it stands below the sets' names; `width`: of the residual stream, for the legend.
    """
    sets = [name for name in NEURONS if name in table.index]
    seeds = table[[str(name).startswith(f"{RANDOM}_") for name in table.index]]
    labels = [NEURONS[name].replace(" ", "\n") for name in sets]
    if "neurons" in table:
        # Two lines for every name, so that the numbers stand in one row.
        lines = [name if "\n" in name else name + "\n" for name in labels]
        labels = [f"{name}\n{number:,.0f}" for name, number in zip(lines, table.loc[sets, "neurons"], strict=True)]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.3), sharey=True, layout="constrained")
    for ax, metric in zip(axes, METRICS[:3], strict=True):
        value, errors = ends(table.loc[sets], metric)
        colors = [COLORS[2] if name == "lafn" else COLORS[7] for name in sets]
        ax.bar(range(len(sets)), value, 0.68, yerr=errors, color=colors, error_kw={"linewidth": 0.9})
        if RANDOM in sets and len(seeds):
            x = sets.index(RANDOM) + np.linspace(-0.25, 0.25, len(seeds))
            ax.plot(x, seeds[metric] * 100, "o", color="black", markersize=3.5)
        if NONE in table.index:
            ax.axhline(100 * table.loc[NONE, metric], color="black", linestyle=":", linewidth=1.3)
        ax.set(title=metric, ylim=(0, 103), xticks=range(len(sets)))
        ax.set_xticklabels(labels)
        if "neurons" in table:
            ax.set_xlabel("neurons shifted, mean", fontsize=9)
    axes[0].set_ylabel("%")
    handles = [Line2D([], [], color="black", marker="o", linestyle="", markersize=3.5, label="one seed")]
    if NONE in table.index:
        handles.append(Line2D([], [], color="black", linestyle=":", label="not edited"))
    title = None if width is None else f"d_model {width}"
    legend_below(figure, handles, title=title, title_fontsize=9)
    sns.despine(figure)
    return figure


def lift_lines(table: pd.DataFrame) -> Figure:
    """How often languages share a fact's neurons, against chance, by layer; the band is of mismatched facts.

    `table`: columns `layer`, `lift` (mean over pairs of languages), `null`, `null_low`, `null_high`.
    """
    table = table.sort_values("layer")
    figure, ax = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
    ax.plot(table["layer"], table["lift"], "o-", color=COLORS[2], label="one fact")
    ax.plot(table["layer"], table["null"], "--", color="0.4", label="mismatched facts")
    ax.fill_between(table["layer"], table["null_low"].astype(float), table["null_high"].astype(float), color="0.7",
                    alpha=0.5, linewidth=0)  # fmt: skip
    ax.axhline(1, color="black", linestyle=":", linewidth=1.2, label="chance")
    ax.set(xlabel="layer", ylabel="pairwise lift", yscale="log")
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    return figure


def cosine_maps(matrix: pd.DataFrame, levels: pd.DataFrame, *, chance: float | None = None) -> Figure:
    """Cosines of the shifts of two languages beside what they are to be read against, with intervals.

    `matrix`: languages x languages; `levels`: columns `kind` (e.g. ceiling, cross-language, floor), `estimate`, `low`,
    `high`; `chance`: the standard deviation of a random cosine, drawn as a band.
    """
    order = by_script(matrix.columns)
    values = matrix.loc[order, order].to_numpy(float)
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), width_ratios=(1.5, 1), layout="constrained")
    image = axes[0].imshow(np.where(np.eye(len(order), dtype=bool), np.nan, values), cmap="vlag", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(values):
        if i != j and np.isfinite(value):
            color = "white" if abs(value) > 0.65 else "black"
            axes[0].text(j, i, f"{value:.2f}".replace("0.", "."), ha="center", va="center", fontsize=7, color=color)
    axes[0].set(title="Cosine of the shifts of two languages", xticks=range(len(order)), yticks=range(len(order)))
    axes[0].set_xticklabels(order)
    axes[0].set_yticklabels(order)
    axes[0].tick_params(length=0)
    axes[0].spines[:].set_visible(False)
    figure.colorbar(image, ax=axes[0], label="cosine", shrink=0.7)
    own = levels.rename(columns={"low": "estimate_low", "high": "estimate_high"})
    value, errors = ends(own, "estimate", 1)
    axes[1].errorbar(range(len(own)), value, yerr=errors, fmt="o", color=COLORS[0], markersize=6, linewidth=1.4)
    axes[1].axhline(0, color="black", linewidth=0.6)
    if chance is not None:
        axes[1].axhspan(-chance, chance, color="0.85", zorder=0, label="random directions, one sd")
        axes[1].legend(loc="upper right")
    axes[1].set(title="Against its ceiling and its floor", ylabel="cosine", xlim=(-0.6, len(own) - 0.4))
    axes[1].set_xticks(range(len(own)), [str(kind).replace(" ", "\n") for kind in own["kind"]])
    axes[1].set_ylim(min(-0.1, np.nanmin(value - errors[0]) - 0.05), max(1.03, np.nanmax(value + errors[1]) + 0.03))
    sns.despine(ax=axes[1])
    return figure


def additivity_points(table: pd.DataFrame, fit: Mapping[str, float]) -> Figure:
    """Do two languages' shifts add up: the margin's change under both against the sum of its changes under each alone.

    `table`, `fit`: of `knlib.editing.shift_geometry`, `ShiftGeometry.additivity` and `additivity_fit`. On the diagonal they do.
    """
    figure, ax = plt.subplots(figsize=(7.6, 4.8), layout="constrained")
    alike = np.array([script_of(a) == script_of(b) for a, b in zip(table["a"], table["b"], strict=True)], dtype=bool)
    for same, (name, color, marker) in SCRIPT_STYLES.items():
        own = table[alike == same]
        if len(own):
            ax.plot(own["summed"], own["together"], marker, color=color, markersize=4, alpha=0.55, markeredgewidth=0,
                    label=f"{name}, n = {len(own)}")  # fmt: skip
    reach = np.array([table["summed"].min(), table["summed"].max()])
    ax.plot(reach, reach, ":", color="black", linewidth=1.4, label="adds up")
    said = f"slope {fit['slope']:.2f}, R² {fit['r2']:.2f}"
    ax.plot(reach, fit["intercept"] + fit["slope"] * reach, "-", color=COLORS[3], linewidth=1.8, label=said)
    ax.set(xlabel="sum of the changes under each shift alone, logits", ylabel="change under both shifts, logits")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    return figure


def gate_curves(
    table: pd.DataFrame,
    *,
    allowed: float = 0.01,
    thresholds: Mapping[str, float] | None = None,
    label: str = "threshold of the margin",
) -> Figure:
    """How often the cache answers what it should and what it should not, by its threshold; a panel a language.

    `table`: of `gate_rates.gate_rates`, columns `language`, `theta`, `hits`, `false_hits` (shares). Marked is the least `theta`
    with no more than `allowed` false hits or, where they are given, the gate's own `thresholds` (language -> threshold).
    """
    order = by_script(table["language"].unique())
    across = min(6, len(order))
    lines = -(-len(order) // across)
    size = (1.6 + 1.9 * across, 0.9 + 1.75 * lines)
    figure, axes = plt.subplots(
        lines, across, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    for ax, language in zip(axes.flat, order, strict=False):
        own = table[table["language"] == language].sort_values("theta")
        ax.plot(own["theta"], own["hits"] * 100, "-", color=COLORS[2], linewidth=1.6, label="hits")
        ax.plot(own["theta"], own["false_hits"] * 100, "--", color=COLORS[3], linewidth=1.6, label="false hits")
        if thresholds is None:
            marked, said = own.loc[own["false_hits"] <= allowed, "theta"].min(), f"false hits ≤ {allowed:.0%}"
        else:
            marked, said = thresholds.get(language, np.nan), "calibrated threshold"
        if np.isfinite(marked):
            ax.axvline(marked, color="0.4", linestyle=":", linewidth=1.2, label=said)
        ax.set(title=language, ylim=(-4, 104))
    for ax in list(axes.flat)[len(order) :]:
        ax.remove()
    figure.supxlabel(label, fontsize=10)
    figure.supylabel("% of questions", fontsize=10)
    handles = {h.get_label(): h for ax in figure.axes for h in ax.get_legend_handles_labels()[0]}
    figure.legend(handles.values(), handles.keys(), loc="outside right center")
    sns.despine(figure)
    return figure
