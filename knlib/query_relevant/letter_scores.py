"""Of every multiple-choice prompt, what each neuron contributes to the right letter: by gradients, and exactly."""

import pandas as pd

from ..attribution import Attributions, attribute
from ..errors import InputError, Literal
from ..models import Model
from .letters import with_letter_sets

OBJECTIVES = ("prob", "margin")
# What Chen et al. (2025) and their code do, where our defaults differ: 16 right ends, or both ends with weights 1/m.
PAPER = {"quadrature": "riemann", "steps": 16, "legacy_letter": True}


def letter_scores(
    model: Model,
    prompts: pd.DataFrame,
    *,
    objective: str = "prob",
    quadrature: str = "gauss",
    steps: int = 8,
    legacy_letter: bool = False,
    **options,
) -> Attributions:
    """What every neuron contributes to the right letter's probability, by integrated gradients.

    At the last position (a masked model: at its mask) the neurons of one layer grow together from 0 to their values, one
    layer at a time (Chen et al. 2025, arXiv 2406.10868, and their code). So the scores of a layer sum to P(letter) less P with the
    layer's neurons at 0; `completeness_gap` says how nearly. A letter's probability is summed over `letter_sets`.

    - `prompts`: columns `query`, `prompt`, `answer`, as `build_multiple_choice` makes them.
    - `objective`: `prob`; `margin`, log P(right letter) - mean log P(others), which does not saturate and ignores a
      neuron that raises all letters.
    - `quadrature`, `steps`: a rule of `knlib.rules.rule`, or `adaptive`. `**PAPER` for the paper's; `linspace` for its code's.
    - `options`: of `attribute` (`layers`, `engine`, `batch`, `method="gradient_x_activation"`, `progress`, ...).

    Returns `Attributions`, one row per prompt, `probability` that of the letter. `attribute_to(folder, model,
    with_letter_sets(model, prompts), sites="first", ...)` stores the same, and goes on where it was killed.

    Raises `InputError` for missing columns, a letter without token, unknown names.

    Example
    -------
    >>> found = letter_scores(model, prompts.head(12))
    >>> found.scores.shape, float(found.completeness_gap.max()) < 0.01
    ((12, 8, 512), True)
    """
    if objective not in OBJECTIVES:
        raise InputError("objective", found=objective, expected=Literal("one of " + " ".join(OBJECTIVES)))
    queries = with_letter_sets(model, prompts, legacy=legacy_letter)
    return attribute(model, queries, objective=objective, sites="first", quadrature=quadrature, steps=steps, **options)


def letter_ablation(
    model: Model,
    prompts: pd.DataFrame,
    *,
    factor: float = 0.0,
    objective: str = "prob",
    legacy_letter: bool = False,
    **options,
) -> Attributions:
    """What each neuron contributes, exactly: the objective less what it is with that neuron times `factor`.

    One row of a pass per neuron, so for small models; the yardstick of every score. Factor 0 suppresses, 2 enhances
    (then a neuron that speaks for the letter has a score below 0). Arguments and errors as `letter_scores`.

    Example
    -------
    >>> letter_ablation(model, prompts.head(1)).top(20)
    """
    if objective not in OBJECTIVES:
        raise InputError("objective", found=objective, expected=Literal("one of " + " ".join(OBJECTIVES)))
    queries = with_letter_sets(model, prompts, legacy=legacy_letter)
    # Baseline 0 is a number too, but "zero" needs no product, and names what it is.
    baseline = float(factor) if factor else "zero"
    return attribute(
        model, queries, method="ablation", objective=objective, sites="first", baseline=baseline, **options
    )
