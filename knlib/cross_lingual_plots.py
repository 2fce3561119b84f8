"""Figures about what languages share: kinds of neurons by layer, overlaps of two languages, effects across languages.

Each function takes tables and returns a matplotlib figure. Languages are labelled by their codes.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .cross_lingual import KINDS
from .language_effects import DISTANCES
from .languages import script_of
from .neuron_plots import CONDITION_COLORS, CONDITION_NAMES
from .plots import COLORS, by_script, heat_map

KIND_NAMES = {"specific": "in one language", "partial": "in several", "agnostic": "language-agnostic"}
KIND_COLORS = {"specific": COLORS[0], "partial": COLORS[9], "agnostic": COLORS[2]}
CHANCE_MARKS = {"other facts": ("D", COLORS[1]), "random neurons": ("x", "black")}


def kind_layers(profile: pd.DataFrame, chance: dict[str, pd.DataFrame]) -> Figure:
    """Neurons per fact by layer, one panel a kind, whiskers for 95 % intervals, marks for chance levels.

    `profile`: index (`kind`, `layer`), columns `mean`, `low`, `high`; `chance`: name -> a table like it (means are shown).
    """
    figure, axes = plt.subplots(1, len(KINDS), figsize=(11, 3.2))
    for ax, kind in zip(axes, KINDS, strict=True):
        rows = profile.loc[kind]
        ax.bar(rows.index, rows["mean"], color=KIND_COLORS[kind], alpha=0.8, yerr=_arms(rows, "mean", ("low", "high")),
               error_kw={"linewidth": 0.9})  # fmt: skip
        for name, table in chance.items():
            mark, color = CHANCE_MARKS[name]
            ax.plot(table.loc[kind].index, table.loc[kind]["mean"], mark, color=color, markersize=5, label=name)
        ax.set(title=f"{KIND_NAMES[kind]}: {rows['mean'].sum():.1f} per fact", xlabel="layer", xticks=rows.index)
        ax.set_ylim(bottom=0)
    axes[0].set_ylabel("neurons per fact")
    axes[-1].legend(title="by chance", loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def language_count_lines(counts: dict[str, pd.Series]) -> Figure:
    """Neurons per fact by the number of languages that have them, logarithmic; the first entry is what was located.

    `counts`: name -> of `knlib.cross_lingual.language_counts`. A number of languages that no neuron reaches has no point.
    """
    figure, ax = plt.subplots(figsize=(7.2, 3.4))
    for name, values in counts.items():
        mark, color = CHANCE_MARKS.get(name, ("o", COLORS[3]))
        shown = values[values > 0]
        ax.plot(shown.index, shown, f"{mark}-", color=color, linewidth=1.3, markersize=6, label=name)
    ticks = next(iter(counts.values())).index
    ax.set(yscale="log", xlabel="languages in whose own sets a neuron is", ylabel="neurons per fact", xticks=ticks,
           title="How many languages share a neuron")  # fmt: skip
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def overlap_maps(maps: dict[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """Languages x languages, one panel an entry: above the diagonal the first table, below it the second, in percent.

    The tables are symmetric with the same languages; lines separate scripts.
    """
    order = by_script(next(iter(maps.values()))[0].columns)
    figure, axes = plt.subplots(1, len(maps), figsize=(6.6 * len(maps), 5.8), squeeze=False)
    joined = {}
    for title, (above, below) in maps.items():
        upper = np.triu(np.ones((len(order), len(order)), bool), 1)
        values = np.where(upper, above.loc[order, order], np.where(upper.T, below.loc[order, order], np.nan))
        joined[title] = pd.DataFrame(values.astype(float), index=order, columns=order)
    top = max((np.nanmax(table) for table in joined.values() if table.notna().any(axis=None)), default=1)
    for ax, (title, table) in zip(axes[0], joined.items(), strict=True):
        heat_map(table, title, label="mean Jaccard, %", ax=ax, square=True, vmin=0, vmax=100 * top, cmap="Blues")
        _script_lines(ax, order)
    figure.tight_layout()
    return figure


def _script_lines(ax, order: list[str], *, rows: bool = True) -> None:
    scripts = [script_of(code) for code in order]
    for i in range(1, len(order)):
        if scripts[i] != scripts[i - 1]:
            ax.axvline(i, color="black", linewidth=0.8)
            if rows:
                ax.axhline(i, color="black", linewidth=0.8)


def overlap_points(summary: pd.DataFrame, random: pd.Series) -> Figure:
    """Overlap of two languages by how the answer is spelled: same fact, other answer, same answer, random neurons.

    `summary`: of `knlib.cross_lingual.overlap_summary`; `random`: mean overlap of redrawn sets by the same groups.
    """
    figure, ax = plt.subplots(figsize=(8.6, 3.6))
    x, rows = np.arange(len(summary)), summary * 100
    for shift, column, name, color in ((-0.16, "same", "same fact", COLORS[3]),
                                       (0.16, "other", "other fact, other answer", COLORS[7])):  # fmt: skip
        _points(ax, x + shift, rows, column, (f"{column}_low", f"{column}_high"), color, name)
    ax.plot(x, rows["twin_same"], "o", color=COLORS[3], markersize=7, markerfacecolor="none",
            label="same fact, of those\nwith a twin in the answer")  # fmt: skip
    ax.plot(x + 0.05, rows["twin"], "D", color=COLORS[1], markersize=5, label="the twin: other fact,\nsame answer")
    ax.plot(x, random.reindex(summary.index) * 100, "_", color="black", markersize=26, label="random neurons")
    names = [f"{name.replace(', ', chr(10))}\n{row['facts']:.0f} facts" for name, row in summary.iterrows()]
    ax.set(title="Overlap of a fact's neurons in two languages", ylabel="mean Jaccard, %", xticks=x,
           xlim=(-0.5, len(summary) - 0.5))  # fmt: skip
    ax.set_xticklabels(names)
    ax.set_ylim(bottom=0)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def effect_map(matrix: pd.DataFrame, title: str) -> Figure:
    """Change of P(answer) beyond the control's in percent: languages that located x languages asked.

    `matrix`: shares, of `knlib.language_effects.effect_matrix`; rows that are no language stand below a line.
    """
    order = by_script(matrix.columns)
    rows = [*order, *(name for name in matrix.index if name not in order)]
    table = (100 * matrix.loc[rows, order]).round() + 0.0  # no -0
    figure, ax = plt.subplots(figsize=(2.8 + 0.52 * table.shape[1], 1.3 + 0.4 * table.shape[0]))
    values = table.abs().to_numpy()
    reach = max(1, np.nanmax(values)) if np.isfinite(values).any() else 1
    heat_map(table, title, label="change of P(answer) beyond random, %", ax=ax, percent=False, cmap="RdBu",
             vmin=-reach, vmax=reach)  # fmt: skip
    if len(rows) > len(order):
        ax.axhline(len(order), color="black", linewidth=1.6)
    ax.set(xlabel="language asked", ylabel="language that located")
    figure.tight_layout()
    return figure


def effect_by_distance(summary: pd.DataFrame) -> Figure:
    """Change of P(answer), neurons beside their control, by how far the language asked is from the one that located.

    `summary`: index (`distance`, `condition`), columns `change`, `low`, `high` as shares.
    """
    names = [name for name in DISTANCES if name in summary.index.unique(0)]
    figure, ax = plt.subplots(figsize=(7.6, 3.2))
    for shift, (condition, color) in zip((-0.08, 0.08), CONDITION_COLORS.items(), strict=True):
        rows = summary.xs(condition, level="condition").loc[names] * 100
        _points(ax, np.arange(len(names)) + shift, rows, "change", ("low", "high"), color, CONDITION_NAMES[condition])
    ax.axhline(0, color="black", linewidth=0.7)
    labels = {DISTANCES[-1]: "all but this one\n(language-agnostic)"}
    ax.set(title="Suppressed: neurons located in", ylabel="change of P(answer), %", xticks=range(len(names)),
           xlim=(-0.5, len(names) - 0.5))  # fmt: skip
    ax.set_xticklabels([labels.get(name, name) for name in names])
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def left_out_points(summaries: dict[str, pd.DataFrame]) -> Figure:
    """Change of P(answer) in each language that was left out of localization, one panel an entry.

    Each table: of `knlib.left_out_effects.left_out_summary`, by language.
    """
    figure, axes = plt.subplots(len(summaries), 1, figsize=(8.6, 2.5 * len(summaries) + 0.5), squeeze=False)
    for ax, (title, table) in zip(axes[:, 0], summaries.items(), strict=True):
        rows = table.loc[by_script(table.index)] if len(table) else table
        for shift, (condition, color) in zip((-0.12, 0.12), CONDITION_COLORS.items(), strict=True):
            if len(rows):
                column = {"neurons": "change", "layer_matched": "control"}[condition]
                ends = (f"{column}_low", f"{column}_high")
                values = rows[[column, *ends]] * 100
                _points(ax, np.arange(len(rows)) + shift, values, column, ends, color, CONDITION_NAMES[condition])
        ax.axhline(0, color="black", linewidth=0.7)
        ax.set(title=title, ylabel="change of P(answer), %", xticks=range(len(rows)))
        ax.set_xticklabels(rows.index)
    axes[-1, 0].set_xlabel("language asked, left out of localization")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def localizer_panels(sizes: pd.DataFrame, effects: pd.DataFrame) -> Figure:
    """Left, neurons per fact of each kind under every localizer; right, the change of P(answer) in left-out languages.

    `sizes`: localizers x `KINDS`. `effects`: index localizer, columns of `left_out_summary`; localizers without a row have
    found nothing to suppress.
    """
    names = list(sizes.index)
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 3.6))
    for i, kind in enumerate(KINDS):
        axes[0].bar(np.arange(len(names)) + (i - 1) * 0.27, sizes[kind], 0.27, color=KIND_COLORS[kind],
                    label=KIND_NAMES[kind])  # fmt: skip
    axes[0].set_yscale("symlog", linthresh=1)
    ticks = [tick for tick in (0, 1, 10, 100, 1000, 10000) if tick <= 2 * sizes.max(axis=None)]
    axes[0].set_yticks(ticks, [str(tick) for tick in ticks])
    axes[0].minorticks_off()
    axes[0].set(title="Neurons per fact", ylabel="neurons (logarithmic above 1)")
    for shift, (condition, color) in zip((-0.1, 0.1), CONDITION_COLORS.items(), strict=True):
        column = {"neurons": "change", "layer_matched": "control"}[condition]
        ends = (f"{column}_low", f"{column}_high")
        rows = effects.reindex(index=names, columns=[column, *ends]).astype(float) * 100
        _points(axes[1], np.arange(len(names)) + shift, rows, column, ends, color, CONDITION_NAMES[condition])
    axes[1].axhline(0, color="black", linewidth=0.7)
    axes[1].set(title="Suppressed in languages left out", ylabel="change of P(answer), %")
    for ax in axes:
        ax.set(xticks=range(len(names)), xlim=(-0.6, len(names) - 0.4))
        ax.set_xticklabels([name.replace("_", "\n") for name in names])
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def shared_pair(
    shared: pd.DataFrame, facts: list[str], layers: int, title: str, *, chance: float | None = None
) -> Figure:
    """The neurons that two languages share: by layer on the left, by fact on the right.

    `shared`: of `knlib.cross_lingual.shared_neurons`; `facts`: those asked, top to bottom; `chance`: neurons per fact that random
    sets share.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.6, max(3.0, 0.9 + 0.19 * len(facts))), width_ratios=(1, 1.3))
    base, left = np.zeros(layers), np.zeros(len(facts))
    for kind in KINDS[1:]:
        own = shared[shared["kind"] == kind]
        heights = own["layer"].value_counts().reindex(range(layers), fill_value=0) / max(1, len(facts))
        axes[0].bar(range(layers), heights, bottom=base, color=KIND_COLORS[kind], label=KIND_NAMES[kind])
        base += heights.to_numpy()
        widths = own["fact"].value_counts().reindex(facts, fill_value=0)
        axes[1].barh(range(len(facts)), widths, left=left, color=KIND_COLORS[kind])
        left += widths.to_numpy()
    axes[0].set(title=title, xlabel="layer", ylabel="shared neurons per fact", xticks=range(layers))
    axes[0].legend()
    if chance is not None:
        axes[1].axvline(chance, color="black", linewidth=0.9, linestyle=":", label="random neurons")
        axes[1].legend()
    axes[1].set(title="by fact", xlabel="shared neurons", yticks=range(len(facts)), ylim=(len(facts) - 0.4, -0.6))
    axes[1].set_yticklabels(facts, fontsize=7.5)
    axes[1].tick_params(axis="y", length=0)
    sns.despine(figure)
    figure.tight_layout()
    return figure


def _points(ax, x, rows: pd.DataFrame, column: str, ends: tuple[str, str], color, name: str) -> None:
    """Estimates with whiskers."""
    arms = _arms(rows, column, ends)
    ax.errorbar(x, rows[column], yerr=arms, fmt="o", color=color, markersize=6, linewidth=1.4, label=name)


def _arms(rows: pd.DataFrame, column: str, ends: tuple[str, str]) -> np.ndarray:
    """[2, rows]: how far the ends of the intervals are from the estimates."""
    return np.abs(rows[list(ends)].to_numpy(float).T - rows[column].to_numpy(float))
