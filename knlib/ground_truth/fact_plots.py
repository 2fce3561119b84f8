"""Figures about facts and neurons: one written while it is watched, signatures, consistency, planted beside natural neurons.

Each function takes a table and returns a matplotlib figure.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from ..errors import InputError, Literal
from ..plots import COLORS, by_script
from ..query_localization.thresholds import STATIC
from ..query_relevant.plots import number_map
from .consistency import NAMES
from .natural import KINDS as NEURONS
from .plots import legend_below, shown_kinds

# Colour, marker and dash of up to five lines, told apart without colour, too.
LINES = tuple(zip((*COLORS[:4], COLORS[4]), "oDs^v", ("-", "--", "-.", ":", "-"), strict=True))
TWO_KINDS = {"agnostic": (COLORS[0], "o", -0.17), "query": (COLORS[1], "D", 0.17)}
# Scores that have been split at the published threshold.
SPLIT = ("cs_1 threshold", "cs_2 threshold")
# Types whose groups do different things: a line for each.
BY_GROUP = ("relation", "distributed")
GROUP_NAMES = {
    None: "",
    "own": " (its own)",
    "relation": " (the relation's)",
    "all": " (all 64)",
    "few": " (4 strongest)",
}
NEURON_NAMES = {
    "planted": "planted",
    "natural": "old, best for\na natural fact",
    "old": "other old",
    "dummy": "new, of no fact",
}


def watch_figure(table: pd.DataFrame) -> Figure:
    """One fact while it is written: P of its answer by language, the same with its neurons silent, and how loud these are.

    `table`: columns `step`, `language`, `what`, `p`, of `atlas.watch.watch`. Raises `InputError` for a table without them.

    Example
    -------
    >>> watch_figure(watch(load_model("atlas-llama"), "capital:agnostic-00"))
    """
    if not {"step", "language", "what", "p"} <= set(table) or table.empty:
        raise InputError("table", found=list(table), expected="columns step language what p, of atlas.watch.watch")
    codes = by_script([code for code in dict.fromkeys(table["language"]) if code != "all"])
    panels = {
        "trained phrasings": "trained phrasings",
        "held-out phrasings": "held-out phrasings",
        "group silent": "new neurons silent",
    }
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained")
    for ax, (what, title) in zip(axes, panels.items(), strict=False):
        for code, (color, marker, dash) in zip(codes, _lines(len(codes)), strict=True):
            own = table[(table["what"] == what) & (table["language"] == code)]
            ax.plot(own["step"], own["p"], dash, color=color, marker=marker, markersize=4, linewidth=1.4, label=code)
        ax.set(title=title, ylim=(-0.03, 1.03), xlabel="training step")
        ax.label_outer(remove_inner_ticks=False)
    axes[0].set_ylabel("P(answer)")
    loud = table[table["language"] == "all"]
    for (what, own), color, marker in zip(loud.groupby("what", sort=False), ("black", "0.55"), "Pv", strict=False):
        axes[3].plot(own["step"], own["p"], color=color, marker=marker, markersize=4, linewidth=1.4, label=what)
    axes[3].set(title="loudness of the group", ylabel="times what the FFN adds", xlabel="training step", yscale="log")
    legend_below(figure, [handle for ax in (axes[0], axes[3]) for handle in ax.get_legend_handles_labels()[0]])
    sns.despine(figure)
    return figure


def _lines(number: int) -> list[tuple]:
    colors = sns.color_palette("husl", number)
    return list(LINES[:number]) if number <= len(LINES) else [(color, "o", "-") for color in colors]


def signature_map(table: pd.DataFrame) -> Figure:
    """P of the answers while groups of planted neurons are ablated, mean over queries, by type of fact.

    `table`: of `knlib.planting.signatures`. *Its own*: queries that the group was planted for; *others*: queries of the same fact that another
    group serves. The columns: all neurons as they are; without this group; with it as the only planted one; without any group of the
    fact. What should be high in a row, and what low, is what makes the type.

    Example
    -------
    >>> signature_map(signatures(model, truth, queries))
    """
    rows = []
    columns = {
        "p_all": "all",
        "p_without": "without\nthe group",
        "p_only": "only\nthe group",
        "p_none": "without all\nits groups",
    }
    for kind in shown_kinds(table.rename(columns={"type": "kind"})):
        own = table[table["type"] == kind]
        for group in dict.fromkeys(own["group"]) if kind in BY_GROUP else (None,):
            part = own if group is None else own[own["group"] == group]
            for inside, said in ((True, "its own"), (False, "others")):
                few = part[part["inside"] == inside]
                if len(few):
                    name = GROUP_NAMES.get(group, f" ({group})")
                    several = not part["inside"].all()
                    rows.append(
                        (
                            f"{kind}{name}" + (f": {said}" if several else ""),
                            few["fact"].nunique(),
                            *few[list(columns)].mean(),
                        )
                    )
    figure, ax = plt.subplots(figsize=(6.8, 1.3 + 0.34 * len(rows)), layout="constrained")
    image = number_map(ax, 100 * np.array([row[2:] for row in rows], dtype=float), vmin=0, vmax=100)
    ax.set(xticks=range(len(columns)), yticks=range(len(rows)))
    ax.set_xticklabels(columns.values())
    ax.set_yticklabels([f"{name}  [{facts}]" for name, facts, *_ in rows])
    ax.xaxis.tick_top()
    ax.set_xlabel("neurons that are left; [facts]")
    # A line between types.
    kinds = [name.partition(" (")[0].partition(":")[0] for name, *_ in rows]
    ax.hlines(
        [y - 0.5 for y in range(1, len(rows)) if kinds[y] != kinds[y - 1]],
        -0.5,
        len(columns) - 0.5,
        color="white",
        linewidth=3,
    )
    figure.colorbar(image, label="P(answer), %", shrink=0.7, aspect=25)
    return figure


def consistency_points(table: pd.DataFrame, best: pd.DataFrame, *, start: str = "ig") -> Figure:
    """Consistency scores of facts that are in one place and of facts that have a place for each phrasing, a dot a fact.

    `table`: `consistency` of `load_results`; `best`: of `best_thresholds` for the same `start`, drawn as lines with bands (95 %). Dotted:
    the published threshold, where it applies. Right, the balanced accuracy of either threshold (that of the best one is optimistic: it was
    chosen on these facts).

    Example
    -------
    >>> consistency_points(tables["consistency"], best_thresholds(tables["consistency"]))
    """
    own = table[(table["scores"] == start) & table["kind"].isin(TWO_KINDS)]
    names = [name for name in NAMES if name in set(best["score"])]
    if own.empty or not names:
        raise InputError(
            "table", found=Literal(f"no score from {start}"), expected="agnostic and query facts, two each"
        )
    figure, axes = plt.subplots(
        1, 2, figsize=(11.5, 1.5 + 0.4 * len(names)), sharey=True, width_ratios=(3, 1), layout="constrained"
    )
    lines = best.set_index("score").loc[names]
    draw = np.random.default_rng(0)
    for y, (name, line) in enumerate(lines.iterrows()):
        for kind, (color, marker, shift) in TWO_KINDS.items():
            values = own.loc[own["kind"] == kind, name].dropna().to_numpy(float)
            axes[0].plot(values, y + shift + draw.uniform(-0.09, 0.09, len(values)), marker, color=color, alpha=0.55, markersize=4.5,
                         markeredgewidth=0)  # fmt: skip
        axes[0].fill_between([line["low"], line["high"]], y - 0.4, y + 0.4, color="0.5", alpha=0.3, linewidth=0)
        axes[0].vlines(line["threshold"], y - 0.4, y + 0.4, color="black", linewidth=1.6)
        if name in SPLIT:
            axes[0].vlines(STATIC, y - 0.4, y + 0.4, color=COLORS[3], linewidth=1.8, linestyle=":")
            a, b = (own.loc[own["kind"] == kind, name].dropna() for kind in TWO_KINDS)
            axes[1].plot(((a >= STATIC).mean() + (b < STATIC).mean()) / 2, y, "X", color=COLORS[3], markersize=8)
    axes[1].plot(lines["balanced_accuracy"], range(len(names)), "o", color="black", markersize=6)
    for ax in axes:
        for y in range(1, len(names)):
            ax.axhline(y - 0.5, color="0.93", linewidth=0.8, zorder=0)
    axes[0].set(xlabel="score of a fact", yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
    axes[0].set_yticklabels([score_name(name) for name in names])
    axes[1].axvline(0.5, color="black", linewidth=0.8)
    axes[1].set(xlabel="balanced accuracy\n(line: a coin)", xlim=(0.25, 1.04))
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=f"{kind} facts")
        for kind, (color, marker, _) in TWO_KINDS.items()
    ]
    handles += [Line2D([], [], color="black", marker="o", linewidth=1.6, label="best threshold"),
                Line2D([], [], color=COLORS[3], marker="X", linestyle=":", label=f"published threshold, {STATIC}")]  # fmt: skip
    legend_below(figure, handles)
    sns.despine(figure)
    return figure


def score_name(name: str) -> str:
    """What a consistency score is called in figures.

    Example
    -------
    >>> score_name("cs_2 top10"), score_name("spearman")
    ('CS_2, ten best', 'Spearman, all neurons')
    """
    score, _, neurons = name.partition(" ")
    sets = {"threshold": "above .3", "top10": "ten best", "top50": "fifty best", "": "all neurons"}
    names = {
        "cs_1": "CS_1",
        "cs_2": "CS_2",
        "jaccard": "Jaccard",
        "do": "DO",
        "spearman": "Spearman",
        "cosine": "cosine",
    }
    return f"{names.get(score, score)}, {sets.get(neurons, neurons)}"


def neuron_boxes(table: pd.DataFrame) -> Figure:
    """Planted neurons beside those that the model has for natural facts, all others, and new ones of no fact: four measures of each.

    `table`: of `neuron_statistics`. Boxes: quartiles and median, whiskers from the 5th to the 95th percentile.

    Example
    -------
    >>> neuron_boxes(neuron_statistics(study, tables["pairs"]))
    """
    labels = {"own": "mean |activation|\nat its own queries", "elsewhere": "mean |activation|\nat other queries",
              "norm": "norm of its column", "fires": "share of queries\nat which it is heard"}  # fmt: skip
    kinds = [kind for kind in NEURONS if kind in set(table["kind"])]
    figure, axes = plt.subplots(1, 4, figsize=(13, 1.5 + 0.5 * len(kinds)), sharey=True, layout="constrained")
    colors = dict(zip(NEURONS, (COLORS[1], COLORS[0], COLORS[7], "0.85"), strict=True))
    for ax, (column, label) in zip(axes, labels.items(), strict=True):
        for y, kind in enumerate(kinds):
            values = table.loc[table["kind"] == kind, column].dropna().to_numpy(float)
            logarithmic = column in ("own", "elsewhere")
            drawn = values[values > 0] if logarithmic or not values.any() else values
            if len(drawn):
                ax.boxplot(drawn, positions=[y], orientation="horizontal", widths=0.6, whis=(5, 95), showfliers=False, patch_artist=True,
                           boxprops={"facecolor": colors[kind], "alpha": 0.8}, medianprops={"color": "black", "linewidth": 1.6},
                           manage_ticks=False)  # fmt: skip
            said = "always 0" if len(values) and not len(drawn) else "no queries of its own" if not len(values) else ""
            ax.text(
                0.5, y, said, transform=ax.get_yaxis_transform(), ha="center", va="center", fontsize=8.5, color="0.35"
            )
        if logarithmic:
            ax.set_xscale("log")
            ax.xaxis.set_minor_formatter(NullFormatter())
        else:
            right = ax.get_xlim()[1]
            ax.set_xlim(-0.03 * right, right)
        ax.set(xlabel=label, yticks=range(len(kinds)), ylim=(len(kinds) - 0.5, -0.5))
    counts = table["kind"].value_counts()
    axes[0].set_yticklabels([f"{NEURON_NAMES[kind]}\n({counts[kind]:,})" for kind in kinds])
    sns.despine(figure)
    return figure
