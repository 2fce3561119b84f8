"""How often a cache's gate lets through what an edit is asked for, and what else is asked about its subject, by threshold.

The gate alone, as if the cache knew the edit: the share of questions whose margin for the edit's relation is high enough.
Hits are of `generality` questions (the edited fact in other words), false hits of `same_subject` ones (its other facts).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ..editing.cache import Gate, end_states, hidden_states, wording
from ..editing.cached_change import CachedChange
from ..editing.gate_calibration import RelationGate
from ..errors import InputError, Literal
from ..models import Model
from ..prediction import AnswerRows
from ..sites import padded

ROWS = 64  # prompts of a batch
RATES = {"hits": "generality", "false_hits": "same_subject"}


def question_margins(
    model: Model, gate: RelationGate, questions: pd.DataFrame, relations: Mapping[str, str]
) -> pd.DataFrame:
    """The questions of the kinds of `RATES` with a column `margin`, the gate's for the relation of the question's edit.

    `questions`: of `knlib.edit_questions.edit_questions`; `relations`: edit -> relation. Raises `InputError` where there
    is no question of these kinds, for an edit without a relation, and for a relation that the gate does not know.

    Example
    -------
    >>> question_margins(model, gate, questions, relations).groupby("kind")["margin"].mean()
    """
    asked = questions[questions["kind"].isin(list(RATES.values()))].reset_index(drop=True)
    if asked.empty:
        raise InputError("questions", found=Literal("none of them"), expected=" or ".join(RATES.values()))
    for edit in asked["edit"].unique():
        if edit not in relations:
            raise InputError("relations", found=Literal(f"none of edit {edit}"), expected="one of every edit")
    states, margin = end_states(model, asked["prompt"].tolist(), gate.layer), np.empty(len(asked))
    own = asked["edit"].map(dict(relations))
    words = np.array([wording(model, *row) for row in zip(asked["prompt"], asked["subject"], strict=True)], object)
    for relation in own.unique():
        rows = (own == relation).to_numpy()
        margin[rows] = gate.probe.margin(states[rows.nonzero()[0]], words[rows], relation).numpy()
    return asked.assign(margin=margin)


def gate_rates(
    model: Model, gate: RelationGate, questions: pd.DataFrame, relations: Mapping[str, str], *, points: int = 41
) -> pd.DataFrame:
    """Shares let through at thresholds over the range of all margins: `language`, `theta`, `hits`, `false_hits`.

    `points` rows a language, as `lafn_plots.gate_curves` takes them; a share without questions is NaN. Raises `InputError`
    as `question_margins`, and for less than two points.

    Example
    -------
    >>> gate_rates(model, gate, study.questions, relations).query("language == 'en' and false_hits <= .01").head(1)
    """
    if points < 2:
        raise InputError("points", found=points, expected="2 or more")
    asked = question_margins(model, gate, questions, relations)
    grid = np.linspace(asked["margin"].min(), asked["margin"].max(), points)
    parts = []
    for language, own in asked.groupby("language", sort=False):
        shares = {name: _share(own.loc[own["kind"] == kind, "margin"], grid) for name, kind in RATES.items()}
        parts.append(pd.DataFrame({"language": language, "theta": grid} | shares))
    return pd.concat(parts, ignore_index=True)


def rates_at_thresholds(
    model: Model, gate: RelationGate, questions: pd.DataFrame, relations: Mapping[str, str]
) -> pd.DataFrame:
    """The same shares at the gate's own thresholds, one row per language.

    Columns `language`, `threshold`, `hits`, `false_hits`, and how many questions each is of, `hit_questions` and
    `false_questions`. Raises `InputError` as `question_margins`, and for a language without a threshold.

    Example
    -------
    >>> rates_at_thresholds(model, gate, study.questions, relations).set_index("language").loc["en", "hits"]
    """
    asked, rows = question_margins(model, gate, questions, relations), []
    for language, own in asked.groupby("language", sort=False):
        if language not in gate.thresholds:
            raise InputError("questions, language", found=language,
                             expected=Literal("one of the gate's: " + " ".join(gate.thresholds)))  # fmt: skip
        threshold = gate.thresholds[language]
        right, wrong = (own.loc[own["kind"] == kind, "margin"] for kind in RATES.values())
        shares = [_share(values, np.array([threshold]))[0] for values in (right, wrong)]
        rows.append((language, threshold, *shares, len(right), len(wrong)))
    return pd.DataFrame(
        rows, columns=["language", "threshold", "hits", "false_hits", "hit_questions", "false_questions"]
    )


def acting_facts(model: Model, change: CachedChange, prompts: Sequence[str]) -> list[str]:
    """The fact whose cached edit acts where each prompt ends; empty where none does.

    Example
    -------
    >>> acting_facts(model, change, ["The capital of Cameroon is", "The currency of Cameroon is"])
    ['capital:CM', '']
    """
    gate = Gate(model, change.entries, change.layer, change.thresholds, probe=change.probe, semantic=change.semantic)
    helper, found = AnswerRows(model), [""] * len(prompts)
    for start in range(0, len(prompts), ROWS):
        sequences = [(*helper.before, *model.pieces(prompt)) for prompt in prompts[start : start + ROWS]]
        ids, mask = padded(sequences, model.tokenizer.pad_token_id, "right", model.device)
        for hit in gate.hits(ids, mask, None, lambda ids=ids, mask=mask: hidden_states(model, change.layer, ids, mask)):
            found[start + hit.row] = change.entries[hit.entry].fact
    return found


def acting_rates(model: Model, change: CachedChange, questions: pd.DataFrame) -> pd.DataFrame:
    """Per language `hits` and `false_hits` of the cache as it is, with all its edits.

    `questions`: of `knlib.edit_questions.edit_questions`. Hits: the share of `generality` questions at which the edit of their fact
    acts; false hits: of `same_subject` ones, at which that of another fact does. Raises `InputError` where there is no question of
    these kinds.

    Example
    -------
    >>> acting_rates(model, change, study.questions).min()["hits"]
    """
    asked = questions[questions["kind"].isin(list(RATES.values()))]
    if asked.empty:
        raise InputError("questions", found=Literal("none of them"), expected=" or ".join(RATES.values()))
    acting = pd.Series(acting_facts(model, change, asked["prompt"].tolist()), index=asked.index)
    right, wrong = acting == asked["fact"], (acting != "") & (acting != asked["fact"])
    shares = {
        "hits": right[asked["kind"] == RATES["hits"]].groupby(asked["language"]).mean(),
        "false_hits": wrong[asked["kind"] == RATES["false_hits"]].groupby(asked["language"]).mean(),
    }
    return pd.DataFrame(shares)


def _share(margins: pd.Series, grid: np.ndarray) -> np.ndarray:
    """Share of the margins that reach each threshold, [points]; as the cache, a margin at its threshold is let through."""
    if not len(margins):
        return np.full(len(grid), np.nan)
    return (margins.to_numpy()[:, None] >= grid).mean(0)
