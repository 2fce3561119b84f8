"""One fact at a time: where each of a few localizers points, and where the truth is; and a view to choose others."""

from collections.abc import Sequence

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from ..attribution import attribute
from ..errors import InputError, Literal
from ..plots import COLORS
from ..view import View
from .answers import Answer, localizer_answers
from .direct import DIRECT
from .metrics import best
from .plots import legend_below, name_of, shown_kinds
from .scorers import MEAN, localizers, rows, scores
from .study import GroundStudy, Labels

# Rows of the scoreboard that start from scores of seconds, not minutes.
SHOWN = ("ig", "re_lcb from ig", "gradient_x_activation", "activation")
ALL = "all"
SILENT = "nothing to say: too few queries or languages that the model knows"
MARK = {"markersize": 7, "markeredgecolor": "white", "markeredgewidth": 0.5}
RING = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.3, "linestyle": ""}


def pointings(study: GroundStudy, fact: str, shown: Sequence[str] = SHOWN) -> dict[str, Answer | None]:
    """What rows of the scoreboard answer about one fact, computed now; None where the gates leave a row nothing to say.

    `shown`: names of `scorers.rows()` or `direct.DIRECT`. Each score is computed once. Raises `InputError` for a fact that the study does not
    have, and for an unknown row or one whose scores need all facts.

    Example
    -------
    >>> pointings(study, "capital:agnostic-00")["ig"].score.argmax()
    """
    if fact not in study.labels:
        raise InputError("fact", found=fact, expected="one of the study's")
    known, own, found = rows(), study.of([fact]), {}
    for row in shown:
        if row not in DIRECT and (row not in known or scores()[known[row][0]].options.get("baseline") == MEAN):
            raise InputError("shown", found=row, expected="a row of the scoreboard that a single fact is enough for")
    starts = dict.fromkeys(known[row][0] for row in shown if row not in DIRECT)
    attributed = {name: attribute(study.model, own, batch=16, **scores()[name].options) for name in starts}
    for row in shown:
        if row in DIRECT:
            answers = list(DIRECT[row](study, own))
        else:
            start, localizer = known[row]
            name, options = localizers()[localizer]
            answers = localizer_answers(name, options, attributed[start], own, study.gates, resamples=0)
        found[row] = answers[0] if answers else None
    return found


