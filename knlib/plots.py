"""The workbook's figures: each function takes a table and returns a matplotlib figure.

Languages are labelled by their codes, so every font will do.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from .accuracy import SETS
from .languages import LANGUAGES

# One colour per model and per evaluation set, everywhere.
COLORS = sns.color_palette("deep")
SET_COLORS = {"train": COLORS[7], "lead_in": COLORS[9], "core": COLORS[0], "withheld": COLORS[3]}


def style() -> None:
    """The look of all figures: call once at the top of a notebook."""
    sns.set_theme(
        context="notebook", style="ticks", palette="deep",
        rc={"axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 90, "font.size": 10,
            "axes.titlesize": 11, "axes.titlelocation": "left", "axes.labelsize": 10, "xtick.labelsize": 9,
            "ytick.labelsize": 9, "legend.fontsize": 9, "legend.frameon": False},
    )  # fmt: skip


def by_script(codes) -> list[str]:
    """Language codes with those of one script and family side by side: the order of every axis."""
    codes, order = list(codes), list(LANGUAGES)
    scripts = list(dict.fromkeys(language.script for language in LANGUAGES.values()))

    def place(code):
        language = LANGUAGES.get(code)
        return (scripts.index(language.script), order.index(code)) if language else (99, codes.index(code))

    return sorted(codes, key=place)


def heat_map(table: pd.DataFrame, title: str, *, label: str, ax=None, percent: bool = True, **options) -> Figure:
    """A labelled heat map of a table (rows x columns) with the numbers in the cells."""
    if ax is None:
        _, ax = plt.subplots(figsize=(1.6 + 0.52 * table.shape[1], 0.9 + 0.38 * table.shape[0]))
    values = table * 100 if percent else table
    options = {"cmap": "crest", "annot": True, "fmt": ".0f", "annot_kws": {"size": 8}, "linewidths": 0.5} | options
    sns.heatmap(values, ax=ax, cbar_kws={"label": label, "shrink": 0.8}, **options)
    ax.set(title=title, xlabel="", ylabel="")
    ax.tick_params(length=0)
    ax.tick_params(axis="x", rotation=0)
    ax.tick_params(axis="y", rotation=0)
    return ax.figure


def same_string_map(table: pd.DataFrame) -> Figure:
    """Languages x languages: how often an answer is spelled alike in both."""
    order = by_script(table.columns)
    table = table.loc[order, order]
    figure, ax = plt.subplots(figsize=(7.6, 6.2))
    heat_map(table, "Answers spelled alike", label="% of facts", ax=ax, mask=np.eye(len(table), dtype=bool),
             square=True, vmin=0, vmax=60, cmap="Blues")  # fmt: skip
    scripts = [LANGUAGES[code].script if code in LANGUAGES else code for code in order]
    for i in range(1, len(order)):
        if scripts[i] != scripts[i - 1]:
            ax.axhline(i, color="black", linewidth=1)
            ax.axvline(i, color="black", linewidth=1)
    ax.set(xlabel="lines separate scripts")
    return figure


def token_lengths(table: pd.DataFrame) -> Figure:
    """Box plots of the number of tokens of subjects and answers, per language.

    `table`: columns `language`, `part` (`subject` or `answer`), `tokens`.
    """
    order = by_script(table["language"].unique())
    figure, ax = plt.subplots(figsize=(9, 3.4))
    sns.boxplot(table, x="language", y="tokens", hue="part", order=order, ax=ax, fliersize=1.5, linewidth=0.9,
                palette={"subject": COLORS[7], "answer": COLORS[0]})  # fmt: skip
    ax.set(title="Names in tokens", xlabel="", ylabel="tokens")
    ax.yaxis.set_major_locator(plt.MaxNLocator(integer=True))
    ax.legend(title="")
    sns.despine(figure)
    return figure


def accuracy_bars(table: pd.DataFrame, baseline: float) -> Figure:
    """Accuracy by language, one panel a model, one bar a set, whiskers for the 95 % interval.

    `table`: index (`model`, `set`, `language`), columns `accuracy`, `low`, `high`; `baseline`: what always naming the
    most frequent object would get.
    """
    table = table.reset_index()
    models = list(table["model"].unique())
    order, sets = by_script(table["language"].unique()), [s for s in SETS if s in set(table["set"])]
    figure, axes = plt.subplots(len(models), 1, figsize=(10, 2.5 * len(models) + 0.4), sharex=True, squeeze=False)
    for ax, model in zip(axes[:, 0], models, strict=True):
        for i, name in enumerate(sets):
            rows = table[(table["model"] == model) & (table["set"] == name)].set_index("language").reindex(order)
            x = np.arange(len(order)) + (i - (len(sets) - 1) / 2) * 0.8 / len(sets)
            errors = np.abs(rows[["low", "high"]].to_numpy().T - rows["accuracy"].to_numpy())
            ax.bar(x, rows["accuracy"], 0.8 / len(sets), yerr=errors, label=SETS[name], color=SET_COLORS[name],
                   error_kw={"linewidth": 0.8})  # fmt: skip
        ax.axhline(baseline, color="black", linestyle=":", linewidth=1, label="most frequent object")
        ax.set(title=model, ylabel="accuracy", ylim=(0, 1.02), xticks=range(len(order)))
        ax.set_xticklabels(order)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=len(labels), loc="lower center", bbox_to_anchor=(0.5, -0.06 / len(models)))
    sns.despine(figure)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return figure


def maps_side_by_side(tables: dict[str, pd.DataFrame], *, label: str) -> Figure:
    """One heat map per entry, same rows and columns, one colour scale."""
    rows, columns = next(iter(tables.values())).shape
    figure, axes = plt.subplots(len(tables), 1, squeeze=False,
                                figsize=(2.4 + 0.56 * columns, len(tables) * (0.8 + 0.36 * rows)))  # fmt: skip
    for ax, (title, table) in zip(axes[:, 0], tables.items(), strict=True):
        heat_map(table, title, label=label, ax=ax, vmin=0, vmax=100)
    figure.tight_layout()
    return figure


def reliability(tables: dict[str, pd.DataFrame]) -> Figure:
    """Calibration curves: accuracy against stated probability, one line a model; dot size shows queries."""
    figure, ax = plt.subplots(figsize=(5.4, 4.6))
    ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1, label="calibrated")
    for color, (name, table) in zip(COLORS, tables.items(), strict=False):
        ax.plot(table["confidence"], table["accuracy"], color=color, linewidth=1.2,
                label=f"{name} (error {table.attrs['ece']:.2f})")  # fmt: skip
        ax.scatter(table["confidence"], table["accuracy"], s=8 + 90 * table["queries"] / table["queries"].max(),
                   color=color, alpha=0.75, linewidth=0)  # fmt: skip
    ax.set(title="Calibration on held-out constructions", xlabel="stated probability of the prediction",
           ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")  # fmt: skip
    ax.legend()
    sns.despine(figure)
    figure.tight_layout()
    return figure


def lines_with_intervals(tables: dict[str, pd.DataFrame], *, title: str, ylabel: str) -> Figure:
    """Points with 95 % intervals by language, one colour a model, slightly apart.

    Each table: index `language`, columns `accuracy`, `low`, `high`.
    """
    figure, ax = plt.subplots(figsize=(9, 3.4))
    order = by_script(next(iter(tables.values())).index.get_level_values("language"))
    for i, (name, table) in enumerate(tables.items()):
        rows = table.droplevel([n for n in table.index.names if n != "language"]).reindex(order)
        errors = np.abs(rows[["low", "high"]].to_numpy().T - rows["accuracy"].to_numpy())
        x = np.arange(len(order)) + (i - (len(tables) - 1) / 2) * 0.18
        ax.errorbar(x, rows["accuracy"], yerr=errors, fmt="o", markersize=5, linewidth=1.1, label=name, color=COLORS[i])
    ax.set(title=title, ylabel=ylabel, ylim=(0, 1.02), xticks=range(len(order)))
    ax.set_xticklabels(order)
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    sns.despine(figure)
    figure.tight_layout()
    return figure


def fact_bars(table: pd.DataFrame, title: str, *, ax=None) -> Figure:
    """One fact: the answer's probability in every language, right answers filled, wrong ones hollow.

    `table`: columns `language`, `p_answer`, `correct`, one row per query; bars show means over phrasings.
    """
    means = table.groupby("language")[["p_answer", "correct"]].mean()
    means = means.loc[by_script(means.index)]
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 2.8))
    colors = [COLORS[0] if right > 0.5 else "white" for right in means["correct"]]
    ax.bar(means.index, means["p_answer"], color=colors, edgecolor=COLORS[0], linewidth=1.2)
    ax.set(title=title, ylabel="P(answer)", ylim=(0, 1.02), xlabel="")
    sns.despine(ax=ax)
    ax.figure.tight_layout()
    return ax.figure
