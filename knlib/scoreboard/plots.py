"""Figures about editors: each function takes a table of `tables` or `comparisons`, or one whose columns it names.

Shares are drawn in per cent. Arms have the names of `ARM_NAMES`, an unknown one its id.
"""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from ..languages import LANGUAGES
from ..plots import COLORS, by_script
from .arms import NONE
from .estimates import RANDOM

ARM_NAMES = {
    NONE: "not edited", "ft_l": "FT-L", "ft_m": "FT-M", "kn": "KN", "cas": "CAS", "rome": "ROME", "memit": "MEMIT",
    "alphaedit": "AlphaEdit", "langedit": "LangEdit", "grace": "GRACE", "ike": "IKE", "lafn": "LAFN",
    "lafn_all": "LAFN, all neurons", "lafn_all_40": "LAFN, all, 40 steps", "lafn_union": "LAFN, union", "lafn_per_language": "LAFN, per language",
    RANDOM: "LAFN, random neurons",
}  # fmt: skip
WEIGHTS, BESIDE, PROMPT, CONTROL = "changes weights", "kept beside the weights", "in the prompt", "LAFN's controls"
GROUP_COLORS = {WEIGHTS: COLORS[0], BESIDE: COLORS[2], PROMPT: COLORS[1], CONTROL: COLORS[7]}
GROUPS = {"grace": BESIDE, "lafn": BESIDE, "ike": PROMPT} | {
    f"lafn_{kind}": CONTROL for kind in ("all", "all_40", "union", "per_language", "random")
}
METRICS = ("reliability", "generality", "locality", "portability")
KIND_STYLES = {"same_subject": (COLORS[3], "o"), "same_relation": (COLORS[0], "s"), "unrelated": (COLORS[7], "D")}
WHEN_STYLES = {"before": (COLORS[7], "o"), "inside": (COLORS[0], "D"), "after": ("black", "x")}
# Where a point's name may stand, in points: beside it, else above or below, further off each time.
LABEL_PLACES = ((7, 0), (-7, 0), *((x, y) for far in (9, 22, 35, 48) for y in (far, -far) for x in (0, 7, -7)))


def name_of(arm: str) -> str:
    """What an arm is called in figures.

    Example
    -------
    >>> name_of("ft_l"), name_of("mine")
    ('FT-L', 'mine')
    """
    return ARM_NAMES.get(arm, arm)


def script_of(code: str) -> str:
    """A language's script; an unknown language is a script of its own."""
    return LANGUAGES[code].script if code in LANGUAGES else code


def ends(table: pd.DataFrame, name: str, times: float = 100) -> tuple[np.ndarray, np.ndarray]:
    """Estimates [rows] and lengths of whiskers [2, rows] (0 where there is no interval) of the columns `name`, `_low`, `_high`."""
    value, low, high = (table[column].to_numpy(float) * times for column in (name, f"{name}_low", f"{name}_high"))
    # The end of a bootstrap interval may lie beside the estimate.
    return value, np.nan_to_num(np.maximum([value - low, high - value], 0))


def legend_below(figure: Figure, handles: list, **options) -> None:
    """One line of these handles, with their own labels, under all the axes."""
    labels = [handle.get_label() for handle in handles]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), **options)


def metric_bars(table: pd.DataFrame, ceiling: float | None = None) -> Figure:
    """Four panels of bars by arm with intervals; dotted, the unedited model's value, and the ceiling of portability.

    `table`: of `tables.scoreboard`; `ceiling`: a share, of `tables.ceiling`.
    """
    arms = [name for name in table.index if name != NONE]
    groups = [GROUPS.get(name, WEIGHTS) for name in arms]
    size = (13, 1.5 + 0.3 * len(arms))
    figure, axes = plt.subplots(1, len(METRICS), figsize=size, sharey=True, layout="constrained")
    for ax, metric in zip(axes, METRICS, strict=True):
        value, errors = ends(table.loc[arms], metric)
        ax.barh(range(len(arms)), value, 0.72, xerr=errors, color=[GROUP_COLORS[group] for group in groups],
                error_kw={"linewidth": 0.9})  # fmt: skip
        for y in np.flatnonzero(np.isnan(value)):
            ax.text(25, y, "not asked", ha="center", va="center", fontsize=8, color="0.4",
                    bbox={"color": "white", "pad": 1})  # fmt: skip
        if NONE in table.index:
            ax.axvline(100 * table.loc[NONE, metric], color="black", linestyle=":", linewidth=1.3)
        ax.set(title=metric, xlim=(0, 103), xlabel="%", yticks=range(len(arms)), ylim=(len(arms) - 0.4, -0.6))
    axes[0].set_yticklabels([name_of(name) for name in arms])
    handles = [Patch(color=color, label=group) for group, color in GROUP_COLORS.items() if group in groups]
    if NONE in table.index:
        handles.append(Line2D([], [], color="black", linestyle=":", label="not edited"))
    if ceiling is not None:
        axes[-1].axvline(100 * ceiling, color=COLORS[3], linestyle="--", linewidth=1.3)
        handles.append(Line2D([], [], color=COLORS[3], linestyle="--", label="ceiling: unedited facts"))
    legend_below(figure, handles)
    sns.despine(figure)
    return figure


