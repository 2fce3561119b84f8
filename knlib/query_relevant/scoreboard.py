"""All localizers on the same questions: `python -m knlib.query_relevant.scoreboard --model NAME --languages en,fr`.

Scores, neurons and effects are kept in parts under runs/letters: a killed run goes on where it was, and ends with the same
tables. What the registry lists is run; a localizer that was registered since adds its parts and its rows.
"""

import argparse
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ..errors import InputError, said_in_one_line
from ..files import atomically, write_text
from ..models import load_model
from ..result_files import config_hash, read_table, to_csv
from . import localizers
from .baselines import TRAITS, score
from .letter_effects import DOSES, FACTORS, letter_effects
from .letters import letter_probabilities
from .long_form import answer_effects
from .predictors import predictor_table
from .questions import KEY
from .scoreboard_results import RESULTS, summarize, write_result
from .study import LetterStudy, chunks, load_study
from .trials import trials

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "runs" / "letters"
LANGUAGES = ("en", "de", "fr", "ru", "ar", "zh")
# Its sets say how many neurons a question has, for every localizer.
REFERENCE = "qrnca"
# Seeds of the localizers that draw, which therefore take every so many-th fact.
DRAWS, DRAWN_EVERY = 10, 2
# Every so many-th fact gets all doses, the others 2 and 0.
DOSE_EVERY = 10


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
                "draws": [DRAWS, DRAWN_EVERY], "dose_every": DOSE_EVERY}  # fmt: skip


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
        facts = plan.study.facts_of(scoring)
        tasks += [(scoring, options, part) for part in ([facts] if TRAITS[scoring].whole else chunks(facts))]
    return tasks


def run_scores(plan: Plan, scoring: str, options: dict, facts: list[str]) -> None:
    """Scores of some facts' wordings, the mean over rotations, [wordings, layers, neurons], unless they are there."""
    path = _score_path(plan, scoring, options, facts)
    if path.exists():
        return
    start, study = time.process_time(), plan.study
    prompts = study.of(study.prompts, facts).reset_index(drop=True)
    rotations = int(prompts["rotation"].max()) + 1
    if TRAITS[scoring].whole:
        # The k-th wordings of all questions apart: a wording that tests has no part in the scores of those that localize.
        place = prompts.groupby(KEY)["wording"].rank("dense")
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
    facts = study.facts_of(scoring)
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
    """What the unchanged model answers to some facts' prompts."""
    path = plan.folder / "letters" / f"{config_hash({'facts': facts})}.csv"
    if path.exists():
        return
    study = plan.study
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # low masses are in the table
        write_text(path, to_csv(letter_probabilities(study.model, study.of(study.prompts, facts))))


def run_neurons(plan: Plan, name: str) -> None:
    """A localizer's neurons for every question and split: as many as the reference has, `draw` by `draw`."""
    path = _neuron_path(plan, name)
    if path.exists():
        return
    study, start = plan.study, localizers.starts_from(name)
    scores = None if start is None else pooled_scores(plan, *start)
    # What is drawn has the reference's layers: it needs all questions, whichever it is asked for.
    facts = study.facts if name in localizers.DRAWN else _facts(plan, name)
    parts = []
    for split in study.splits:
        located = study.of(study.wordings[study.wordings["query"].isin(split.localize["query"])], facts)
        top = None if name == REFERENCE else _reference_sizes(plan, split.held_out, located)
        for draw in range(DRAWS if name in localizers.DRAWN else 1):
            found = localizers.find(name, study.model, located, top=top, scores=scores, seed=draw)
            parts.append(study.of(found, _facts(plan, name)).assign(held_out=split.held_out, draw=draw))
    atomically(path, pd.concat(parts, ignore_index=True).to_parquet)


def _neuron_path(plan: Plan, name: str) -> Path:
    return plan.folder / "neurons" / f"{name}.parquet"


def _reference_sizes(plan: Plan, held_out: int, located: pd.DataFrame) -> pd.DataFrame:
    found = pd.read_parquet(_neuron_path(plan, REFERENCE))
    return localizers.sizes(found[found["held_out"] == held_out], located)


def run_effects(plan: Plan, names: list[str], facts: list[str]) -> None:
    """Effects on letters and on answers' texts of some facts' neurons, for all localizers that lack them, in one pass."""
    study = plan.study
    missing = [name for name in names if not _effect_path(plan, "answers", name, facts).exists()]
    mine = {name: [f for f in facts if f in set(_facts(plan, name))] for name in missing}
    for some in sorted({tuple(own) for own in mine.values()}, key=len, reverse=True):
        # Localizers of the same facts share the passes of every prompt.
        own = [name for name in missing if tuple(mine[name]) == some]
        letters, answers = _effects(plan, study, own, list(some))
        for name in own:
            # The texts last: they say that the part is complete.
            for kind, table in (("letters", letters), ("answers", answers)):
                kept = table[table["condition"] == name].assign(condition=name) if len(table) else table
                atomically(_effect_path(plan, kind, name, facts), kept.reset_index(drop=True).to_parquet)


