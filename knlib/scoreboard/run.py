"""One arm on some edits: the search, the questions before and after, and what it cost."""

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import pandas as pd

from ..edit_effects import SCORES, Answers, ask, effects
from ..edit_questions import EDITED
from ..editing.cached_change import CachedChange
from ..editing.memory import remembered, seconds_alone, spared_seconds
from ..editing.registry import find_change
from ..editing.requests import prompt_rows
from ..editing.values import optimise_values
from ..perplexity import text_loss
from .arms import LENGTHS, Arm
from .cost import touched
from .gate_rates import acting_rates
from .study import EditStudy

BY = ["edit", "edited_in", "length", "kind", "language"]
ALL = "all"
SPREAD = ("rome", "memit", "alphaedit")  # editors that begin with values on the unedited model
INDEPENDENT = ("lafn",)  # editors whose edits do not depend on each other: sought together, each acts alone
REMEMBERED = 24  # answers of the unedited model to an edit's questions: some megabytes (a sequence's: a hundred)


def run_arm(study: EditStudy, arm: Arm, names: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores and costs of an arm on some of the study's edits.

    Scores: one row per `BY` (`edited_in`: the requests' language, `all`, or `-xx` for all but one; `length`: of the
    sequence, otherwise 1), `questions`, and the means of `knlib.edit_effects.SCORES`. Costs: `edit` (of a sequence the
    last), `edited_in`, `length`, `seconds` that the search takes alone, `touched` (`knlib.scoreboard.cost`) and, of sequences, `d_loss`:
    nats a token that the study's neutral text got less likely; of sequences of cached edits, `hits`, `false_hits`, means over languages,
    `least_hits` and `most_false_hits`, the worst language's (`knlib.scoreboard.gate_rates.acting_rates`).

    Example
    -------
    >>> scores, costs = run_arm(study, arms("atlas-gpt2")["rome"], study.names[:10])
    """
    mode = {"simultaneous": _simultaneous, "ablation": _simultaneous, "single": _single, "held_out": _held_out,
            "sequence": _sequences}[arm.mode]  # fmt: skip
    with remembered():
        _search_together(study, arm, list(names))
        scores, costs = zip(*mode(study, arm, list(names)), strict=True)
    return pd.concat(scores, ignore_index=True), pd.DataFrame(list(costs))


def _search_together(study: EditStudy, arm: Arm, names: list[str]) -> None:
    """Values that depend on nothing but their request and the unedited model: one search for all edits, where each alone would
    mostly wait for small matrices."""
    if arm.editor in SPREAD and arm.mode != "sequence":
        requests = study.requests(names)
        given = study.inputs(arm, requests)
        rows = prompt_rows(study.model, requests, given.get("contexts"))
        layer, where = (given["layers"][-1], "block") if "layers" in given else (given["layer"], "mlp")
        optimise_values(study.model, rows, layer, where=where, options=given["value"])


def _simultaneous(study: EditStudy, arm: Arm, names: list[str]) -> Iterator:
    for name, found in _found(study, arm, names, study.requests(names)):
        yield _edited(study, [name], *found, _asked(study, [name]), ALL)


def _single(study: EditStudy, arm: Arm, names: list[str]) -> Iterator:
    requests = study.requests(names)
    for language in requests["language"].unique():
        for name, found in _found(study, arm, names, requests[requests["language"] == language]):
            yield _edited(study, [name], *found, _asked(study, [name], EDITED), language)


def _held_out(study: EditStudy, arm: Arm, names: list[str]) -> Iterator:
    requests = study.requests(names)
    for language in requests["language"].unique():
        for name, found in _found(study, arm, names, requests[requests["language"] != language]):
            asked = _asked(study, [name], EDITED)
            yield _edited(study, [name], *found, asked[asked["language"] == language], f"-{language}")


def _found(study: EditStudy, arm: Arm, names: list[str], requests: pd.DataFrame) -> Iterator:
    """(edit, (its change, seconds of the search)) of each edit alone."""
    if arm.editor in INDEPENDENT:
        whole, seconds = _find(study, arm, requests)
        for name in names:
            change = whole
            for other in names:
                change = change if other == name else change.without(other)
            yield name, (change, seconds / len(names))
    else:
        for name in names:
            yield name, _find(study, arm, requests[requests["edit"] == name])


def _find(study: EditStudy, arm: Arm, requests: pd.DataFrame) -> tuple:
    requests = requests.reset_index(drop=True)
    given, start, spared = study.inputs(arm, requests), time.perf_counter(), spared_seconds()
    change = find_change(arm.editor, study.model, requests, **given)
    return change, seconds_alone(start, spared)


def _sequences(study: EditStudy, arm: Arm, names: list[str]) -> Iterator:
    """The first 1, 10 and 100 edits, each time one after another on the unedited model; all are asked at the end."""
    for length in [n for n in LENGTHS if n <= len(names)]:
        own = names[:length]
        yield _edited(study, own, *_find(study, arm, study.requests(own)), _asked(study, own), ALL, drift=True)


def _asked(study: EditStudy, names: list[str], kinds: Sequence[str] | None = None) -> pd.DataFrame:
    questions = study.questions[study.questions["edit"].isin(names)]
    # The ceiling is a property of the unedited model: arm `none` has it.
    return questions[questions["kind"].isin(kinds) if kinds else questions["kind"] != "ceiling"]


def _edited(study: EditStudy, names: list[str], change, seconds: float, asked: pd.DataFrame, edited_in: str,
            drift: bool = False):  # fmt: skip
    model, asked = study.model, asked.reset_index(drop=True)
    before = _before(study, names, asked) if edited_in == ALL else ask(model, asked)
    loss = text_loss(model, study.drift_texts) if drift else None
    with change.applied(model):
        found = effects(asked, before, ask(model, change.queries(asked)))
        lost = text_loss(model, study.drift_texts) - loss if drift else None
    groups = found.assign(edited_in=edited_in, length=len(names)).groupby(BY, sort=False)
    scores = groups[list(SCORES)].mean().join(groups.size().rename("questions")).reset_index()
    cost = {"edit": names[-1], "edited_in": edited_in, "length": len(names), "seconds": seconds,
            "touched": touched(change), "d_loss": lost}  # fmt: skip
    if drift and isinstance(change, CachedChange):
        rates = acting_rates(model, change, asked)
        cost |= rates.mean().to_dict() | {
            "least_hits": rates["hits"].min(),
            "most_false_hits": rates["false_hits"].max(),
        }
    return scores, cost


_answers: OrderedDict[tuple[str, str, tuple[str, ...]], Answers] = OrderedDict()


def _before(study: EditStudy, names: list[str], asked: pd.DataFrame) -> Answers:
    """The unedited model's answers to all questions of an edit or a sequence: the same for every arm that runs on it."""
    key = (study.model.hash, study.hash, tuple(names))
    if key not in _answers:
        _answers[key] = ask(study.model, asked)
    _answers.move_to_end(key)
    while len(_answers) > REMEMBERED:
        _answers.popitem(last=False)
    return _answers[key]


def unedited(study: EditStudy, names: Sequence[str]) -> pd.DataFrame:
    """The scores of `run_arm` for the model as it is, with the kind `ceiling`: the level that every arm starts from.

    Example
    -------
    >>> unedited(study, study.names[:10]).groupby("kind")["forced"].mean()
    """
    parts = []
    for name in names:
        asked = study.questions[study.questions["edit"] == name].reset_index(drop=True)
        answers = ask(study.model, asked)
        parts.append(effects(asked, answers, answers).assign(edited_in="none", length=0))
    groups = pd.concat(parts, ignore_index=True).groupby(BY, sort=False)
    return groups[list(SCORES)].mean().join(groups.size().rename("questions")).reset_index()
