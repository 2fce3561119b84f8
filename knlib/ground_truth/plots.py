"""The scoreboard as one figure, and what all figures about methods share: names, order, colours, dots with intervals.

Methods stand below each other, with the same names in every figure; intervals are of 95 %. More about methods: `method_plots`, `claim_plots`; about
facts and neurons: `fact_plots`.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from ..errors import InputError, Literal
from ..plots import COLORS
from ..query_relevant.plots import name_of as letter_name
from ..query_relevant.plots import number_map
from .estimates import ALL
from .letters import PREFIX
from .questions import CHANCE
from .scorers import ORACLE

KINDS = ("agnostic", "language", "half", "query", "redundant", "relation", "distributed", "re-targeted")
TRUTH = "truth"
# A localizer whose scores have another start than integrated gradients from zero.
OWN_START = {"re_lcb": "ig_mask_words", "amig": "ig_mask_words"}
STARTS = {"ig": "from zero", "ig_mask_words": "from masked words"}
NAMES = {
    TRUTH: "truth", CHANCE: "random", ORACLE: "ablation (oracle)", "ig": "IG", "ig_riemann20": "IG, Riemann 20 steps",
    "ig_logprob": "IG of log P", "ig_dataset_mean": "IG from mean neurons", "ig_mask_words": "IG from masked words",
    "ig_mask_words_mean": "IG from masked words' mean", "gradient_x_activation": "gradient × activation", "activation": "activation",
    "lafn": "LAFN's locator", "lafn at the answer": "LAFN's rule at the answer", "kn_share": "KN, share of queries", "amig": "AMIG",
    "min_lang": "minimum over languages", "cas": "CAS", "re_lcb": "MATRICE",
}  # fmt: skip
# Kind of method -> colour and marker.
REFERENCE, PASS, PATH = "reference", "one backward pass", "a path"
RULE, STATE, LETTER = "a path and a rule", "activations alone", "multiple choice"
FAMILIES = {PATH: (COLORS[0], "o"), RULE: (COLORS[1], "D"), PASS: (COLORS[2], "s"), STATE: (COLORS[4], "^"), LETTER: (COLORS[6], "v"),
            REFERENCE: ("black", "P")}  # fmt: skip


def name_of(row: str) -> str:
    """What a row of the scoreboard is called in figures; scores that a localizer starts from are named where they are not its own.

    Example
    -------
    >>> name_of("re_lcb from ig_mask_words"), name_of("re_lcb from ig"), name_of("mine from ig")
    ('MATRICE', 'MATRICE from zero', 'mine')
    """
    if row.startswith(PREFIX):
        return PREFIX + letter_name(row.removeprefix(PREFIX))
    localizer, _, start = row.partition(" from ")
    head, _, rest = localizer.partition(" without ")
    name = NAMES.get(head, head) + (f" without {rest}" if rest else "")
    return name if start in ("", _own_start(head)) else f"{name} {STARTS.get(start, f'from {start}')}"


def _own_start(localizer: str) -> str:
    return OWN_START.get(localizer, "ig")


def family(row: str) -> str:
    """Which kind of method a row is, a key of `FAMILIES`.

    Example
    -------
    >>> family("lafn"), family("amig from ig")
    ('activations alone', 'a path and a rule')
    """
    if row in (TRUTH, CHANCE, ORACLE):
        return REFERENCE
    if row.startswith(PREFIX):
        return LETTER
    if row in ("activation", "lafn", "lafn at the answer"):
        return STATE
    if " from " in row:
        return RULE
    return PATH if row.startswith("ig") else PASS


def default_rows(rows: Sequence[str]) -> list[str]:
    """All ways to score with the plain mean, every localizer from the scores that are its own, what needs no scores; no letters.

    Example
    -------
    >>> default_rows(["ig", "amig from ig", "amig from ig_mask_words", "letters: qrnca"])
    ['ig', 'amig from ig_mask_words']
    """
    kept = []
    for row in dict.fromkeys(rows):
        localizer, _, start = row.partition(" from ")
        if not row.startswith(PREFIX) and start in ("", _own_start(localizer.partition(" without ")[0])):
            kept.append(row)
    return kept


def chosen(board: pd.DataFrame, measure: str, rows: Sequence[str] | None, scope: str, kind: str = ALL) -> pd.DataFrame:
    """The board's lines of one measure by row, best first. Raises `InputError` where none of the rows has the measure."""
    own = board[(board["measure"] == measure) & (board["scope"] == scope) & (board["kind"] == kind)].set_index("row")
    rows = default_rows(own.index) if rows is None else rows
    kept = own.loc[[row for row in rows if row in own.index]]
    if kept.empty:
        raise InputError("rows", found=rows, expected=Literal(f"some that have {measure} over {scope}"))
    # The truth first, where others are perfect too.
    return kept.assign(truth=kept.index == TRUTH).sort_values(["estimate", "truth"], ascending=False, kind="stable")


def shown_kinds(table: pd.DataFrame) -> list[str]:
    """The kinds of facts that a table has, in the order of every figure."""
    return sorted(set(table["kind"]) - {ALL}, key=lambda kind: (*KINDS, kind).index(kind))


