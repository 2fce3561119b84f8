"""All localizers on the same questions: `python -m knlib.query_relevant.scoreboard --model NAME --languages en,fr`.

Scores, neurons and effects are kept in parts under runs/letters: a killed run goes on where it was, and ends with the same
tables. What the registry lists is run; a localizer that was registered since adds its parts and its rows.
"""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from ..errors import InputError, said_in_one_line
from ..models import Model
from ..result_files import config_hash, read_table
from . import localizers
from .effect_parts import effect_path, run_effects, run_predictors
from .score_parts import (
    REFERENCE,
    Plan,
    label,
    neuron_path,
    pooled_scores,
    run_letters,
    run_neurons,
    run_scores,
    score_tasks,
)
from .scoreboard_results import RESULTS, load_result, result_folder, summarize, write_result
from .study import chunks

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "runs" / "letters"
LANGUAGES = ("en", "de", "fr", "ru", "ar", "zh")


@contextmanager
def _workers(jobs: int):
    """A function that makes calls (work, arguments), `jobs` at a time, and yields each with None or the input error it said."""
    if jobs == 1:
        yield lambda calls: ((call, _said(*call)) for call in calls)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in mid-work
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def each(calls):
            running = {pool.submit(_said, *call): call for call in calls}
            for future in as_completed(running):
                yield running[future], future.result()

        yield each


def _said(work: Callable, *task) -> str | None:
    try:
        work(*task)
    except InputError as error:
        return str(error)
    return None


def run_scoreboard(
    model: str,
    languages: Sequence[str] = LANGUAGES,
    questions: int = 300,
    *,
    jobs: int = 1,
    folder: Path = RESULTS,
    parts: Path = PARTS,
    log: Callable[[str], None] = print,
) -> Path:
    """Runs every localizer of the registry on `questions` facts in each language, and stores the tables.

    A question is a fact in a language: localized on two wordings, tried on the third, which goes round (less than
    `study.ROUND` facts: three ways each). What costs more is tried on the first facts only. Scores that the model or the
    languages do not allow are left out, with the reason in the result. Returns the folder of the tables.

    Raises `InputError` for unknown models and languages, too many questions, too few for inverse cluster attribution.

    Example
    -------
    >>> run_scoreboard("atlas-llama", ["en", "fr"], 4)
    """
    plan = Plan(model, tuple(languages), questions, str(parts))
    study, refused, left_out = plan.study, {}, {}
    log(f"{model}: {len(study.facts)} facts in {len(plan.languages)} languages, {len(study.prompts)} prompts")
    with _workers(jobs) as each:
        calls = [(run_scores, plan, *task) for task in score_tasks(plan)]
        calls += [(run_letters, plan, part) for part in chunks(study.facts)]
        for number, (call, error) in enumerate(each(calls), 1):
            if error and call[0] is run_letters:
                raise InputError("letters", found=error, expected="prompts that the model can answer")
            what = "letters" if call[0] is run_letters else label(call[2:4])
            if error:
                refused[what] = error
            log(f"scores {number} of {len(calls)}: {what}{f', left out: {error}' if error else ''}")
        run_neurons(plan, REFERENCE)
        others = [(run_neurons, plan, name) for name in localizers.names() if name != REFERENCE]
        for (_, _, name), error in each(others):
            if error:
                start = localizers.starts_from(name)
                left_out[name] = refused.get(label(start), error) if start else error
            log(f"neurons: {name}{f', left out: {error}' if error else ''}")
        names = [name for name in localizers.names() if name not in left_out]
        calls = [(run_predictors, plan), *((run_effects, plan, names, part) for part in chunks(study.facts))]
        for number, (call, error) in enumerate(each(calls), 1):
            log(f"effects {number} of {len(calls)}")
            if error and call[0] is run_effects:
                raise InputError("effects", found=error, expected="prompts and neurons that fit the model")
            if error:
                left_out["predictors"] = error
    log("tables")
    return write_result(collected(plan, names, left_out), study.model.name, folder)


def load_or_run(
    model: Model,
    name: str,
    languages: Sequence[str] = LANGUAGES,
    questions: int = 10,
    *,
    folder: Path = RESULTS,
    parts: Path = PARTS,
    recompute: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, pd.DataFrame], dict, str]:
    """Tables and provenance of `load_result`, and `stored`; without a stored result a small run is made here: `run here`.

    `name`: what `load_model` was given. What runs here is kept beside its parts, not where stored results lie. Raises `InputError` for
    results of other weights.

    Example
    -------
    >>> tables, provenance, source = load_or_run(load_model("atlas-llama"), "atlas-llama")
    """
    if not recompute and (result_folder(model.name, folder) / "result.json").is_file():
        return *load_result(model, folder), "stored"
    run_scoreboard(name, languages, questions, folder=Path(parts) / "tables", parts=parts, log=log)
    return *load_result(model, Path(parts) / "tables"), "run here"


def collected(plan: Plan, names: list[str], left_out: dict[str, str]) -> dict:
    """The tables of a run whose parts are all there, and what they are of."""
    study = plan.study
    parts = chunks(study.facts)

    def together(kind: str) -> pd.DataFrame:
        paths = [effect_path(plan, kind, name, part) for name in names for part in parts]
        return pd.concat([t for t in map(pd.read_parquet, paths) if len(t)], ignore_index=True)

    letters = [read_table(plan.folder / "letters" / f"{config_hash({'facts': part})}.csv") for part in parts]
    neurons = {name: pd.read_parquet(neuron_path(plan, name)) for name in names}
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
    first = study.splits[0]
    located = study.of(study.wordings, study.tried_in(first, study.facts))
    located = located[located["query"].isin(first.localize["query"])]
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
    parser.add_argument("--questions", type=int, default=300, help="facts, each asked in every language (default: 300)")
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
