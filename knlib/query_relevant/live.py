"""One question at a time, live: its letters, its neurons in every order of the options, and a view to try others."""

from dataclasses import dataclass

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..attribution import Attributions
from ..errors import InputError, Literal
from ..models import Model
from ..multiple_choice import LETTERS
from ..plots import COLORS
from ..view import View
from .clusters import walk
from .letter_effects import letter_effects
from .letter_scores import letter_scores
from .letters import letter_probabilities
from .plots import rotation_map, walk_map
from .questions import KEY, question_clusters

# Neurons of a question that are shown.
SHOWN = 12


@dataclass(frozen=True, eq=False)
class Asked:
    """Questions with all their prompts (`prompts`), what the model answers (`letters`), and the scores of its neurons."""

    model: Model
    prompts: pd.DataFrame
    letters: pd.DataFrame
    attributions: Attributions

    def prompts_of(self, fact: str, language: str) -> pd.DataFrame:
        """A question's prompts by wording and rotation. Raises `InputError` for a question that is not there."""
        own = self.prompts[(self.prompts["fact"] == fact) & (self.prompts["language"] == language)]
        if own.empty:
            raise InputError("question", found=Literal(f"{fact} ({language})"), expected="one of those asked")
        return own.sort_values(["wording", "rotation"], ignore_index=True)


def ask_questions(model: Model, prompts: pd.DataFrame, **options) -> Asked:
    """Letters and scores of every prompt. `options`: of `letter_scores`.

    Example
    -------
    >>> asked = ask_questions(model, prompts)
    """
    return Asked(model, prompts, letter_probabilities(model, prompts), letter_scores(model, prompts, **options))


