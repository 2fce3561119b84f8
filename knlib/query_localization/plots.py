"""Figures about consistency: neurons of two facts, overlap scores, thresholds, mapping, the test that is circular.

Each function takes a table of `tables` or `live` and returns a matplotlib figure.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..plots import COLORS
from .edit_summary import LABELS
from .mapping import SETS
from .split import circular_welch
from .thresholds import STATIC

METHOD_COLORS = {"ig": COLORS[0], "sig": COLORS[1], "amig": COLORS[2], "all three": "black"}
LABEL_COLORS = {"consistent": COLORS[0], "inconsistent": COLORS[3]}
SET_NAMES = {"self": "its own", "neighbour_one": "one\nneighbour", "neighbour_union": "all\njoined",
             "intersection": "all\nagree", "refine": "most\nagree", "other_fact": "another\nfact",
             "random": "random"}  # fmt: skip
LONGEST = 62  # letters of a title over one of two panels
SCORE_NAMES = {"cs_1": "CS_1", "cs_2": "CS_2", "jaccard": "J"}
KIND_STYLES = {"one fact": (COLORS[3], "o-"), "other facts": (COLORS[0], "D--"), "random neurons": (COLORS[7], "x:")}


def fact_maps(maps: dict[str, np.ndarray], dots: dict[str, np.ndarray], *, columns: int = 2) -> Figure:
    """Heat maps layer x bin of neurons, one a query, one colour scale; bins that hold a member of its set are dotted.

    `maps`: title -> [layers, bins] (a query's largest score is 1); `dots`: title -> bool, of the same shape.
    """
    rows = -(-len(maps) // columns)
    size = (6.2 * columns, 2.5 * rows + 0.3)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax, (title, values) in zip(axes.flat, maps.items(), strict=False):
        image = ax.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        layers, places = np.nonzero(dots[title])
        ax.plot(places, layers, "o", color=COLORS[3], markersize=4)
        ax.set(xlabel="bin of neurons", ylabel="layer", yticks=range(len(values)))
        ax.set_title(title if len(title) <= LONGEST else f"{title[: LONGEST - 1]}…", fontsize=9)
        ax.spines[:].set_visible(True)
    for ax in list(axes.flat)[len(maps) :]:
        ax.remove()
    figure.colorbar(image, ax=list(axes.flat)[: len(maps)], label="largest score / query's largest", shrink=0.8)
    return figure


def score_violins(table: pd.DataFrame) -> Figure:
    """CS_2 at four queries and J* by relation, one row of panels a model, with a dot per fact.

    `table`: columns `model`, `relation`, `cs_2_k4` (sets above a share of the largest score), `j_star` (equal sizes).
    """
    models, order = list(dict.fromkeys(table["model"])), sorted(set(table["relation"]))
    figure, axes = plt.subplots(len(models), 2, figsize=(12, 2.7 * len(models) + 0.5), squeeze=False, sharex=True)
    names = {"cs_2_k4": "CS_2, four queries", "j_star": "J*"}
    for model, line in zip(models, axes, strict=True):
        for (score, name), ax in zip(names.items(), line, strict=True):
            own = table[(table["model"] == model) & table[score].notna()]
            options = {"x": "relation", "y": score, "order": order, "ax": ax}
            sns.violinplot(own, color=COLORS[0], cut=0, inner=None, alpha=0.35, linewidth=0.8, density_norm="width",
                           **options)  # fmt: skip
            np.random.seed(0)  # seaborn's jitter: a figure drawn again is the same picture
            sns.stripplot(own, color="black", size=2, alpha=0.5, jitter=0.15, **options)
            ax.set(title=f"{model}: {name}", xlabel="", ylabel=name)
            ax.axhline(STATIC if score == "cs_2_k4" else 0.5, color=COLORS[3], linestyle=":", linewidth=1.3)
            ax.tick_params(axis="x", rotation=20)
        line[0].set_ylim(-0.02, 1.02)
        line[1].set_ylim(min(-0.3, float(table["j_star"].min()) - 0.05), max(1.1, float(table["j_star"].max()) + 0.05))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def scores_by_number(table: pd.DataFrame) -> Figure:
    """CS_1, CS_2 and J against the number of queries: of one fact, and by two chances; means with their 95 % intervals.

    `table`: columns `k`, `kind` (of `KIND_STYLES`), `score` (of `SCORE_NAMES`), `estimate`, `low`, `high`.
    """
    figure, axes = plt.subplots(1, len(SCORE_NAMES), figsize=(12, 3.2), sharey=True)
    for ax, (score, name) in zip(axes, SCORE_NAMES.items(), strict=True):
        for kind, (color, style) in KIND_STYLES.items():
            own = table[(table["score"] == score) & (table["kind"] == kind)].sort_values("k")
            ax.plot(own["k"], own["estimate"], style, color=color, markersize=5, linewidth=1.4, label=kind)
            ax.fill_between(own["k"], own["low"].astype(float), own["high"].astype(float), color=color, alpha=0.15)
        ax.set(title=name, xlabel="number of queries k", xticks=sorted(set(table["k"])))
    axes[0].set(ylabel="overlap of neuron sets", ylim=(-0.02, None))
    axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def share_lines(table: pd.DataFrame, *, threshold: float | None = None) -> Figure:
    """The share of inconsistent facts against the threshold of CS_2, one panel a model; `threshold` marks one of them.

    `table`: of `tables.shares`; mode `ours` solid with its interval, mode `paper` dotted.
    """
    models = list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(1, len(models), figsize=(4.1 * len(models) + 1.4, 3.4), squeeze=False, sharey=True)
    for ax, model in zip(axes[0], models, strict=True):
        own = table[table["model"] == model]
        for (method, mode), part in own.groupby(["method", "mode"], sort=False):
            color, solid = METHOD_COLORS[method], mode == "ours"
            label = method if solid else f"{method}, as published"
            ax.plot(part["threshold"], part["estimate"] * 100, "-" if solid else ":", color=color, label=label)
            if solid:
                low, high = (part[end].astype(float) * 100 for end in ("low", "high"))
                ax.fill_between(part["threshold"], low, high, color=color, alpha=0.12, linewidth=0)
        if threshold is not None:
            ax.axvline(threshold, color="0.5", linewidth=1)
        ax.set(title=model, xlabel="threshold of CS_2", ylim=(-3, 103))
    axes[0, 0].set_ylabel("inconsistent facts, %")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def mapping_bars(table: pd.DataFrame) -> Figure:
    """Change of log P by the set of neurons and the fact's label; a row of panels a model, suppressed beside doubled.

    `table`: of `tables.mapping_effects`.
    """
    models, factors = list(dict.fromkeys(table["model"])), sorted(set(table["factor"]))
    sets = [name for name in SETS if name in set(table["set"])]
    size = (6.2 * len(factors), 2.6 * len(models) + 0.7)
    figure, axes = plt.subplots(len(models), len(factors), figsize=size, squeeze=False, sharex=True)
    x = np.arange(len(sets))
    for model, line in zip(models, axes, strict=True):
        for factor, ax in zip(factors, line, strict=True):
            for number, label in enumerate(LABELS):
                own = table[(table["model"] == model) & (table["factor"] == factor) & (table["label"] == label)]
                rows = own.set_index("set")[["estimate", "low", "high"]].reindex(sets).astype(float)
                ax.bar(x + 0.4 * (number - 0.5), rows["estimate"], 0.38, color=LABEL_COLORS[label], label=label,
                       yerr=arms(rows), error_kw={"linewidth": 0.9})  # fmt: skip
            ax.axhline(0, color="black", linewidth=0.8)
            ax.set(title=f"{model}: neurons × {factor:g}", xticks=x, ylabel="change of log P")
            ax.set_xticklabels([SET_NAMES[name] for name in sets])
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, title="the fact is", title_fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def welch_bars(table: pd.DataFrame, noise: Sequence[float], threshold: float = STATIC) -> Figure:
    """Left: noise without any structure, split at a threshold, with the Welch's t that the split alone makes. Right: the same
    circular t for each model beside the one that labels from other phrasings leave.

    `table`: index model, columns `circular` and `split-half` (of `tables.welch_table`); `noise`: any values.
    """
    noise = np.asarray(noise, dtype=float)
    found = circular_welch(noise, threshold)
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=(1, 1.2))
    bins = np.linspace(noise.min(), noise.max(), 41)
    for label, part in zip(LABELS, (noise[noise >= threshold], noise[noise < threshold]), strict=True):
        axes[0].hist(part, bins, color=LABEL_COLORS[label], alpha=0.8, label=label)
    axes[0].axvline(threshold, color="black", linestyle=":", linewidth=1.2)
    axes[0].set(title=f"Uniform noise split at {threshold:g}: t = {found.t:.1f}", xlabel="value", ylabel="how many",
                ylim=(0, None))  # fmt: skip
    axes[0].legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, -0.42))
    x = np.arange(len(table))
    colors = {"circular": COLORS[7], "split-half": COLORS[2]}
    for number, (name, color) in enumerate(colors.items()):
        values = table[name].astype(float)
        axes[1].bar(x + 0.4 * (number - 0.5), values, 0.38, color=color, label=name)
        for place, value in zip(x, values, strict=True):
            text = f"{value:.1f}" if np.isfinite(value) else "none"
            axes[1].annotate(text, (place + 0.4 * (number - 0.5), np.nan_to_num(value)), ha="center", va="bottom",
                             fontsize=9, xytext=(0, 2), textcoords="offset points")  # fmt: skip
    axes[1].axhline(0, color="black", linewidth=0.8)
    axes[1].set(title="Consistent against inconsistent facts", ylabel="Welch's t", xticks=x, xlim=(-0.6, len(x) - 0.4))
    ends = table[list(colors)].astype(float).fillna(0).to_numpy()
    # Room for the numbers on the bars.
    axes[1].set_ylim(1.15 * min(0, ends.min()), 1.15 * max(0, ends.max()) or 1)
    axes[1].set_xticklabels(list(table.index))
    axes[1].legend(title="labels", title_fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def arms(rows: pd.DataFrame) -> np.ndarray:
    """Lengths of whiskers for `estimate`, `low`, `high`, [2, rows]; 0 where there is no interval."""
    values = rows[["estimate", "low", "high"]].astype(float)
    ends = [values["estimate"] - values["low"], values["high"] - values["estimate"]]
    # The end of a bootstrap interval may lie beside the estimate.
    return np.nan_to_num(np.maximum(np.array(ends), 0))
