"""Does what moves the letter move the answer itself? The answer's text after the question, without options."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..edited_rows import EditedRow, edited_scores
from ..errors import InputError, Literal
from ..models import Model
from ..multiple_choice import answer_space
from ..prediction import AnswerRows, answer_tokens
from ..statistics import mean, paired_difference
from .letter_effects import FACTORS, sets_by_condition
from .metrics import question_means
from .questions import KEY

BY = ["condition", "factor"]
# As many random neurons of the same layers.
CONTROL = "random_layer_matched"
# Whether the letter moved, whether the text moved.
VERDICTS = {(True, True): "letter and text", (True, False): "letter only", (False, True): "text only",
            (False, False): "neither"}  # fmt: skip


def without_options(prompts: pd.DataFrame, wordings: pd.DataFrame) -> pd.DataFrame:
    """The questions alone, one row per fact, language and wording: no instruction, no options, no cue for a letter.

    `prompts`: of `build_multiple_choice`; `wordings`: of `load_wordings`. Columns: `query`, `fact`, `language`, `relation`,
    `wording`, `prompt` (the question), `space`, `suffix` (empty), `answer` (the gold object's name). Raises `InputError` for a
    wording that the table lacks.

    Example
    -------
    >>> without_options(prompts, load_wordings())[["prompt", "answer"]].iloc[0].tolist()
    ['What is the capital of the country France?', 'Paris']
    """
    texts = {(row.wording, row.relation): row.question for row in wordings.itertuples()}
    rows = []
    for row in prompts.drop_duplicates([*KEY, "wording"]).itertuples():
        if (row.wording, row.relation) not in texts:
            raise InputError(
                "wordings", found=Literal(f"no {row.wording} of {row.relation}"), expected="all of prompts"
            )
        question = texts[row.wording, row.relation].replace("{S}", row.subject)
        rows.append((f"{row.fact}|{row.wording}", row.fact, row.language, row.relation, row.wording, question,
                     answer_space(question), "", row.gold))  # fmt: skip
    columns = ["query", *KEY, "relation", "wording", "prompt", "space", "suffix", "answer"]
    return pd.DataFrame(rows, columns=columns)


def answer_effects(
    model: Model, asked: pd.DataFrame, neurons: pd.DataFrame, *, factors: Sequence[float] = FACTORS
) -> pd.DataFrame:
    """Mean log p per token of each answer, before and after its question's neurons are multiplied at every answer site.

    Teacher-forced. `asked`: of `without_options` (those of the wording held out); `neurons`: as in `letter_effects`. Returns
    one row per question, condition and factor: the columns of `asked` without texts, `question`, `condition`, `factor`, `n`,
    `tokens`, `before`, `after` (nats a token).

    Raises `InputError` for missing columns, an answer without tokens, prompts beyond the context.

    Example
    -------
    >>> answer_effects(model, without_options(split.test, wordings), find("qrnca", model, split.localize))
    """
    sets, conditions = sets_by_condition(model, neurons)
    rows, owners, factor_of, lengths = [], [], [], []
    numbers: dict[tuple, int] = {}
    helper, entries = AnswerRows(model), []

    def number_of(row, i: int, pairs, factor: float) -> int:
        key = (i, pairs, factor) if pairs and factor != 1 else (i, (), 1.0)
        if key not in numbers:
            numbers[key] = len(numbers)
            made, tokens = _rows(model, helper, row, key[1])
            rows.extend(made)
            owners.extend([numbers[key]] * len(made))
            factor_of.extend([key[2]] * len(made))
            lengths.append(tokens)
        return numbers[key]

    kept = [c for c in asked if c not in ("prompt", "space", "suffix", "answer")]
    for i, row in enumerate(asked.itertuples()):
        for condition in conditions:
            pairs = sets.get((condition, row.fact, row.language), ())
            for factor in factors:
                entries.append((i, condition, float(factor), len(pairs), number_of(row, i, (), 1.0),
                                number_of(row, i, pairs, float(factor))))  # fmt: skip
    totals = np.bincount(owners, weights=edited_scores(model, rows, factor_of), minlength=len(numbers))
    means = totals / np.array(lengths)
    found = asked.iloc[[i for i, *_ in entries]][kept].reset_index(drop=True)
    _, condition, factor, n, before, after = (list(c) for c in zip(*entries, strict=True))
    return found.assign(question=found["fact"].astype(str) + "|" + found["language"].astype(str), condition=condition,
                        factor=factor, n=n, tokens=np.array(lengths)[before], before=means[before],
                        after=means[after])  # fmt: skip


def _rows(model: Model, helper: AnswerRows, row, pairs) -> tuple[list[EditedRow], int]:
    """An answer's rows (a masked model needs one for each token) and its length."""
    tokens = answer_tokens(model, row.prompt, row.space, row.answer)
    if not tokens:
        raise InputError(f"query {row.query}, answer", found=row.answer, expected="text of at least one token")
    places = list(helper.positions(row.prompt, len(tokens)))
    if model.kind == "causal":
        ids = helper.row(row.prompt, tokens[:-1], 0, row.space, row.suffix)
        return [EditedRow(ids, places, list(tokens), pairs, tuple(places))], len(tokens)
    made = []
    for i, token in enumerate(tokens):
        ids = helper.row(row.prompt, tokens[:i], len(tokens) - i, row.space, row.suffix)
        made.append(EditedRow(ids, [places[i]], [token], pairs, (places[i],)))
    return made, len(tokens)


def long_form_table(effects: pd.DataFrame, *, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Mean change of log p per token of the answers' texts, with intervals over questions.

    Columns: `condition`, `factor`, `questions`, `change`, `low`, `high` (nats a token). Beside the controls' it says whether a
    set that moves the letter is more than a letter set.

    Example
    -------
    >>> long_form_table(answer_effects(model, asked, neurons))
    """
    rows = []
    for (condition, factor), part in effects.groupby(BY, sort=False):
        if part["question"].nunique() < 2:
            continue
        found = mean(part["after"] - part["before"], part["question"], resamples=resamples, seed=seed)
        rows.append((condition, factor, found.clusters, found.estimate, found.low, found.high))
    return pd.DataFrame(rows, columns=[*BY, "questions", "change", "low", "high"])


def letter_or_more(
    effects: pd.DataFrame, answers: pd.DataFrame, *, control: str = CONTROL, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Whether a localizer's neurons move the letter, the answer's text, or both, more than the control's of the same questions.

    `effects`: of `letter_effects`, `answers`: of `answer_effects`. Both are averaged over a question's prompts and draws, and
    compared question by question with the control, which may have been run on fewer. A thing is moved where the interval of
    the difference excludes 0: above it where neurons are enhanced, below it where they are suppressed. Columns: `condition`,
    `factor`, `questions` (that both have), `letter` (log-odds beyond the control's), `text` (nats a token beyond it), each with
    `_low`, `_high`; `verdict`: `letter and text`, `letter only` (a letter set), `text only`, `neither`. The control has no
    row, nor has a condition with fewer than two of its questions.

    Raises `InputError` for tables without the control.

    Example
    -------
    >>> letter_or_more(effects, answers)[["condition", "factor", "questions", "verdict"]]
    """
    letters = question_means(effects[effects["group"] == "own"], [*BY, "question"])["odds"]
    texts = answers.assign(change=answers["after"] - answers["before"]).groupby([*BY, "question"])["change"].mean()
    both = pd.DataFrame({"letter": letters, "text": texts}).dropna()
    rows = []
    for (condition, factor), own in both.groupby(BY, sort=False):
        if condition == control:
            continue
        if (control, factor) not in both.index.droplevel("question"):
            raise InputError("effects", found=Literal(f"no {control} at factor {factor:g}"), expected="the control")
        there = both.loc[(control, factor)]
        own = own.droplevel(BY)
        questions = own.index.intersection(there.index)
        if len(questions) < 2:
            continue
        row, moved = {"condition": condition, "factor": factor, "questions": len(questions)}, []
        for name in ("letter", "text"):
            values = own.loc[questions, name], there.loc[questions, name]
            found = paired_difference(*values, questions, resamples=resamples, seed=seed)
            row |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
            moved.append(found.low > 0 if factor > 1 else found.high < 0)
        rows.append(row | {"verdict": VERDICTS[tuple(moved)]})
    numbers = [name + end for name in ("letter", "text") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=[*BY, "questions", *numbers, "verdict"])
