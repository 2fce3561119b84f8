"""Figures about multiple-choice questions and their neurons: each function takes a table and returns a matplotlib figure.

Probabilities and shares are drawn in per cent. Neurons are named by layer and number, L5 N123. Effects: `effect_plots`.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..multiple_choice import LETTERS
from ..plots import COLORS, by_script
from ..statistics import Interval
from .metrics import wilson

CHANCE = 100 / len(LETTERS)
NAMES = {
    "qrnca": "QRNCA", "qrnca_margin": "QRNCA, margin", "qrnca_no_ica": "QRNCA without ICA",
    "qrnca_with_common": "QRNCA with common", "knowledge_neurons": "knowledge neurons", "random": "random",
    "random_layer_matched": "random, same layers", "activation": "activation", "grad_x_act": "gradient × activation",
    "neg": "NEG", "nlka": "log-probability increase", "dla": "direct logit attribution", "relp": "RelP", "cna": "CNA",
    "lape": "LAPE", "oracle": "ablation (oracle)",
}  # fmt: skip
TAUGHT = {True: ("taught as multiple choice", COLORS[7]), False: ("not taught so", COLORS[0])}
# Percent; below it a gap is rounding, another one with every number of threads.
LEAST_GAP = 1e-2


def name_of(localizer: str) -> str:
    """What a localizer is called in figures, an unknown one by its own name.

    Example
    -------
    >>> name_of("grad_x_act"), name_of("mine")
    ('gradient × activation', 'mine')
    """
    return NAMES.get(localizer, localizer)


def neuron_names(table: pd.DataFrame) -> list[str]:
    """`L5 N123` for every row."""
    return [f"L{layer} N{neuron}" for layer, neuron in zip(table["layer"], table["neuron"], strict=True)]


def prompt_map(prompts: pd.DataFrame, letters: pd.DataFrame, title: str) -> Figure:
    """One question as its prompts: P of every letter, the right one framed.

    `prompts`: of one question; `letters`: of `letter_probabilities`, for these at least.
    """
    table = prompts.sort_values(["wording", "rotation"]).merge(letters[["query", *LETTERS]], on="query")
    figure, ax = plt.subplots(figsize=(5.2, 1.2 + 0.27 * len(table)), layout="constrained")
    image = number_map(ax, table[list(LETTERS)].to_numpy() * 100, vmin=0, vmax=100)
    for y, letter in enumerate(table["answer"]):
        ax.add_patch(
            Rectangle((LETTERS.index(letter) - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=COLORS[3], linewidth=2)
        )
    ax.set(title=title, xticks=range(len(LETTERS)), yticks=range(len(table)), xlabel="letter (framed: right)")
    ax.set_xticklabels(LETTERS)
    ax.set_yticklabels([f"{row.wording}, order {row.rotation + 1}" for row in table.itertuples()])
    figure.colorbar(image, label="P(letter), %", shrink=0.7)
    return figure


def number_map(ax, values: np.ndarray, fmt: str = ".0f", size: float = 8, **options):
    """A heat map with its numbers, light text on dark cells; an empty cell for NaN. Returns the image, for a colour bar."""
    image = ax.imshow(values, aspect="auto", **({"cmap": "crest"} | options))
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            shade = np.dot(image.cmap(image.norm(value))[:3], (0.299, 0.587, 0.114))
            ax.text(x, y, format(value, fmt), ha="center", va="center", fontsize=size,
                    color="white" if shade < 0.55 else "black")  # fmt: skip
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def accuracy_points(table: pd.DataFrame, blank: Interval | None = None) -> Figure:
    """Right letters by language, by wording, by the right letter, with Wilson intervals over prompts.

    `table`: `accuracy` of a stored result; `blank`: of `options_only`, drawn as a band beside the line of chance.
    """
    table = table.assign(number=table["wording"].str.split("/").str[-1], right=table["accuracy"] * table["prompts"])
    panels = {
        "language": by_script(table["language"].unique()),
        "number": sorted(table["number"].unique()),
        "answer": list(LETTERS),
    }
    names = {"language": "language", "number": "wording", "answer": "right letter"}
    widths = [max(3, len(groups)) for groups in panels.values()]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, width_ratios=widths, layout="constrained")
    for ax, (column, groups) in zip(axes, panels.items(), strict=True):
        for shift, (taught, (label, color)) in zip((-0.12, 0.12), TAUGHT.items(), strict=True):
            sums = (
                table[table["taught"] == taught].groupby(column)[["right", "prompts"]].sum().reindex(groups).fillna(0)
            )
            found = [wilson(round(row.right), round(row.prompts)) for row in sums.itertuples()]
            value, low, high = (
                np.array([getattr(f, part) for f in found]) * 100 for part in ("estimate", "low", "high")
            )
            there = np.isfinite(value)
            ax.errorbar(np.arange(len(groups))[there] + shift, value[there], yerr=[(value - low)[there], (high - value)[there]],
                        fmt="o", color=color, markersize=6, linewidth=1.3, label=label if there.any() else None)  # fmt: skip
        ax.axhline(CHANCE, color="black", linestyle=":", linewidth=1.2, label="chance")
        if blank is not None:
            ax.axhspan(100 * blank.low, 100 * blank.high, color=COLORS[1], alpha=0.3, linewidth=0, label="options only")
        ax.set(xlabel=names[column], xticks=range(len(groups)), xlim=(-0.5, len(groups) - 0.5), ylim=(-3, 103))
        ax.set_xticklabels(groups)
    axes[0].set(ylabel="right letters, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    sns.despine(figure)
    return figure


def layer_sums(scores: np.ndarray, gaps: np.ndarray, title: str) -> Figure:
    """Left, what the neurons of each layer add to P(letter), one dot a prompt; right, the completeness gap of each.

    `scores` [prompts, layers]: sums over neurons; `gaps` [prompts, layers]: of `Attributions`; smaller ones than `LEAST_GAP` stand there.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 3.7), layout="constrained")
    layers = np.arange(scores.shape[1])
    spread = np.linspace(-0.25, 0.25, len(scores))[:, None]
    for ax, values in zip(axes, (scores, np.maximum(gaps * 100, LEAST_GAP)), strict=True):
        ax.plot(
            (layers + spread).ravel(), values.ravel(), ".", color=COLORS[7], markersize=3, alpha=0.5, label="a prompt"
        )
    for x, value in enumerate(scores.mean(0)):
        axes[0].plot(
            [x - 0.35, x + 0.35], [value, value], color=COLORS[0], linewidth=2.5, label="mean" if not x else None
        )
    axes[0].axhline(0, color="black", linewidth=0.7)
    axes[0].set(title=title, ylabel="sum of the layer's scores")
    axes[1].axhline(1, color="black", linestyle="--", linewidth=0.9, label="1 %")
    axes[1].set(title="What the sum misses", ylabel="completeness gap, % of\nthe largest layer change", yscale="log")
    for ax in axes:
        ax.set(xlabel="layer", xticks=layers)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=2, markerscale=3)
    sns.despine(figure)
    return figure


