"""All localizers against planted truth: `python -m knlib.ground_truth.scoreboard --model planted-llama --jobs 2`.

Pieces are kept under runs/ground_truth: a killed run goes on where it was, and ends with the same tables (but for the seconds). What the
registries list is run; what was registered since adds its pieces and its rows.
"""

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from ..errors import InputError, Literal, said_in_one_line
from ..models import Model, load_model
from .gather import collected
from .letters import PREFIX
from .parts import Plan, first_tasks, run_letters, tasks
from .results import RESULTS, folder_of, load_results, save_results
from .scorers import facts_of, scores

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "runs" / "ground_truth"
FACTS_EACH, NATURAL = 30, 40
TOO_SLOW = "on planted facts of a masked model: it would pass once per neuron"


def run_scoreboard(
    model: str,
    *,
    facts_each: int = FACTS_EACH,
    natural: int = NATURAL,
    jobs: int = 1,
    folder: Path = RESULTS,
    parts: Path = PARTS,
    log: Callable[[str], None] = print,
) -> Path:
    """Scores every method of the registries on a planted model's facts and stores the tables; returns their folder.

    `facts_each`: verified facts of every kind, at most; `natural`: facts that were not planted, for agreement with the oracle. Methods
    that the model does not allow are left out, with the reason in the result. `log` gets a line per piece.

    Raises `InputError` for a model without truth, or with a truth about other weights.

    Example
    -------
    >>> run_scoreboard("planted-llama", facts_each=2, natural=4)
    """
    plan = Plan(model, facts_each, natural, str(parts))
    study = plan.study
    left_out = {name: TOO_SLOW for name in scores() if not facts_of(name, study.facts, study.model)}
    log(f"{model}: {len(study.facts)} facts, {len(study.queries)} queries, {len(study.natural)} natural facts")
    for todo in (first_tasks(plan), tasks(plan)):
        for number, ((work, name, _), error, seconds) in enumerate(_each(plan, todo, jobs), 1):
            if error:
                left_out.setdefault(PREFIX + name if work is run_letters else name, error)
            log(f"{number} of {len(todo)}: {work.__name__.removeprefix('run_')} {name} ({seconds:.0f} s)"
                f"{f', left out: {error}' if error else ''}")  # fmt: skip
    tables, provenance = collected(plan, left_out)
    return save_results(tables, provenance, folder)


def load_or_run(
    model: Model, name: str, *, facts_each: int = 2, natural: int = 8, recompute: bool = False, folder: Path = RESULTS, parts: Path = PARTS,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, pd.DataFrame], dict, str]:  # fmt: skip
    """Tables and provenance of `load_results`, and `stored`; without a stored result a small scoreboard is run here: `run here`.

    `name`: what `load_model` was given. What runs here is kept beside its pieces, not where stored results lie. Raises `InputError` for
    results of other weights.

    Example
    -------
    >>> tables, provenance, source = load_or_run(load_model("planted-llama"), "planted-llama")
    """
    if not recompute and (folder_of(model.name, folder) / "result.json").is_file():
        return *load_results(model, folder), "stored"
    own = Path(parts) / "tables"
    run_scoreboard(name, facts_each=facts_each, natural=natural, folder=own, parts=parts, log=log)
    return *load_results(model, own), "run here"


def load_compared(
    model: Model, name: str, others: Sequence[str] = (), *, folder: Path = RESULTS, **given
) -> tuple[dict[str, tuple], list[str]]:  # fmt: skip
    """`load_or_run` for a model, and beside it what is stored of others: model name -> result, and a line for each without one.

    `given`: options of `load_or_run`. An other model that is not there, or has no results of its weights, is no error.

    Example
    -------
    >>> results, absent = load_compared(load_model("planted-llama"), "planted-llama", ["planted-bert"])
    """
    results, absent = {model.name: load_or_run(model, name, folder=folder, **given)}, []
    for other in dict.fromkeys(others):
        if other and other != name:
            try:
                # First of all the results: a name without any need not be that of a model.
                if not (folder_of(other, folder) / "result.json").is_file():
                    raise InputError(other, found=Literal("no stored scoreboard"), expected="one to compare")
                loaded = load_model(other)
                results[loaded.name] = (*load_results(loaded, folder), "stored")
            except InputError as error:
                absent.append(str(error))
    return results, absent


def _each(plan: Plan, todo: list[tuple], jobs: int):
    """(task, None or the input error said, seconds) of each, `jobs` at a time."""
    if jobs == 1:
        for task in todo:
            yield task, *_said(plan, *task)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in mid-work
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = {pool.submit(_said, plan, *task): task for task in todo}
        for future in as_completed(running):
            yield running[future], *future.result()


def _said(plan: Plan, work: Callable, name: str, facts: list[str]) -> tuple[str | None, float]:
    start, error = time.perf_counter(), None
    try:
        work(plan, name, facts)
    except InputError as found:
        error = str(found)
    return error, time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a planted model: a shipped one, or a folder with truth.json")
    parser.add_argument("--facts", type=int, default=FACTS_EACH, help="facts of every kind, at most (default: 30)")
    parser.add_argument("--natural", type=int, default=NATURAL, help="facts that were not planted (default: 40)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each on one thread (default: 1, on all)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="where tables go (default: data/results/ground_truth)"
    )
    parser.add_argument("--parts", type=Path, default=PARTS, help="where pieces are kept (default: runs/ground_truth)")
    given = parser.parse_args(argv)

    def work():
        for name, least in (("jobs", 1), ("facts", 1), ("natural", 0)):
            if getattr(given, name) < least:
                raise InputError(f"--{name}", found=getattr(given, name), expected=f"{least} or more")
        run_scoreboard(given.model, facts_each=given.facts, natural=given.natural, jobs=given.jobs, folder=given.out,
                       parts=given.parts, log=partial(print, flush=True))  # fmt: skip

    return said_in_one_line(work)


if __name__ == "__main__":
    sys.exit(main())
