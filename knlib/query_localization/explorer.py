"""Sliders of notebook 04: the threshold of consistency, the threshold of synapses, the number of edited neurons."""

from collections.abc import Callable

import ipywidgets as widgets
import pandas as pd
from matplotlib.figure import Figure

from ..models import Model
from ..view import View
from .live import token_texts
from .plots import share_lines
from .synapse_plots import attention_map, frontier
from .synapses import attention_columns, select_synapses
from .tables import edit_table, percent, shares
from .thresholds import SWEEP


def threshold_slider(table: pd.DataFrame, value: float) -> widgets.VBox:
    """A slider for the threshold below which a fact counts as inconsistent, over the lines of all thresholds and the shares there.

    `table`: of `tables.scores`.

    Example
    -------
    >>> threshold_slider(scores(results, slots), 0.3)  # doctest: +SKIP
    """
    swept = shares(table, SWEEP)

    def show(threshold: float) -> tuple[Figure, pd.DataFrame]:
        now = shares(table, [threshold])
        now = now[now["mode"] == "ours"].assign(share=lambda rows: rows.apply(percent, axis=1))
        return share_lines(swept, threshold=threshold), now.pivot(index="model", columns="method", values="share")

    return _slider(widgets.FloatSlider(value=value, min=0.05, max=0.6, step=0.05, description="threshold"), show)


def alpha_slider(model: Model, query, value: float) -> widgets.VBox:
    """A slider for the share of the largest attention above which an entry is a synapse, over the map of one query.

    `query`: a row of the table of queries, as `itertuples` gives it.

    Example
    -------
    >>> alpha_slider(model, next(study.queries.itertuples()), 0.3)  # doctest: +SKIP
    """
    columns, tokens = attention_columns(model, query), token_texts(model, query)

    def show(alpha: float) -> tuple[Figure, pd.DataFrame]:
        found = {mode: select_synapses(columns, mode=mode, alpha=alpha) for mode in ("norm", "paper")}
        rows = {
            mode: {"synapses": int(s.sum()), "in sinks, %": round(100 * s[..., columns.sinks].sum() / max(s.sum(), 1))}
            for mode, s in found.items()
        }
        figure = attention_map(columns, found["norm"], tokens, f"{query.fact}: synapses at α = {alpha:g}")
        return figure, pd.DataFrame.from_dict(rows, orient="index")

    return _slider(widgets.FloatSlider(value=value, min=0.05, max=0.9, step=0.05, description="α"), show)


def budget_slider(table: pd.DataFrame, model: str, value: float) -> widgets.VBox:
    """A slider for the number of edited neurons, over the frontier at that budget and one model's numbers.

    `table`: of `tables.edits`.

    Example
    -------
    >>> budget_slider(edits(results, slots), "atlas-gpt2", 1.0)  # doctest: +SKIP
    """
    budgets = sorted(set(table.loc[table["times"] > 0, "times"]))
    chosen = min(budgets, key=lambda times: abs(times - value))

    def show(times: float) -> tuple[Figure, pd.DataFrame]:
        return frontier(table, times=times), edit_table(table, model, times).round(0)

    slider = widgets.SelectionSlider(options=budgets, value=chosen, description="M ×")
    return _slider(slider, show)


def _slider(slider: widgets.Widget, show: Callable[[float], tuple[Figure, pd.DataFrame]]) -> widgets.VBox:
    view = View()
    # Figures follow when the slider is let go.
    slider.continuous_update = False

    def draw(_=None):
        view.show(*show(slider.value))

    slider.observe(draw, "value")
    draw()
    return widgets.VBox([slider, view])