def language_matrices(
    matrices: Mapping[str, pd.DataFrame], *, label: str = "reliability, %", columns: int = 3
) -> Figure:
    """Language edited in x language asked in, one map per arm and one colour scale; the rows that are no language lie apart.

    `matrices`: arm -> of `comparisons.matrix`. Lines separate scripts.
    """
    lines = -(-len(matrices) // columns)
    across = min(columns, len(matrices))
    deep, wide = next(iter(matrices.values())).shape
    size = (1.3 + across * (0.75 + 0.285 * wide), lines * (0.9 + 0.25 * deep))
    figure, axes = plt.subplots(lines, across, figsize=size, squeeze=False, sharey=True, layout="constrained")
    for ax, (arm, table) in zip(axes.flat, matrices.items(), strict=False):
        asked = by_script(table.columns)
        edited = by_script([row for row in table.index if row in table.columns])
        rest = [row for row in table.index if row not in table.columns]
        values = table.loc[[*edited, *rest], asked].to_numpy(float) * 100
        values = np.insert(values, len(edited), np.nan, axis=0) if rest else values  # a row of nothing sets them apart
        image = ax.imshow(values, cmap="crest", vmin=0, vmax=100, aspect="auto")
        for (y, x), value in np.ndenumerate(values):
            if np.isfinite(value):
                ax.text(
                    x, y, f"{value:.0f}", ha="center", va="center", fontsize=7, color="white" if value > 45 else "black"
                )
        _script_lines(ax, asked, edited)
        places = [*range(len(edited)), *range(len(edited) + 1, len(values))]
        ax.set(title=name_of(arm), xlabel="asked in", xticks=range(len(asked)), yticks=places)
        ax.set_xticklabels(asked)
        ax.set_yticklabels([*edited, *rest])
        ax.tick_params(length=0, labelsize=8)
        ax.spines[:].set_visible(False)
    for ax in list(axes.flat)[len(matrices) :]:
        ax.remove()
    for ax in axes[:, 0]:
        ax.set_ylabel("edited in")
    figure.colorbar(image, ax=axes, label=label, shrink=0.7, aspect=30)
    return figure


def _script_lines(ax, across: list[str], down: list[str]) -> None:
    for codes, line in ((across, ax.vlines), (down, ax.hlines)):
        scripts = [script_of(code) for code in codes]
        places = [i - 0.5 for i in range(1, len(codes)) if scripts[i] != scripts[i - 1]]
        line(places, -0.5, (len(down) if codes is across else len(across)) - 0.5, color="white", linewidth=1.6)


def locality_points(table: pd.DataFrame) -> Figure:
    """What became of the three kinds of neighbours, by arm: predictions that are the same, right ones kept, divergence.

    `table`: of `tables.by_locality`.
    """
    arms = [name for name in dict.fromkeys(table.index.get_level_values("arm")) if name != NONE]
    panels = {"same": "same prediction, %", "kept": "right before and after, %", "kl": "KL(unedited || edited), nats"}
    size = (12, 1.6 + 0.36 * len(arms))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained")
    for ax, (score, label) in zip(axes, panels.items(), strict=True):
        for number, (kind, (color, marker)) in enumerate(KIND_STYLES.items()):
            own = table.xs(kind, level="kind").reindex(arms)
            value, errors = ends(own, score, 1 if score == "kl" else 100)
            y = np.arange(len(arms)) + 0.23 * (number - 1)
            ax.errorbar(value, y, xerr=errors, fmt=marker, color=color, markersize=4.5, linewidth=1)
        for y in range(1, len(arms)):
            ax.axhline(y - 0.5, color="0.9", linewidth=0.8, zorder=0)
        ax.set(xlabel=label, yticks=range(len(arms)), ylim=(len(arms) - 0.4, -0.6))
        if score == "kl":
            # From nothing to several nats in one panel.
            ax.set_xscale("symlog", linthresh=0.1)
            ax.set_xticks([0, 0.1, 1, 10], ["0", ".1", "1", "10"])
            ax.set_xlim(-0.02, max(1.5, 1.3 * np.nanmax(table["kl"])))
            ax.minorticks_off()
        else:
            ax.set_xlim(-2, 103)
    axes[0].set_yticklabels([name_of(name) for name in arms])
    legend_below(figure, [Line2D([], [], color=color, marker=marker, linestyle="", label=kind.replace("_", " "))
                           for kind, (color, marker) in KIND_STYLES.items()])  # fmt: skip
    sns.despine(figure)
    return figure


def sequence_lines(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Edits one after another: what is left of each metric after 1, 10 and 100, and what neutral text lost.

    `tables`: arm -> of `comparisons.sequences`.
    """
    panels = {
        "reliability": "reliability, %", "generality": "generality, %", "locality": "locality, %",
        "retention": "first edits still right, %", "d_loss": "loss on neutral text, nats a token",
    }  # fmt: skip
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    lengths = sorted({length for table in tables.values() for length in table.index})
    for ax, (metric, label) in zip(axes.flat, panels.items(), strict=False):
        for number, (color, (arm, table)) in enumerate(zip(COLORS, tables.items(), strict=False)):
            if metric == "d_loss":
                value, errors = table[metric].to_numpy(float), None
            else:
                value, errors = ends(table, metric)
            x = table.index * 1.05 ** (number - (len(tables) - 1) / 2)  # slightly apart
            ax.errorbar(x, value, yerr=errors, fmt="o-", color=color, markersize=5, linewidth=1.3,
                        elinewidth=0.9, label=name_of(arm))  # fmt: skip
        ax.set(xlabel="edits one after another", ylabel=label, xscale="log")
        ax.set_xticks(lengths, [str(length) for length in lengths])
        ax.minorticks_off()
        if metric != "d_loss":
            ax.set_ylim(-2, 104)
    axes[1, 1].axhline(0, color="black", linewidth=0.6)
    axes[1, 2].axis("off")
    axes[1, 2].legend(*axes[0, 0].get_legend_handles_labels(), loc="center left")
    sns.despine(figure)
    return figure


def cost_points(scoreboard: pd.DataFrame, costs: pd.DataFrame) -> Figure:
    """Seconds per edit (logarithmic) against generality, coloured by locality; arms without a cost are left out.

    `scoreboard`, `costs`: of `tables.scoreboard` and `comparisons.costs`.
    """
    table = scoreboard.join(costs[["seconds"]], how="inner")
    table = table[table["seconds"].gt(0) & table["generality"].notna()].sort_values("seconds")
    figure, ax = plt.subplots(figsize=(8.6, 5), layout="constrained")
    points = ax.scatter(table["seconds"], table["generality"] * 100, c=table["locality"] * 100, cmap="crest", vmin=0,
                        vmax=100, s=60, edgecolor="0.3", linewidth=0.6, zorder=3)  # fmt: skip
    ax.set(xscale="log", xlabel="seconds of search per edit in all languages", ylabel="generality, %", ylim=(-4, 106))
    ax.margins(x=0.15)
    figure.colorbar(points, label="locality, %", shrink=0.8)
    sns.despine(figure)
    _label_points(ax, [name_of(arm) for arm in table.index], table["seconds"], table["generality"] * 100)
    return figure


def _label_points(ax, names: list[str], x, y) -> None:
    """A name beside every point: inside the axes, where it covers the fewest of the points and of the names before it."""
    ax.figure.draw_without_rendering()
    points = ax.transData.transform(np.column_stack([x, y]))
    frame, taken = ax.get_window_extent(), []
    for number, (name, place) in enumerate(zip(names, zip(x, y, strict=True), strict=True)):
        # The line shows whose name it is where the nearest places were taken.
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        own = ax.annotate(name, place, (0, 0), textcoords="offset points", fontsize=9, arrowprops=line)
        covered = {}
        for shift in LABEL_PLACES:
            box = _put(own, shift).padded(2)
            others = np.delete(points, number, axis=0)
            inside = (np.abs(others - (box.p0 + box.p1) / 2) < (box.p1 - box.p0) / 2 + 6).all(1).sum()
            outside = 9 * (box.x0 < frame.x0 or box.x1 > frame.x1)
            covered[shift] = inside + outside + sum(box.overlaps(other) for other in taken)
        taken.append(_put(own, min(covered, key=covered.get)))


def _put(text, shift: tuple[float, float]) -> Bbox:
    """Moves an annotation; returns the box of its name, without the line's."""
    text.set_position(shift)
    text.set(ha={0: "center", 1: "left", -1: "right"}[int(np.sign(shift[0]))],
             va={0: "center", 1: "bottom", -1: "top"}[int(np.sign(shift[1]))])  # fmt: skip
    text.update_positions(text.figure.canvas.get_renderer())
    return Text.get_window_extent(text)


def probability_lines(table: pd.DataFrame) -> Figure:
    """One fact: probabilities of the old and of the new answer before, inside and after the edit, by language.

    `table`: columns `language`, `when` (of `WHEN_STYLES`), `p_old`, `p_new`. After an edit that leaves no trace, the cross
    lies on the circle.
    """
    order = by_script(table["language"].unique())
    figure, axes = plt.subplots(2, 1, figsize=(9, 4.6), sharex=True, layout="constrained")
    for ax, (column, name) in zip(axes, {"p_old": "old answer", "p_new": "new answer"}.items(), strict=True):
        wide = table.pivot_table(index="language", columns="when", values=column).reindex(order)
        if {"before", "inside"} <= set(wide):
            ax.vlines(range(len(order)), wide["before"], wide["inside"], color="0.75", linewidth=2, zorder=1)
        for when, (color, marker) in WHEN_STYLES.items():
            if when in wide:
                ax.plot(range(len(order)), wide[when], marker, color=color, markersize=7, label=when)
        ax.set(title=f"P({name})", ylabel="probability", ylim=(-0.05, 1.05), xticks=range(len(order)))
    axes[1].set_xticklabels(order)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    sns.despine(figure)
    return figure
