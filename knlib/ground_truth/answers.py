"""What a method says about a fact, in one form for all of them: scores of all neurons, the neurons it takes, and a type."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..attribution import Attributions
from ..localization import LOCALIZERS, localize
from ..localization.gates import gather, lacks_languages
from .decisions import decision

RESAMPLES = 20  # of a fact's queries, for the stability of a neuron
SELECTED = ["fact", "scope", "layer", "neuron", "score", "frequency"]


@dataclass(frozen=True, eq=False)
class Answer:
    """A method's answer about one fact.

    `score` [neurons of the model]: over all languages (None: the fact has too few); `by_language`: language -> [neurons];
    `selected`: the neurons that it takes, `SELECTED` (scope `all` or a language; `frequency` in resampled queries, NaN where the
    method has none); `decision`: the type it claims, None where it claims none.
    """

    fact: str
    score: np.ndarray | None
    by_language: dict[str, np.ndarray]
    selected: pd.DataFrame
    decision: str | None


def localizer_answers(
    name: str, options: dict, found: Attributions, queries: pd.DataFrame, gates: dict, *, resamples: int = RESAMPLES
) -> list[Answer]:
    """The answers of a registered localizer, one for each fact of the queries that the gates leave a language.

    `gates`: options of `localize` about queries and languages. Neurons that a whole relation has are not dropped: few facts
    cannot tell which they are. A localizer that is tuned by relation is tuned on these facts.

    Example
    -------
    >>> localizer_answers("re_lcb", {}, attributions, queries, {"min_languages": 3})[0].decision
    'agnostic'
    """
    given = {"min_gold_prob": 1e-3, "max_entropy": 0.8, "min_languages": 3, "min_families": 2} | gates
    table = localize(name, found, queries, drop_generic=False, resamples=resamples, **given, **options)
    selected = dict(tuple(table[SELECTED].groupby("fact")))
    evidence, _ = gather(found, queries, min_gold_prob=given["min_gold_prob"], max_entropy=given["max_entropy"])
    localizer, answers = LOCALIZERS[name], []
    known = localizer.options(options)
    for fact in evidence:
        if not fact.languages:
            continue
        if localizer.tune is not None:
            alike = [other for other in evidence if other.relation == fact.relation and other.languages]
            tuned = localizer.tune(alike, **known)
        else:
            tuned = known
        verdict = localizer.find(fact, **tuned)
        few = lacks_languages(fact, given["min_languages"], given["min_families"])
        answers.append(
            Answer(fact.fact, None if few else verdict.score,
                   dict(zip(fact.languages, verdict.language_score, strict=True)),
                   selected.get(fact.fact, table[SELECTED][:0]), decision(fact, verdict))
        )  # fmt: skip
    return answers


def table_of(fact: str, scope: str, flat: np.ndarray, score: np.ndarray, width: int) -> pd.DataFrame:
    """Rows of `Answer.selected` for the neurons with these flat numbers; no frequency.

    Example
    -------
    >>> table_of("f", "all", np.array([5]), score, 4)[["layer", "neuron"]].values
    array([[1, 1]])
    """
    layer, neuron = np.divmod(flat, width)
    return pd.DataFrame({"fact": fact, "scope": scope, "layer": layer, "neuron": neuron, "score": score[flat],
                         "frequency": np.nan}, columns=SELECTED)  # fmt: skip