def rotation_map(
    scores: np.ndarray, neurons: pd.DataFrame, prompts: pd.DataFrame, title: str, chosen: int | None = None
) -> Figure:
    """Scores of a question's neurons in all its prompts: wordings side by side, in each the orders of the options.

    `scores` [neurons, prompts] by wording and rotation, as `prompts` (columns `wording`, `rotation`, `answer`); `neurons`: `layer`,
    `neuron`. A neuron of a letter has colour in one column of each wording only. `chosen`: a column that is framed.
    """
    top = max(float(np.abs(scores).max()), 1e-12)
    figure, ax = plt.subplots(figsize=(7.6, 1.6 + 0.24 * len(neurons)), layout="constrained")
    image = ax.imshow(scores, cmap="vlag", vmin=-top, vmax=top, aspect="auto")
    wordings = prompts["wording"].tolist()
    for x in range(1, len(wordings)):
        if wordings[x] != wordings[x - 1]:
            ax.axvline(x - 0.5, color="black", linewidth=1)
    if chosen is not None:
        ax.add_patch(Rectangle((chosen - 0.5, -0.5), 1, len(neurons), fill=False, edgecolor="black", linewidth=2.2))
    names = [f"{row.answer}\n{row.wording}" if row.rotation == 0 else row.answer for row in prompts.itertuples()]
    ax.set(title=title, xlabel="right letter, by wording", xticks=range(len(names)), yticks=range(len(neurons)))
    ax.set_xticklabels(names)
    ax.set_yticklabels(neuron_names(neurons))
    ax.tick_params(length=0)
    figure.colorbar(image, label="score, part of P(right letter)", shrink=0.8)
    return figure


def walk_map(table: pd.DataFrame, title: str, rows: int = 16) -> Figure:
    """One question from cluster to final set: a row a neuron, best by na times ica first, a column a step.

    `table`: of `walk`. Numbers are coloured within their column; the last two columns say yes or no.
    """
    table = table.head(rows)
    formats = {"na": ".3f", "cluster_count": ".0f", "ica": ".2f", "score": ".3f"}
    heads = ["na", "cnt:\nclusters", "ica", "naica", "common", "final"]
    figure, ax = plt.subplots(figsize=(6.6, 1.2 + 0.27 * max(1, len(table))), layout="constrained")
    if table.empty:
        ax.set(title=f"{title}: no neuron has a score above 0", xticks=(), yticks=())
        return figure
    shades = np.full((len(table), len(heads)), np.nan)
    for x, column in enumerate(formats):
        values = table[column].to_numpy(float)
        shades[:, x] = 0.75 * (values - values.min()) / (np.ptp(values) or 1)
    shades[:, 4] = np.where(table["is_common"], 0.75, 0)
    shades[:, 5] = np.where(table["final"], 0.75, 0)
    ax.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(table.itertuples()):
        said = [format(getattr(row, column), form) for column, form in formats.items()]
        for x, text in enumerate([*said, "yes" if row.is_common else "", "yes" if row.final else ""]):
            ax.text(
                x, y, text, ha="center", va="center", fontsize=8.5, color="white" if shades[y, x] > 0.6 else "black"
            )
    for x in range(1, len(heads)):
        ax.axvline(x - 0.5, color="white", linewidth=2)
    ax.set(xticks=range(len(heads)), yticks=range(len(table)))
    ax.set_title(title, pad=8)
    ax.set_xticklabels(heads)
    ax.set_yticklabels(neuron_names(table))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure
