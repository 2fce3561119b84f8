"""Can the options alone be answered? Prompts with a blank in place of the subject: a right letter is chance, one in four."""

import pandas as pd

from ..errors import InputError, Literal
from ..models import Model
from ..multiple_choice import prompt_text
from ..statistics import Interval, mean
from .letters import letter_probabilities

# A mark that names nothing, in every language.
BLANK = "…"


def without_subject(prompts: pd.DataFrame, wordings: pd.DataFrame) -> pd.DataFrame:
    """The same prompts with a blank for their subject; the right letter stays where it is.

    `prompts`: of `build_multiple_choice`; `wordings`: of `load_wordings`. Raises `InputError` for a wording that the table lacks.

    Example
    -------
    >>> print(without_subject(prompts, load_wordings())["prompt"].iloc[0].splitlines()[1])
    What is the capital of the country …?
    """
    texts = {(row.wording, row.relation): row for row in wordings.itertuples()}
    found = []
    for row in prompts.itertuples():
        if (row.wording, row.relation) not in texts:
            raise InputError(
                "wordings", found=Literal(f"no {row.wording} of {row.relation}"), expected="all of prompts"
            )
        found.append(prompt_text(texts[row.wording, row.relation], BLANK, list(row.options)))
    return prompts.assign(prompt=found)


def options_only(model: Model, prompts: pd.DataFrame, wordings: pd.DataFrame) -> tuple[Interval, pd.DataFrame]:
    """The accuracy without a subject, with an interval over facts, and what was answered (of `letter_probabilities`).

    All rotations together, a letter that a model likes is right one time in four; distractors are drawn as often as they are right
    answers, so neither does it help to know frequent objects. What lies above 0.25 shows in the options. The interval is
    over facts, as the prompts of a fact share their options.

    Example
    -------
    >>> found, _ = options_only(model, prompts, load_wordings())
    >>> found.low <= 0.25 <= found.high
    True
    """
    letters = letter_probabilities(model, without_subject(prompts, wordings))
    return mean(letters["correct"].astype(float), prompts["fact"]), letters
