"""Query-relevant localizers on planted facts: they start from multiple choice, which a planted model may not answer."""

import warnings

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from ..errors import InputError, Literal
from ..facts import ATLAS, load_facts
from ..multiple_choice import LETTERS, build_multiple_choice, load_wordings
from ..query_relevant import localizers
from ..query_relevant.baselines import TRAITS
from ..query_relevant.letters import letter_probabilities
from .answers import Answer, table_of
from .metrics import measures
from .study import GroundStudy

LANGUAGES = ("en", "fr", "ru", "zh")
PREFIX = "letters: "  # before a localizer's name, in the rows of the scoreboard
FACTS = 40  # of those that are answered, in all
CONFIDENT = 0.01  # p-value from which on the answers are not guesses


def letter_prompts(study: GroundStudy, *, facts: pd.DataFrame | None = None) -> pd.DataFrame:
    """Multiple-choice prompts of the study's facts, in one wording, for the languages in which each was planted.

    `facts`: the table that holds the names (that of the planted facts by default); options are other facts' objects.
    """
    facts = load_facts(ATLAS / "planted") if facts is None else facts
    wordings = load_wordings()
    wordings = wordings[wordings["language"].isin(LANGUAGES) & wordings["wording"].str.endswith("/0")]
    prompts, _ = build_multiple_choice(facts, wordings, asked=set(study.facts["fact"]) & set(facts["fact"]))
    planted = study.truth.facts.set_index("fact")["languages"].to_dict()
    keep = [code in planted[fact] for fact, code in zip(prompts["fact"], prompts["language"], strict=True)]
    return prompts[np.array(keep, dtype=bool)].reset_index(drop=True)


def letter_answers(study: GroundStudy, prompts: pd.DataFrame) -> pd.DataFrame:
    """The prompts with `correct`: whether the model names the right letter.

    Example
    -------
    >>> letter_answers(study, letter_prompts(study))["correct"].mean()
    """
    if not len(prompts):
        return prompts.assign(correct=np.zeros(0, bool))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model that does not answer by letter is what this finds out
        return prompts.assign(correct=letter_probabilities(study.model, prompts)["correct"].to_numpy())


def answered_prompts(answers: pd.DataFrame) -> pd.DataFrame:
    """The prompts of questions (a fact in a language) of which more than half are right; of at most 40 facts.

    `answers` of `letter_answers`. Raises `InputError` where all answers together are not above chance (binomial test, p < .01):
    planted neurons have then no part in a letter, and no localizer that starts from letters could find them. Also where fewer than two
    questions are answered.

    Example
    -------
    >>> answered_prompts(letter_answers(study, prompts))
    InputError: letters: found 262 of 1008 multiple-choice prompts of planted facts right, expected more than chance, 1 in 4
    """
    right = int(answers["correct"].sum())
    share = answers.groupby(["fact", "language"])["correct"].transform("mean")
    kept = answers[(share > 0.5).to_numpy()]
    guessed = not right or binomtest(right, len(answers), 1 / len(LETTERS), alternative="greater").pvalue >= CONFIDENT
    if guessed or kept[["fact", "language"]].drop_duplicates().shape[0] < 2:
        raise InputError("letters", found=Literal(f"{right} of {len(answers)} multiple-choice prompts of planted facts right"),
                         expected=f"more than chance, 1 in {len(LETTERS)}")  # fmt: skip
    facts = list(dict.fromkeys(kept["fact"]))
    return kept[kept["fact"].isin(facts[:: max(1, len(facts) // FACTS)][:FACTS])].reset_index(drop=True)


def letter_measures(study: GroundStudy, name: str, prompts: pd.DataFrame) -> pd.DataFrame:
    """`measures` of a query-relevant localizer on the prompts, as many neurons as are true; the score is the one it starts from.

    Scope `language` only: a question is a fact in a language. Raises `InputError` where the score refuses the model or the prompts.

    Example
    -------
    >>> letter_measures(study, "qrnca", prompts)["at_k"].mean()
    """
    start, width = localizers.starts_from(name), study.model.n_neurons
    if start is not None:
        facts = list(dict.fromkeys(prompts["fact"]))
        prompts = prompts[prompts["fact"].isin(facts[:: TRAITS[start[0]].every])].reset_index(drop=True)
    asked = prompts[["fact", "language"]].drop_duplicates()
    true = [study.labels[f].by_language.get(code, study.labels[f].own) for f, code in asked.itertuples(index=False)]
    sizes = asked.assign(size=[int(own.sum()) for own in true])
    scores = localizers.scores_for(name, study.model, prompts)
    found = localizers.find(name, study.model, prompts, top=sizes, scores=scores)
    parts = []
    for fact, own in asked.groupby("fact", sort=False):
        by_language, tables = {}, []
        for code in own["language"]:
            mine = found[(found["fact"] == fact) & (found["language"] == code)]
            flat = (mine["layer"] * width + mine["neuron"]).to_numpy()
            if scores is None:
                score = np.zeros(study.model.n_layers * width)
                score[flat] = 1
            else:
                at = (prompts["fact"] == fact) & (prompts["language"] == code)
                score = scores.values[at.to_numpy()].mean(0, dtype=np.float64).ravel()
            by_language[code] = score
            tables.append(table_of(str(fact), code, flat, score, width))
        answer = Answer(str(fact), None, by_language, pd.concat(tables, ignore_index=True), None)
        labels = study.labels[fact]
        parts.append(measures(answer, labels, width))
    return pd.concat(parts, ignore_index=True)
