"""What a scoreboard of letters keeps of its localizers: scores, neurons, and the unchanged model's answers, part by part.

A part that is there is not computed again; parts lie in a folder that the plan's configuration names.
"""

import json
import time
import warnings
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import InputError
from ..files import atomically, write_text
from ..models import load_model
from ..result_files import config_hash, to_csv
from . import localizers
from .baselines import FEW, TRAITS, score
from .letter_effects import DOSES, FACTORS
from .letters import letter_probabilities
from .study import LetterStudy, chunks, load_study

# Its sets say how many neurons a question has, for every localizer.
REFERENCE = "qrnca"
# Seeds of the localizers that draw.
DRAWS = 10
# Facts that localizers are tried on at most, beside what their scores allow; one more integration, and those with many seeds.
MOST = {"qrnca_margin": FEW} | dict.fromkeys(localizers.DRAWN, FEW)
# So many facts, one of each relation, get all doses, the others 2 and 0.
DOSED = 7


@dataclass(frozen=True)
class Plan:
    """What a run is of: everything a worker needs to find or make a part."""

    model: str
    languages: tuple[str, ...]
    questions: int
    parts: str

    @property
    def study(self) -> LetterStudy:
        return _study(self.model, self.languages, self.questions)

    @property
    def folder(self) -> Path:
        return Path(self.parts) / config_hash(self.configuration())

    def configuration(self) -> dict:
        study = self.study
        return {"model": study.model.hash, "questions": study.hash, "factors": FACTORS, "doses": DOSES,
                "draws": DRAWS, "dosed": DOSED}  # fmt: skip


@cache
def _study(model: str, languages: tuple[str, ...], questions: int) -> LetterStudy:
    return load_study(load_model(model), languages, questions)


def label(start: tuple[str, dict]) -> str:
    """A score of the registry with its options, as a folder's name."""
    return "-".join([start[0], *(f"{k}={v}" for k, v in sorted(start[1].items()))])


def score_tasks(plan: Plan) -> list[tuple]:
    """(score, options, facts) of every score that a localizer starts from, once each."""
    starts = {label(s): s for name in localizers.names() if (s := localizers.starts_from(name)) is not None}
    tasks = []
    for scoring, options in starts.values():
        facts = facts_scored(plan, (scoring, options))
        parts = [facts] if TRAITS[scoring].whole else chunks(facts)
        tasks.append([(scoring, options, part) for part in parts])
    # Scores in a single part take minutes: were they last, one process would end alone.
    return [task for own in sorted(tasks, key=len) for task in own]


def run_scores(plan: Plan, scoring: str, options: dict, facts: list[str]) -> None:
    """Scores of some facts' wordings, the mean over rotations, [wordings, layers, neurons], unless they are there."""
    path = _score_path(plan, scoring, options, facts)
    if path.exists():
        return
    start, study = time.process_time(), plan.study
    prompts = study.of(study.scored, facts).reset_index(drop=True)
    rotations = int(prompts["rotation"].max()) + 1
    if TRAITS[scoring].whole:
        # The k-th wordings of all questions apart: a wording that tests has no part in the scores of those that localize.
        place = prompts["place"]
        values = np.empty((len(prompts), study.model.n_layers, study.model.n_neurons), dtype=np.float32)
        for k in sorted(place.unique()):
            values[(place == k).to_numpy()] = score(scoring, study.model, prompts[place == k], **options).values
    else:
        values = score(scoring, study.model, prompts, **options).values
    values = values.reshape(-1, rotations, *values.shape[1:]).mean(1, dtype=np.float64).astype(np.float32)
    cost = {"seconds": time.process_time() - start, "prompts": len(prompts)}
    write_text(path.with_suffix(".json"), json.dumps(cost))
    atomically(path, partial(_save, values))


def _save(values: np.ndarray, path: Path) -> None:
    with open(path, "wb") as file:
        np.save(file, values)