def _facts(plan: Plan, name: str) -> list[str]:
    """The facts that a localizer is tried on."""
    if name in localizers.DRAWN:
        return plan.study.facts[::DRAWN_EVERY]
    start = localizers.starts_from(name)
    return plan.study.facts_of(start and start[0])


def _effect_path(plan: Plan, kind: str, name: str, facts: list[str]) -> Path:
    return plan.folder / kind / name / f"{config_hash({'facts': facts})}.parquet"


def _effects(plan: Plan, study: LetterStudy, names: list[str], facts: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    if not facts:
        return pd.DataFrame(), pd.DataFrame()
    dosed = set(study.facts[::DOSE_EVERY])
    letters, answers = [], []
    for split in study.splits:
        neurons = _conditions(plan, names, split.held_out, facts)
        known = _reference_sizes(plan, split.held_out, study.of(split.localize, facts))
        # Without neurons there is nothing to change, by any localizer: such questions are counted, not averaged.
        asked = known[known["size"] > 0]
        texts = study.answers[study.answers["query"].isin(split.test["fact"] + "|" + split.test["wording"])]
        for factors, some in ((DOSES, asked["fact"].isin(dosed)), (FACTORS, ~asked["fact"].isin(dosed))):
            if not some.any():
                continue
            tried = trials(split, asked[some])
            letters.append(letter_effects(study.model, study.prompts, tried, neurons, factors=factors))
            own = texts.merge(asked.loc[some, KEY], on=KEY)
            answers.append(answer_effects(study.model, own, neurons).assign(held_out=split.held_out))
    if not letters:
        return pd.DataFrame(), pd.DataFrame()
    return tuple(_with_draws(pd.concat(tables, ignore_index=True)) for tables in (letters, answers))


def _conditions(plan: Plan, names: list[str], held_out: int, facts: list[str]) -> pd.DataFrame:
    """The neurons of some facts, a condition for each localizer and draw, whether or not it has any."""
    tables, conditions = [], []
    for name in names:
        table = pd.read_parquet(_neuron_path(plan, name))
        conditions += [f"{name}#{draw}" for draw in sorted(table["draw"].unique())]
        table = table[(table["held_out"] == held_out) & table["fact"].isin(facts)]
        tables.append(table.assign(condition=name + "#" + table["draw"].astype(str)))
    found = pd.concat(tables, ignore_index=True)
    return found.assign(condition=pd.Categorical(found["condition"], categories=conditions))


def _with_draws(effects: pd.DataFrame) -> pd.DataFrame:
    parts = effects["condition"].str.split("#")
    return effects.assign(condition=parts.str[0], draw=parts.str[1].astype(int))


def run_predictors(plan: Plan) -> None:
    """The three predictors, with the reference's neurons of every other fact of a relation, on the rest of its facts."""
    path = plan.folder / "predictors.csv"
    if path.exists():
        return
    study, split = plan.study, plan.study.splits[0]
    relation = study.prompts.drop_duplicates("fact").set_index("fact")["relation"].loc[study.facts]
    located = set(relation.index[relation.groupby(relation).cumcount() % 2 == 0])
    neurons = pd.read_parquet(_neuron_path(plan, REFERENCE))
    neurons = neurons[(neurons["held_out"] == split.held_out) & neurons["fact"].isin(located)]
    new = split.test[~split.test["fact"].isin(located)].reset_index(drop=True)
    table = predictor_table(study.model, new, neurons.assign(relation=neurons["fact"].map(relation)), study.answers)
    write_text(path, to_csv(table))


def _each(work: Callable, tasks: list[tuple], jobs: int):
    """(task, None or the input error said) of each, `jobs` at a time."""
    if jobs == 1:
        for task in tasks:
            yield task, _said(work, *task)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in mid-work
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = {pool.submit(_said, work, *task): task for task in tasks}
        for future in as_completed(running):
            yield running[future], future.result()


def _said(work: Callable, *task) -> str | None:
    try:
        work(*task)
    except InputError as error:
        return str(error)
    return None


def run_scoreboard(
    model: str,
    languages: Sequence[str] = LANGUAGES,
    questions: int = 50,
    *,
    jobs: int = 1,
    folder: Path = RESULTS,
    parts: Path = PARTS,
    log: Callable[[str], None] = print,
) -> Path:
    """Runs every localizer of the registry on `questions` facts in each language, and stores the tables.

    A question is a fact in a language: localized on two wordings, tried on the third, three ways. Scores that the model or
    the languages do not allow are left out, with the reason in the result. Returns the folder of the tables.

    Raises `InputError` for unknown models and languages, too many questions, too few for inverse cluster attribution.

    Example
    -------
    >>> run_scoreboard("atlas-llama", ["en", "fr"], 4)
    """
    plan = Plan(model, tuple(languages), questions, str(parts))
    study, refused = plan.study, {}
    log(f"{model}: {len(study.facts)} facts in {len(plan.languages)} languages, {len(study.prompts)} prompts")
    tasks = [(plan, *task) for task in score_tasks(plan)]
    for number, (task, error) in enumerate(_each(run_scores, tasks, jobs), 1):
        if error:
            refused[label(task[1:3])] = error
        log(f"scores {number} of {len(tasks)}: {label(task[1:3])}{f', left out: {error}' if error else ''}")
    for number, (_, error) in enumerate(_each(run_letters, [(plan, part) for part in chunks(study.facts)], jobs), 1):
        log(f"letters {number} of {len(chunks(study.facts))}")
        if error:
            raise InputError("letters", found=error, expected="prompts that the model can answer")
    run_neurons(plan, REFERENCE)
    names, left_out = [], {}
    others = [(plan, name) for name in localizers.names() if name != REFERENCE]
    for (_, name), error in _each(run_neurons, others, jobs):
        if error:
            start = localizers.starts_from(name)
            left_out[name] = refused.get(label(start), error) if start else error
        log(f"neurons: {name}{f', left out: {error}' if error else ''}")
    names = [name for name in localizers.names() if name not in left_out]
    tasks = [(plan, names, part) for part in chunks(study.facts)]
    for number, (_, error) in enumerate(_each(run_effects, tasks, jobs), 1):
        log(f"effects {number} of {len(tasks)}")
        if error:
            raise InputError("effects", found=error, expected="prompts and neurons that fit the model")
    for _, error in _each(run_predictors, [(plan,)], 1):
        if error:
            left_out["predictors"] = error
    log("tables")
    return write_result(collected(plan, names, left_out), study.model.name, folder)


def collected(plan: Plan, names: list[str], left_out: dict[str, str]) -> dict:
    """The tables of a run whose parts are all there, and what they are of."""
    study = plan.study
    parts = chunks(study.facts)

    def together(kind: str) -> pd.DataFrame:
        paths = [_effect_path(plan, kind, name, part) for name in names for part in parts]
        return pd.concat([t for t in map(pd.read_parquet, paths) if len(t)], ignore_index=True)

    letters = [read_table(plan.folder / "letters" / f"{config_hash({'facts': part})}.csv") for part in parts]
    neurons = {name: pd.read_parquet(_neuron_path(plan, name)) for name in names}
    starts = {name: localizers.starts_from(name) for name in names}
    costs = {}
    for name, start in starts.items():
        if start is not None:
            own = [
                json.loads(path.read_text("utf8")) for path in (plan.folder / "scores" / label(start)).glob("*.json")
            ]
            costs[name] = sum(c["seconds"] for c in own) / sum(c["prompts"] for c in own)
    scores = {name: partial(pooled_scores, plan, *start) for name, start in starts.items() if start is not None}
    tables = summarize(study, pd.concat(letters, ignore_index=True), neurons, together("letters"), together("answers"),
                       scores, costs)  # fmt: skip
    located = study.wordings[study.wordings["query"].isin(study.splits[0].localize["query"])]
    tables["common"] = localizers.common_neurons(scores[REFERENCE](), located)
    if "predictors" not in left_out:
        tables["predictors"] = read_table(plan.folder / "predictors.csv")
    provenance = plan.configuration() | {"model_name": study.model.name, "languages": list(plan.languages),
                                         "facts": study.facts, "left_out": left_out}  # fmt: skip
    return {"tables": tables, "provenance": provenance}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a shipped model, a folder, or a name of the Hugging Face hub")
    parser.add_argument("--languages", default=",".join(LANGUAGES), help=f"default: {','.join(LANGUAGES)}")
    parser.add_argument("--questions", type=int, default=50, help="facts, each asked in every language (default: 50)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each on one thread (default: 1, on all)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where tables go (default: data/results/letters)")
    parser.add_argument("--parts", type=Path, default=PARTS, help="where parts are kept (default: runs/letters)")
    given = parser.parse_args(argv)

    def work():
        if given.jobs < 1:
            raise InputError("--jobs", found=given.jobs, expected="1 or more")
        run_scoreboard(given.model, given.languages.split(","), given.questions, jobs=given.jobs, folder=given.out,
                       parts=given.parts, log=partial(print, flush=True))  # fmt: skip

    return said_in_one_line(work)


if __name__ == "__main__":
    sys.exit(main())
