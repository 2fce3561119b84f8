"""Figures about sets of neurons over many questions: sizes, layers, what classes share, questions as points.

Each function takes a table and returns a matplotlib figure.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..plots import COLORS, by_script
from .plots import name_of, number_map
from .question_space import QuestionSpace


def sizes_and_layers(sizes: pd.DataFrame, layers: pd.DataFrame, shown: list[str]) -> Figure:
    """Left, neurons of a question by localizer, mean, least and most; right, in which layers those of `shown` lie.

    `sizes`, `layers`: tables of a stored result. The band is where as many neurons lie by chance (95 %).
    """
    shown = [name for name in shown if name in set(layers["localizer"])]
    figure = plt.figure(figsize=(11.5, max(3.6, 1.1 + 0.25 * len(sizes), 0.6 + 1.5 * len(shown))), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.15))
    ax, y = left.subplots(), np.arange(len(sizes))
    ax.hlines(y, sizes["least"], sizes["most"], color="0.75", linewidth=3)
    ax.plot(sizes["mean"], y, "o", color=COLORS[0], markersize=6)
    ax.set(
        title="Neurons of a question: mean, least and most",
        xlabel="neurons",
        yticks=y,
        ylim=(len(sizes) - 0.5, -0.5),
        xlim=(0, None),
    )
    ax.set_yticklabels([name_of(name) for name in sizes["localizer"]])
    ax.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    for i, (ax, name) in enumerate(
        zip(right.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0], shown, strict=True)
    ):
        own = layers[layers["localizer"] == name].sort_values("layer")
        ax.bar(own["layer"], own["count"], 0.8, color=COLORS[0])
        # By chance every layer has the same band: drawn across, not as a line through layers.
        ax.axhspan(
            own["null_low"].min(), own["null_high"].max(), color=COLORS[7], alpha=0.35, linewidth=0, label="by chance"
        )
        row = own.iloc[0]
        ax.set(title=f"{name_of(name)}: Gini {row.gini:.2f}, by chance {row.null_gini:.2f} (p = {row.p_value:.2g})",
               ylabel="distinct\nneurons", xticks=own["layer"])  # fmt: skip
        if not i:
            ax.legend(loc="best")
    ax.set_xlabel("layer")
    sns.despine(figure)
    return figure


def overlap_maps(table: pd.DataFrame) -> Figure:
    """What the sets of two classes share (Jaccard, %): below the diagonal as found, above it with permuted classes.

    `table`: `overlap` of a stored result, a panel for each `kind`. Bold: as little is shared by fewer than 5 % of permutations.
    """
    kinds = list(dict.fromkeys(table["kind"]))
    names = {kind: _classes(table[table["kind"] == kind], kind) for kind in kinds}
    counts = [len(names[kind]) for kind in kinds]
    size = (3.2 + 0.62 * sum(counts), 1.9 + 0.42 * max(counts))
    figure, axes = plt.subplots(1, len(kinds), figsize=size, squeeze=False, width_ratios=counts, layout="constrained")
    top = max(5.0, 100 * float(table[["jaccard", "jaccard_null"]].max().max()))
    for ax, kind in zip(axes[0], kinds, strict=True):
        place = {name: i for i, name in enumerate(names[kind])}
        values, strong = np.full((len(place), len(place)), np.nan), set()
        for row in table[table["kind"] == kind].itertuples():
            low, high = sorted((place[row.a], place[row.b]))
            values[high, low], values[low, high] = 100 * row.jaccard, 100 * row.jaccard_null
            if row.p_lower < 0.05:
                strong.add((low, high))
        image = number_map(ax, values, vmin=0, vmax=top)
        for text in ax.texts:
            if text.get_position() in strong:
                text.set_fontweight("bold")
        size = table.loc[table["kind"] == kind, "size"].iloc[0]
        ax.set(title=f"{kind}s, {size} neurons each", xticks=range(len(place)), yticks=range(len(place)))
        ax.set_xticklabels(
            place, rotation=35 if max(map(len, place)) > 3 else 0, ha="right" if max(map(len, place)) > 3 else "center"
        )
        ax.set_yticklabels(place)
    figure.colorbar(image, ax=axes, label="Jaccard index, %\n(above the diagonal: by chance)", shrink=0.8)
    return figure


def _classes(table: pd.DataFrame, kind: str) -> list[str]:
    found = pd.unique(table[["a", "b"]].to_numpy().ravel())
    return by_script(found) if kind == "language" else sorted(found)


def question_points(space: QuestionSpace, classes: Mapping[str, pd.Series], measures: Mapping[str, dict]) -> Figure:
    """Questions as points, a panel for each way to class them; titles say what is measured on the whole vectors.

    `classes`: name -> a class for every row of `space.points`; `measures`: name -> of `class_measures`.
    """
    size = 6 if len(space.points) < 500 else 3  # points of markers that do not cover each other
    figure, axes = plt.subplots(1, len(classes), figsize=(5.7 * len(classes), 4.4), squeeze=False, layout="constrained")
    for ax, (name, own) in zip(axes[0], classes.items(), strict=True):
        order = by_script(own.unique()) if name == "language" else sorted(own.unique())
        colors = sns.color_palette("husl", len(order)) if len(order) > len(COLORS) else COLORS
        for color, kind in zip(colors, order, strict=False):
            rows = (own == kind).to_numpy()
            ax.plot(space.points["x"][rows], space.points["y"][rows], "o", color=color, markersize=size, alpha=0.75,
                    markeredgewidth=0, label=kind)  # fmt: skip
        found = measures[name]
        ax.set(title=f"by {name}: silhouette {found['silhouette']:.2f} (by chance {found['silhouette_null']:.2f}),\n"
                     f"nearest of the same {name} {100 * found['neighbour']:.0f} % (by chance {100 * found['neighbour_null']:.0f} %)",
               xlabel="first direction", ylabel="second direction")  # fmt: skip
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), title=name)
    sns.despine(figure)
    return figure