def _score_path(plan: Plan, scoring: str, options: dict, facts: list[str]) -> Path:
    return plan.folder / "scores" / label((scoring, options)) / f"{config_hash({'facts': facts})}.npy"


def pooled_scores(plan: Plan, scoring: str, options: dict) -> xr.DataArray:
    """All scores of a kind, [wordings, layers, neurons], named by each wording's first prompt.

    Raises `InputError` where a part is missing: the score was refused.
    """
    study, rows, names = plan.study, [], []
    facts = facts_scored(plan, (scoring, options))
    for part in [facts] if TRAITS[scoring].whole else chunks(facts):
        path = _score_path(plan, scoring, options, part)
        if not path.exists():
            raise InputError(f"score {label((scoring, options))}", found=path.name, expected="all its parts")
        rows.append(np.load(path))
        names += study.of(study.wordings, part)["query"].tolist()
    values = np.concatenate(rows)
    coordinates = {"query": names, "layer": np.arange(values.shape[1]), "neuron": np.arange(values.shape[2])}
    return xr.DataArray(values, dims=tuple(coordinates), coords=coordinates)


def run_letters(plan: Plan, facts: list[str]) -> None:
    """What the unchanged model answers to some facts' prompts that localize; what it answers to the others is with the effects."""
    path = plan.folder / "letters" / f"{config_hash({'facts': facts})}.csv"
    if path.exists():
        return
    study = plan.study
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # low masses are in the table
        write_text(path, to_csv(letter_probabilities(study.model, study.of(study.scored, facts))))


def run_neurons(plan: Plan, name: str) -> None:
    """A localizer's neurons for every question and split: as many as the reference has, `draw` by `draw`."""
    path = neuron_path(plan, name)
    if path.exists():
        return
    study, start = plan.study, localizers.starts_from(name)
    layered = name == "random_layer_matched"
    scores = None if start is None or layered else pooled_scores(plan, *start)
    parts = []
    for split in study.splits:
        own = study.tried_in(split, facts_tried(plan, name))
        if not own:
            continue
        located = study.of(study.wordings[study.wordings["query"].isin(split.localize["query"])], own)
        top = None if name == REFERENCE else reference_sizes(plan, split.held_out, located)
        for draw in range(DRAWS if name in localizers.DRAWN else 1):
            if layered:  # from the reference's neurons that are there: with common ones told from all questions
                found = localizers.redrawn(_reference(plan, split.held_out, own), study.model.n_neurons, draw)
            else:
                found = localizers.find(name, study.model, located, top=top, scores=scores, seed=draw)
            parts.append(found.assign(held_out=split.held_out, draw=draw))
    atomically(path, pd.concat(parts, ignore_index=True).to_parquet)


def neuron_path(plan: Plan, name: str) -> Path:
    return plan.folder / "neurons" / f"{name}.parquet"


def reference_sizes(plan: Plan, held_out: int, located: pd.DataFrame) -> pd.DataFrame:
    return localizers.sizes(_reference(plan, held_out, plan.study.facts), located)


def _reference(plan: Plan, held_out: int, facts: list[str]) -> pd.DataFrame:
    found = pd.read_parquet(neuron_path(plan, REFERENCE))
    return found[(found["held_out"] == held_out) & found["fact"].isin(facts)]


def facts_tried(plan: Plan, name: str) -> list[str]:
    """The facts that a localizer is tried on."""
    start = localizers.starts_from(name)
    limits = [MOST.get(name), TRAITS[start[0]].most if start else None]
    return plan.study.facts[: min((limit for limit in limits if limit is not None), default=None)]


def facts_scored(plan: Plan, start: tuple[str, dict]) -> list[str]:
    """The facts that a score is computed for: those of whichever localizer that starts from it is tried on most."""
    owners = [name for name in localizers.names() if localizers.starts_from(name) == start]
    return max((facts_tried(plan, name) for name in owners), key=len)