def pointing_map(
    answers: dict[str, Answer | None], labels: Labels, width: int, title: str, language: str = ALL
) -> Figure:
    """Where methods point: left, their k best neurons by layer among all, with the truth; right, the ranks of the true ones.

    `labels`: of the study, for the fact; k is the number of true neurons; `width`: neurons of a layer; `language`: `all` together, or one that the fact
    is asked in. Neurons of a planted model are shuffled: where in a layer one stands means nothing.

    Raises `InputError` for a language that the fact is not asked in.

    Example
    -------
    >>> pointing_map(pointings(study, fact), study.labels[fact], study.model.n_neurons, fact)
    """
    if language != ALL and language not in labels.by_language:
        raise InputError("language", found=language, expected=Literal("all or one of " + " ".join(labels.by_language)))
    true = labels.own if language == ALL else labels.by_language[language]
    numbers, layers = np.flatnonzero(true), len(true) // width
    figure, axes = plt.subplots(len(answers), 2, figsize=(12, 0.9 + 1.75 * len(answers)), sharex="col", sharey="col", squeeze=False,
                                width_ratios=(2.2, 1), layout="constrained")  # fmt: skip
    for (left, right), (row, answer) in zip(axes, answers.items(), strict=True):
        score = None if answer is None else answer.score if language == ALL else answer.by_language.get(language)
        _truth(left, numbers, np.flatnonzero(labels.common), width)
        left.set(
            title=name_of(row), ylabel="layer", yticks=range(layers), ylim=(layers - 0.5, -0.5), xlim=(-5, width + 5)
        )
        right.set(xscale="log", xlim=(0.8, 1.2 * len(true)), yticks=())
        right.xaxis.set_minor_formatter(NullFormatter())
        if score is None:
            left.text(0.5, 0.5, SILENT, transform=left.transAxes, ha="center", va="center")
            continue
        first = best(score, len(numbers))
        hit = true[first]
        for part, color, marker in ((first[hit], COLORS[2], "o"), (first[~hit], COLORS[3], "X")):
            left.plot(part % width, part // width, marker, color=color, **MARK)
        left.set_title(f"{name_of(row)}: {hit.sum()} of {len(first)} right")
        rank = np.empty(len(score), dtype=int)
        rank[np.argsort(-score, kind="stable")] = np.arange(1, len(score) + 1)
        right.vlines(rank[numbers], -0.4, 0.4, color="black", linewidth=1.4)
        right.axvspan(0.8, len(numbers) + 0.5, color=COLORS[2], alpha=0.25, linewidth=0)
        right.set_ylim(-0.5, 0.5)
    axes[-1, 0].set_xlabel("neuron (order is random)")
    axes[-1, 1].set_xlabel("rank of the true neurons (green: the k best)")
    where = "" if language == ALL else f", {language} alone"
    figure.suptitle(f"{title}{where}: {len(numbers)} true neurons", x=0.01, ha="left", fontsize=11)
    handles = [Line2D([], [], color=color, marker=marker, linestyle="", label=f"among the k best, {said}")
               for color, marker, said in ((COLORS[2], "o", "true"), (COLORS[3], "X", "false"))]  # fmt: skip
    handles.append(Line2D([], [], color="black", marker="o", label="true", **RING))
    if labels.common.any():
        handles.append(Line2D([], [], color=COLORS[0], marker="s", label="the relation's", **RING))
    legend_below(figure, handles)
    sns.despine(figure)
    return figure


def _truth(ax, numbers: np.ndarray, common: np.ndarray, width: int) -> None:
    """Rings where the true neurons are, squares for those of the relation."""
    for own, color, marker in ((numbers, "black", "o"), (common, COLORS[0], "s")):
        ax.plot(own % width, own // width, marker=marker, color=color, **RING)


def explore_pointing(study: GroundStudy, *, each: int = 3, shown: Sequence[str] = SHOWN) -> widgets.VBox:
    """Choose a type and a fact: where each localizer points, and where the truth is. `each`: facts offered of every type.

    A fact that is chosen for the first time takes seconds; `language`: over all that it is asked in, or in one.

    Example
    -------
    >>> explore_pointing(study)  # doctest: +SKIP
    """
    offered = {
        kind: study.facts.loc[study.facts["kind"] == kind, "fact"].head(each).tolist()
        for kind in shown_kinds(study.facts)
    }
    kind = widgets.Dropdown(options=list(offered), description="type")
    fact = widgets.Dropdown(options=offered[kind.value], description="fact")
    language = widgets.Dropdown(options=[ALL, *study.labels[fact.value].by_language], description="language")
    view, known, busy = View(), {}, []

    def show(_=None) -> None:
        if busy:
            return  # several controls change together: one picture, after the last
        try:
            if fact.value not in known:
                known[fact.value] = pointings(study, fact.value, shown)
            labels, width = study.labels[fact.value], study.model.n_neurons
            view.show(pointing_map(known[fact.value], labels, width, fact.value, language.value))
        except InputError as error:
            view.show(f"error: {error}")

    def choose(change) -> None:
        if busy:
            return
        busy.append(True)
        if change["owner"] is kind:
            fact.options = offered[kind.value]
        language.options = [ALL, *study.labels[fact.value].by_language]
        busy.pop()
        show()

    kind.observe(choose, "value")
    fact.observe(choose, "value")
    language.observe(show, "value")
    show()
    return widgets.VBox([widgets.HBox([kind, fact, language]), view])
