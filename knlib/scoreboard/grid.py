"""What runs the arms: `python -m knlib.scoreboard.grid` runs all that have no result yet, on the test edits.

Edits are taken in chunks that are kept under runs/: a killed run goes on, and ends with the same scores. A stored result of
fewer edits is taken apart into such chunks first: what was shipped is not run again.
"""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch

from ..editing.memory import remembered
from ..errors import InputError, Literal, said_in_one_line
from ..files import write_text
from ..models import load_model
from ..result_files import config_hash, read_table, rounded, to_csv
from .arms import NONE, Arm, arms
from .results import RESULTS, ArmResult, configuration, load_result, save_result
from .run import run_arm, unedited
from .study import EditStudy, load_study

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "runs" / "edits"
MODELS = ("atlas-gpt2", "atlas-llama")
CHUNK = 10  # edits that are kept together


@cache
def study_of(name: str) -> EditStudy:
    return load_study(load_model(name))


def chunks_of(study: EditStudy, arm: Arm, edits: int | None) -> list[list[str]]:
    """The edits of an arm, at most `edits`, in chunks; a sequence is one chunk."""
    names = study.names[: min(n for n in (len(study.names), edits, arm.edits) if n is not None)]
    return [names] if arm.mode == "sequence" else [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]


def run_chunk(model: str, arm_id: str, names: list[str], parts: Path) -> float:
    """Runs one chunk of an arm unless it is there; returns the seconds that it took."""
    study = study_of(model)
    arm = all_arms(study)[arm_id]
    folder = parts / config_hash(configuration(arm, study.model, study.hash))
    path = folder / f"{config_hash({'edits': names})}.json"
    start = time.perf_counter()
    if not path.exists():
        scores, costs = (unedited(study, names), pd.DataFrame()) if arm_id == NONE else run_arm(study, arm, names)
        write_text(folder / f"{path.stem}.csv", to_csv(rounded(scores)))
        write_text(path, json.dumps(costs.to_dict("records"), ensure_ascii=False))
    return time.perf_counter() - start


def all_arms(study: EditStudy) -> dict[str, Arm]:
    return {NONE: Arm(NONE, NONE)} | arms(study.model)


def collected(study: EditStudy, arm: Arm, chunks: list[list[str]], parts: Path) -> ArmResult:
    """The result of an arm whose chunks are all there."""
    config = configuration(arm, study.model, study.hash)
    folder = parts / config_hash(config)
    paths = [folder / config_hash({"edits": names}) for names in chunks]
    scores = pd.concat([read_table(path.with_suffix(".csv")) for path in paths], ignore_index=True)
    costs = [cost for path in paths for cost in json.loads(path.with_suffix(".json").read_text("utf8"))]
    provenance = config | {"hash": config_hash(config), "model_name": study.model.name,
                           "edits": [name for names in chunks for name in names]}  # fmt: skip
    return ArmResult(scores, mean_costs(costs), provenance)


def mean_costs(costs: list[dict]) -> dict[str, dict]:
    """Means of the costs of `run_arm`, by the length of the sequence ("1" where there is none)."""
    if not costs:
        return {}
    table = pd.DataFrame(costs).drop(columns=["edit", "edited_in"], errors="ignore").groupby("length").mean()
    return {
        str(length): {k: round(float(v), 4) for k, v in row.items() if pd.notna(v)} for length, row in table.iterrows()
    }