def rotations(asked: Asked, fact: str, language: str, shown: int = SHOWN) -> tuple[np.ndarray, pd.DataFrame]:
    """Scores of a question's neurons in each of its prompts, [neurons, prompts], and the neurons (`layer`, `neuron`).

    Half of those shown have the largest mean over all prompts, the others the largest score of a single prompt: what all orders agree on,
    and what one order alone would find.

    Example
    -------
    >>> scores, neurons = rotations(asked, "capital:FR", "en")
    """
    own = asked.prompts_of(fact, language)
    scores = asked.attributions.scores.sel(query=own["query"].tolist()).values
    flat = scores.reshape(len(scores), -1)
    by_mean, by_one = (np.argsort(-values, kind="stable").tolist() for values in (flat.mean(0), flat.max(0)))
    first = by_mean[: shown - shown // 2]
    chosen = [*first, *[n for n in by_one if n not in set(first)][: shown // 2]]
    layer, neuron = np.divmod(np.array(chosen), scores.shape[2])
    return flat[:, chosen].T, pd.DataFrame({"layer": layer, "neuron": neuron})


def letters_under(asked: Asked, query: str, neurons: pd.DataFrame, factor: float) -> pd.DataFrame:
    """P of every letter of a prompt before and after the neurons are multiplied: `letter`, `before`, `after`, `right`.

    Example
    -------
    >>> letters_under(asked, query, neurons, 0.0)
    """
    prompt = asked.prompts[asked.prompts["query"] == query]
    parts = []
    for letter in LETTERS:
        # Each letter in turn as the right one: its probability is what is asked for.
        own = prompt.assign(answer=letter)
        if len(neurons):
            given = neurons.assign(fact=own["fact"].iloc[0], language=own["language"].iloc[0])
            found = letter_effects(asked.model, own, own[[*KEY, "query"]], given, factors=[factor])
            before, after = found["before"].iloc[0], found["after"].iloc[0]
        else:
            before = after = asked.letters.set_index("query").loc[query, letter]
        parts.append((letter, before, after, letter == prompt["answer"].iloc[0]))
    return pd.DataFrame(parts, columns=["letter", "before", "after", "right"])


def letter_bars(table: pd.DataFrame, title: str) -> Figure:
    """P of the letters, hollow as the model is, filled with the neurons multiplied; the right one in another colour.

    `table`: of `letters_under`.
    """
    figure, ax = plt.subplots(figsize=(4.6, 2.6), layout="constrained")
    colors = [COLORS[2] if right else COLORS[0] for right in table["right"]]
    ax.bar(table["letter"], 100 * table["after"], color=colors, alpha=0.85)
    ax.bar(table["letter"], 100 * table["before"], color="none", edgecolor="black", linewidth=1.1)
    ax.set(title=title, ylabel="P(letter), %", ylim=(0, 102), xlabel="letter (green: right; outline: as the model is)")
    sns.despine(figure)
    return figure


def explore_questions(asked: Asked) -> widgets.VBox:
    """Pick a question, rotate its options, watch its neurons; sliders for t, u, v and the factor.

    Above the prompt as it is read, P of its letters with the question's final neurons multiplied, the scores of its neurons in every
    order (the chosen one framed), and the walk from cluster to final set.

    Example
    -------
    >>> explore_questions(ask_questions(model, prompts))  # doctest: +SKIP
    """
    table = asked.prompts.drop_duplicates(KEY)
    named = [(f"{row.language} · {row.fact}", (row.fact, row.language)) for row in table.itertuples()]
    question = widgets.Dropdown(options=named, description="question")
    wordings = int(asked.prompts.groupby(KEY)["wording"].nunique().max())
    wording = widgets.IntSlider(value=1, min=1, max=wordings, description="wording")
    order = widgets.IntSlider(value=1, min=1, max=len(LETTERS), description="order")
    # Pictures follow when a slider is let go.
    slow = {"continuous_update": False}
    factor = widgets.FloatSlider(value=0, min=0, max=5, step=0.5, description="neurons ×", **slow)
    t = widgets.FloatSlider(value=0.2, min=0, max=0.9, step=0.05, description="t", **slow)
    u = widgets.FloatSlider(value=0.3, min=0.1, max=1, step=0.05, description="u", **slow)
    v = widgets.IntSlider(value=20, min=1, max=50, description="v", **slow)
    view = View()

    def show(_=None) -> None:
        try:
            view.show(
                *picture(
                    asked, *question.value, wording.value - 1, order.value - 1, factor.value, t.value, u.value, v.value
                )
            )
        except InputError as error:
            view.show(f"error: {error}")

    controls = (question, wording, order, factor, t, u, v)
    for control in controls:
        control.observe(show, "value")
    show()
    return widgets.VBox([widgets.HBox(controls[:4]), widgets.HBox(controls[4:]), view])


def picture(asked: Asked, fact: str, language: str, wording: int, order: int, factor: float, t: float = 0.2, u: float = 0.3,
            v: int = 20) -> list:  # fmt: skip
    """What `explore_questions` shows: three figures, and the prompt line by line.

    Example
    -------
    >>> letters, orders, steps, prompt = picture(asked, "capital:FR", "en", 0, 1, 2.0)
    """
    own = asked.prompts_of(fact, language)
    names = sorted(own["wording"].unique())
    place = own.index[(own["wording"] == names[wording]) & (own["rotation"] == order)][0]
    steps = walk(question_clusters(asked.attributions, asked.prompts, t=t), fact, language, u=u, v=v)
    final = steps.loc[steps["final"], ["layer", "neuron"]]
    bars = letters_under(asked, own.loc[place, "query"], final, factor)
    scores, neurons = rotations(asked, fact, language)
    return [letter_bars(bars, f"{len(final)} neurons × {factor:g}"),
            rotation_map(scores, neurons, own, f"{fact} in {language}, all orders", place),
            walk_map(steps, f"{fact} in {language}: {len(final)} final neurons"),
            pd.DataFrame({"prompt": own.loc[place, "prompt"].splitlines()})]  # fmt: skip
