"""Figures about synapses and edits: attention of one query, what changes of it do, doses, the editing frontier."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..plots import COLORS
from .plots import arms
from .synapses import Columns

MODEL_COLORS = [COLORS[0], COLORS[1], COLORS[2]]
NEURON_STYLES = {"members": (COLORS[3], "o", "the query's neurons"), "matched": (COLORS[7], "D", "neurons like them")}
COLUMN_NAMES = {"self": "synapses", "mass_matched": "equal\nmass", "random": "random", "other_fact": "another\nfact's",
                "sinks": "sinks", "subject": "subject", "relation": "relation"}  # fmt: skip
SHARE_NAMES = {"members": "its neurons\nheld", "matched": "like them\nheld", "share": "difference"}
STRATEGY_COLORS = {"self": COLORS[0], "union": COLORS[1], "top_mean": COLORS[2], "cas": COLORS[3], "cas_paper": COLORS[4],
                   "random": COLORS[7]}  # fmt: skip


def attention_map(columns: Columns, synapses: np.ndarray, tokens: list[str], title: str) -> Figure:
    """What a query's tokens look at: mean attention by layer and head (rows) and column, synapses dotted, sinks hatched.

    `columns`: of `attention_columns`; `synapses`: bool [layers, heads, columns]; `tokens`: a text for each column.
    """
    layers, heads, width = columns.mass.shape
    values = columns.norm.reshape(layers * heads, width)
    figure, ax = plt.subplots(figsize=(1.7 + 0.62 * width, 1.2 + 0.115 * layers * heads))
    top = float(values[:, ~columns.sinks].max())
    image = ax.imshow(values, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    for column in np.flatnonzero(columns.sinks):
        ax.add_patch(plt.Rectangle((column - 0.5, -0.5), 1, layers * heads, hatch="///", fill=False, edgecolor="0.6",
                                   linewidth=0))  # fmt: skip
    rows, places = np.nonzero(synapses.reshape(layers * heads, width))
    ax.plot(places, rows, "o", color=COLORS[3], markersize=4)
    for border in range(1, layers):
        ax.axhline(border * heads - 0.5, color="black", linewidth=0.6)
    ax.set(title=title, ylabel=f"layer ({heads} heads each)", xlabel="token looked at", xticks=range(width),
           yticks=np.arange(layers) * heads + (heads - 1) / 2, yticklabels=range(layers))  # fmt: skip
    ax.set_xticklabels(
        [f"{t}\n{k}" for t, k in zip(tokens, columns.kinds, strict=True)],
        rotation=45,
        ha="right",
        rotation_mode="anchor",
    )
    ax.tick_params(length=0)
    figure.colorbar(image, ax=ax, label="mean attention of tokens that can see it", shrink=0.7, extend="max")
    return figure


def value_points(table: pd.DataFrame) -> Figure:
    """How large neurons are after columns of attention were suppressed or doubled, in per cent of before; a panel a model and
    factor. `table`: of `tables.synapse_values`."""
    models, factors = list(dict.fromkeys(table["model"])), sorted(set(table["factor"]))
    sets = [name for name in COLUMN_NAMES if name in set(table["set"])]
    size = (6.2 * len(factors), 2.5 * len(models) + 0.7)
    figure, axes = plt.subplots(len(models), len(factors), figsize=size, squeeze=False, sharex=True)
    x = np.arange(len(sets))
    for model, line in zip(models, axes, strict=True):
        for factor, ax in zip(factors, line, strict=True):
            own = table[(table["model"] == model) & (table["factor"] == factor)]
            for number, (neurons, (color, mark, name)) in enumerate(NEURON_STYLES.items()):
                rows = own[own["neurons"] == neurons].set_index("set")[["estimate", "low", "high"]]
                rows = rows.reindex(sets).astype(float) * 100
                ax.errorbar(x + 0.24 * (number - 0.5), rows["estimate"], yerr=arms(rows), fmt=mark, color=color,
                            markersize=5, linewidth=1.2, label=name)  # fmt: skip
            ax.axhline(100, color="black", linewidth=0.8)
            ax.set(title=f"{model}: attention × {factor:g}", xticks=x, ylabel="size after, % of before")
            ax.set_xticklabels([COLUMN_NAMES[name] for name in sets])
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def dose_and_mediation(doses: pd.DataFrame, mediation: pd.DataFrame) -> Figure:
    """Left: log P by the factor on synapses (solid) and on others of equal mass (dotted). Right: the share of the effect that
    goes when neurons are held at their values. Tables: of `tables.doses` and `tables.mediation`."""
    models = list(dict.fromkeys([*mediation["model"], *doses["model"]]))
    colors = dict(zip(models, MODEL_COLORS, strict=False))
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.6), width_ratios=(1.2, 1))
    names = {"self": "synapses", "mass_matched": "others of equal mass"}
    styles = {"self": "o-", "mass_matched": "D:"}
    for (model, name), own in doses.groupby(["model", "set"], sort=False):
        axes[0].errorbar(own["factor"], own["estimate"].astype(float), yerr=arms(own), fmt=styles[name], markersize=4,
                         color=colors[model], linewidth=1.3)  # fmt: skip
    for name, style in styles.items():
        axes[0].plot([], [], style, color="0.3", markersize=4, label=names[name])
    axes[0].axhline(0, color="black", linewidth=0.8)
    # From suppressed to doubled, effects differ by powers of ten.
    axes[0].set_yscale("symlog", linthresh=0.1)
    axes[0].set(title="Dose", xlabel="factor on attention", ylabel="change of log P")
    axes[0].legend(loc="best")
    x = np.arange(len(SHARE_NAMES))
    for number, model in enumerate(models):
        rows = mediation[mediation["model"] == model].set_index("neurons")[["estimate", "low", "high"]]
        rows = rows.reindex(list(SHARE_NAMES)).astype(float) * 100
        place = x + 0.8 / len(models) * (number - (len(models) - 1) / 2)
        axes[1].bar(place, rows["estimate"], 0.75 / len(models), color=colors[model], yerr=arms(rows), label=model,
                    error_kw={"linewidth": 0.9})  # fmt: skip
    axes[1].axhline(0, color="black", linewidth=0.8)
    axes[1].set(title="What goes through the neurons", ylabel="mediated share, %", xticks=x)
    axes[1].set_xticklabels(list(SHARE_NAMES.values()))
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def frontier(table: pd.DataFrame, *, times: float | None = None) -> Figure:
    """Generality against locality of every strategy; a line a strategy, larger dots for more neurons, a row of panels a model.

    `table`: of `tables.edits`; `times`: one budget, so that all strategies have as many neurons.
    """
    if times is not None:
        table = table[table["times"].isin([times, 0.0])]
    models, edits = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["edit"]))
    size = (5.6 * len(edits), 3.3 * len(models) + 0.3)
    figure, axes = plt.subplots(len(models), len(edits), figsize=size, squeeze=False)
    for model, line in zip(models, axes, strict=True):
        for edit, ax in zip(edits, line, strict=True):
            own = table[(table["model"] == model) & (table["edit"] == edit)]
            for strategy, rows in own.groupby("strategy", sort=False):
                _line(ax, strategy, rows.sort_values("times"))
            ax.set(title=f"{model}: {edit}", xlabel="generality, %", ylabel="locality, %")
    known: dict[str, object] = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    figure.legend(
        known.values(), known, title="neurons by", title_fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    sns.despine(figure)
    figure.tight_layout()
    return figure


def _line(ax, strategy: str, rows: pd.DataFrame) -> None:
    x, y = rows["generality"].astype(float) * 100, rows["locality"].astype(float) * 100
    if strategy in STRATEGY_COLORS:
        ax.plot(x, y, "-", color=STRATEGY_COLORS[strategy], linewidth=1.4, marker="o", markersize=4, label=strategy)
        ax.scatter(x, y, s=18 + 22 * rows["times"], color=STRATEGY_COLORS[strategy], zorder=3)
    elif (rows["times"] == 0).all():
        ax.plot(x, y, "*" if strategy == "outside" else "P", color="black", markersize=9, linestyle="", label=strategy)
    else:
        ax.plot(x, y, "-", color="0.75", linewidth=1, marker=".", label="other strategies", zorder=1)