def row_axis(ax, rows: Sequence[str]) -> None:
    """A line a method, the first on top."""
    for y in range(1, len(rows)):
        ax.axhline(y - 0.5, color="0.93", linewidth=0.8, zorder=0)
    ax.set(yticks=range(len(rows)), ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticklabels([name_of(row) for row in rows])


def dots(ax, table: pd.DataFrame, y, **options) -> None:
    """Estimates with intervals (columns `estimate`, `low`, `high`) along x; none where there is no interval."""
    value, low, high = (table[column].to_numpy(float) for column in ("estimate", "low", "high"))
    errors = np.nan_to_num(np.maximum([value - low, high - value], 0))
    there = np.isfinite(value)
    options = {"fmt": "o", "markersize": 5.5, "linewidth": 1.3, "color": COLORS[0]} | options
    ax.errorbar(value[there], np.asarray(y, float)[there], xerr=errors[:, there], **options)


def family_dots(ax, table: pd.DataFrame) -> None:
    """As `dots`, in the colour and with the marker of each row's family; `table` indexed by row."""
    for kind, (color, marker) in FAMILIES.items():
        own = np.array([family(row) == kind for row in table.index])
        if own.any():
            dots(ax, table[own], np.flatnonzero(own), fmt=marker, color=color)


def legend_below(figure: Figure, handles: list) -> None:
    labels = [handle.get_label() for handle in handles]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))


def family_handles(rows: Sequence[str]) -> list[Line2D]:
    found = {family(row) for row in rows}
    return [Line2D([], [], color=color, marker=marker, linestyle="", label=kind) for kind, (color, marker) in FAMILIES.items()
            if kind in found]  # fmt: skip


def chance_band(ax, board: pd.DataFrame, measure: str, scope: str = "all", kind: str = ALL) -> None:
    """A band where random scores lie."""
    own = board[
        (board["measure"] == measure) & (board["scope"] == scope) & (board["kind"] == kind) & (board["row"] == CHANCE)
    ]
    if len(own):
        low, high = own[["low", "high"]].fillna(own["estimate"].iloc[0]).iloc[0]
        # Wide enough to be seen: chance is often nearly 0.
        ax.axvspan(low, max(high, low + 0.008), color="0.4", alpha=0.4, linewidth=0, zorder=0)


def scoreboard_figure(
    board: pd.DataFrame, costs: pd.DataFrame, rows: Sequence[str] | None = None, *, measure: str = "average_precision",
    scope: str = "all",
) -> Figure:  # fmt: skip
    """Every method against the planted truth: by type of fact, over all types with intervals, and what a fact costs; best first.

    `board`, `costs`: of `load_results`; `rows`: of the board (default: `default_rows`); `measure`: one of `metrics.MEASURES` between 0 and 1;
    `scope`: `all` languages together, or `language`, each alone (only there are methods that start from letters). Methods that were too
    slow for all facts have the number of their facts beside their dot. Raises `InputError` where no row has the measure.

    Example
    -------
    >>> scoreboard_figure(tables["board"], tables["costs"])
    """
    top = chosen(board, measure, rows, scope)
    names, own = list(top.index), board[(board["measure"] == measure) & (board["scope"] == scope)]
    kinds = shown_kinds(own)
    values = own.pivot_table(index="row", columns="kind", values="estimate").reindex(index=names, columns=kinds)
    height = min(9.0, 1.9 + (0.3 if len(names) < 26 else 0.19) * len(names))
    figure, axes = plt.subplots(1, 3, figsize=(13, height), sharey=True, layout="constrained",
                                width_ratios=(0.62 * len(kinds), 3.4, 2))  # fmt: skip
    number_map(axes[0], values.to_numpy(float), ".2f", 8 if len(names) < 30 else 7, vmin=0, vmax=1)
    counts = own[own["row"] == names[0]].set_index("kind")["facts"].reindex(kinds)
    axes[0].set(title="by type of fact (number of facts)", xticks=range(len(kinds)))
    axes[0].set_xticklabels([f"{kind} ({n:.0f})" for kind, n in counts.items()], rotation=30, ha="right")
    for ax in axes[1:]:
        row_axis(ax, names)
        ax.tick_params(axis="y", length=0)
    # Shared: what is set last counts for all.
    axes[0].tick_params(axis="y", labelsize=9 if len(names) < 30 else 8)
    chance_band(axes[1], board, measure, scope)
    family_dots(axes[1], top)
    for y, (count, high) in enumerate(zip(top["facts"], top["high"].fillna(top["estimate"]), strict=True)):
        if count < top["facts"].max():
            axes[1].text(min(high + 0.03, 1.06), y, f"{count} facts", va="center", fontsize=7.5, color="0.35")
    axes[1].set(title="all types, 95 % interval", xlabel=measure.replace("_", " "), xlim=(-0.03, 1.2))
    axes[1].set_xticks((0, 0.25, 0.5, 0.75, 1))
    _cost_lines(axes[2], costs.set_index("row")["passes"].reindex(names).to_numpy(float))
    legend_below(figure, [*family_handles(names), Patch(color="0.4", alpha=0.4, label="where random scores lie")])
    sns.despine(figure)
    axes[0].spines[:].set_visible(False)
    return figure


def _cost_lines(ax, passes: np.ndarray) -> None:
    """Passes of each row on a logarithmic axis; none where it has none."""
    passes = np.where(passes > 0, passes, np.nan)
    least, most = (np.nanmin(passes), np.nanmax(passes)) if np.isfinite(passes).any() else (1, 10)
    ax.hlines(range(len(passes)), least / 2, passes, color="0.8", linewidth=2)
    ax.plot(passes, range(len(passes)), "o", color="0.25", markersize=5)
    ax.set(title="cost", xlabel="rows through the model per fact", xscale="log", xlim=(least / 2, most * 2))
    ax.xaxis.set_major_locator(LogLocator(numticks=6))
    ax.xaxis.set_minor_formatter(NullFormatter())