def run_grid(
    ids: Sequence[str],
    models: Sequence[str],
    *,
    jobs: int = 1,
    edits: int | None = None,
    folder: Path = RESULTS,
    parts: Path = PARTS,
    log: Callable[[str], None] = print,
) -> None:
    """Runs the arms that have no stored result of as many edits, `jobs` chunks at a time, and stores them.

    `ids`: of `arms`, or `none` (the unedited model); none given: all. `edits`: at most so many of the test edits. `log`
    gets a line per chunk and one per arm. Raises `InputError` for an unknown arm.

    Example
    -------
    >>> run_grid(["rome"], ["atlas-gpt2"], edits=10)
    """
    todo, waiting = [], {}
    for model in models:
        study = study_of(model)
        known = all_arms(study)
        for name in ids or list(known):
            if name not in known:
                raise InputError("arm", found=name, expected=Literal("one of " + " ".join(known)))
            chunks = chunks_of(study, known[name], edits)
            stored = _stored(study, known[name], folder)
            if set(stored.provenance["edits"] if stored else ()) >= {edit for names in chunks for edit in names}:
                log(f"{model} {name}: stored")
                continue
            if stored and known[name].mode != "sequence":
                take_apart(stored, chunks, parts)
            waiting[model, name] = len(chunks)
            todo += [(model, name, chunk) for chunk in chunks]
    # Arms of the same edits one after another: they share the unedited model's answers.
    place = {(model, name): number for model in models for number, name in enumerate(study_of(model).names)}
    todo.sort(key=lambda item: (item[0], place[item[0], item[2][0]]))
    total = len(todo)
    for number, (model, name, chunk, seconds) in enumerate(_run(todo, jobs, parts), 1):
        log(f"{number} of {total}: {model} {name}, {len(chunk)} edits ({seconds:.0f} s)")
        waiting[model, name] -= 1
        if not waiting[model, name]:
            study = study_of(model)
            arm = all_arms(study)[name]
            save_result(collected(study, arm, chunks_of(study, arm, edits), parts), folder)
            log(f"{model} {name}: done")


def take_apart(result: ArmResult, chunks: list[list[str]], parts: Path) -> None:
    """Puts the chunks whose edits a stored result has beside those that a run leaves, each at the result's mean costs."""
    folder = parts / result.provenance["hash"]
    costs = [{"length": int(length)} | mean for length, mean in result.costs.items()]
    for names in chunks:
        path = folder / f"{config_hash({'edits': names})}.json"
        if set(names) <= set(result.provenance["edits"]) and not path.exists():
            scores = result.scores[result.scores["edit"].isin(names)]
            write_text(folder / f"{path.stem}.csv", to_csv(scores))
            write_text(path, json.dumps(costs * len(names)))


def _stored(study: EditStudy, arm: Arm, folder: Path) -> ArmResult | None:
    try:
        return load_result(arm, study.model, study.hash, folder)
    except InputError:
        return None


def _groups(todo: list[tuple]) -> list[list[tuple]]:
    """Chunks that run in one process: the editors that run on all edits share what they compute of the unedited model."""
    groups: dict[tuple, list] = {}
    for model, name, chunk in todo:
        arm = all_arms(study_of(model))[name]
        alone = "" if arm.mode == "simultaneous" and arm.edits is None else name
        groups.setdefault((model, tuple(chunk), alone), []).append((model, name, chunk))
    return list(groups.values())


def run_group(items: list[tuple], parts: Path) -> list[float]:
    """`run_chunk` for each (model, arm, edits); returns the seconds of each."""
    with remembered():
        return [run_chunk(*item, parts) for item in items]


def _run(todo: list[tuple], jobs: int, parts: Path):
    if jobs == 1:
        for group in _groups(todo):
            for item, seconds in zip(group, run_group(group, parts), strict=True):
                yield (*item, seconds)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in mid-work
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = {pool.submit(run_group, group, parts): group for group in _groups(todo)}
        for future in as_completed(running):
            for item, seconds in zip(running[future], future.result(), strict=True):
                yield (*item, seconds)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("arms", nargs="*", metavar="ARM", help="arms to run, e.g. rome (default: all)")
    parser.add_argument(
        "--model", action="append", default=[], help=f"a model, repeatable (default: {' '.join(MODELS)})"
    )
    parser.add_argument("--edits", type=int, help="at most so many of the test edits (default: all)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (default: data/results/edits)")
    parser.add_argument("--parts", type=Path, default=PARTS, help="where chunks are kept (default: runs/edits)")
    parser.add_argument("--jobs", type=int, default=1, help="chunks at a time, each on one thread (default: 1, on all)")
    given = parser.parse_args(argv)

    def work():
        for name in ("jobs", "edits"):
            if getattr(given, name) is not None and getattr(given, name) < 1:
                raise InputError(f"--{name}", found=getattr(given, name), expected="1 or more")
        run_grid(given.arms, given.model or MODELS, jobs=given.jobs, edits=given.edits, folder=given.out,
                 parts=given.parts, log=partial(print, flush=True))  # fmt: skip

    return said_in_one_line(work)


if __name__ == "__main__":
    sys.exit(main())
