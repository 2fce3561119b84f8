"""What runs the cells of the study: `python -m knlib.query_localization.grid` runs all that have no result yet.

Rows are computed by chunks of facts that are kept under runs/: a killed run goes on, and ends with the same bytes.
"""

import argparse
import io
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..attribution import query_hash
from ..errors import InputError, Literal, said_in_one_line
from ..files import write_text
from ..models import Model, load_model
from ..queries import load_atlas
from ..result_files import config_hash, read_table, rounded, to_csv
from . import cas_editing, consistency, mapping, modification, synapse_effects
from .cells import CELLS, SLOTS, Cell
from .results import RESULTS, Result, load_result, save_result
from .study import Study, load_study

ROOT = Path(__file__).resolve().parents[2]
PARTS = ROOT / "runs" / "ql"
FACTS_EACH = 43  # of every relation: with seven relations more than 300


@dataclass(frozen=True)
class Experiment:
    """`prepare(study, options, inputs)` makes what all chunks need, `rows(study, options, prepared, facts)` the rows of some
    facts, whatever the others, and `summary(study, options, rows)` estimates that JSON can hold; `defaults`: options that
    the cell does not set."""

    defaults: dict
    prepare: Callable
    rows: Callable
    summary: Callable
    facts_per_chunk: int = 10


EXPERIMENTS = {
    module.__name__.rpartition(".")[2]: Experiment(module.DEFAULTS, module.prepare, module.rows, module.summary)
    for module in (consistency, modification, mapping, synapse_effects, cas_editing)
}


def options_of(cell: Cell) -> dict:
    return EXPERIMENTS[cell.experiment].defaults | cell.options


def configuration(cell: Cell, study: Study, inputs: dict[str, Result]) -> dict:
    """What the cell's result depends on."""
    return {
        "cell": cell.id, "experiment": cell.experiment, "options": options_of(cell), "study": study.options,
        "model": study.model.hash, "queries": query_hash(study.queries), "facts": len(study.names),
        "inputs": {name: result.provenance["hash"] for name, result in inputs.items()},
    }  # fmt: skip


def run_cell(
    cell: Cell,
    study: Study,
    inputs: dict[str, Result],
    *,
    facts: Sequence[str] | None = None,
    parts: Path | None = None,
    progress: bool = False,
) -> Result:
    """The cell's result on the study's facts, or on some of them.

    `inputs`: results of the cells that it names. `parts`: a folder for finished chunks; a run with the same configuration goes
    on from them. Raises `InputError` for facts that the study lacks.

    Example
    -------
    >>> run_cell(CELLS["C1"], study, {"A1": consistency}, facts=study.names[:10]).summary
    """
    names = study.names if facts is None else list(facts)
    strange = [name for name in names if name not in set(study.names)]
    if strange:
        raise InputError("facts", found=strange[0], expected="facts of the study")
    config = configuration(cell, study, inputs)
    experiment, options = EXPERIMENTS[cell.experiment], options_of(cell)
    size = experiment.facts_per_chunk
    chunks = [names[i : i + size] for i in range(0, len(names), size)]
    folder = parts / config_hash(config) if parts is not None else None
    prepared, tables = None, []
    with tqdm(total=len(names), unit="fact", disable=not progress, desc=cell.id) as bar:
        for chunk in chunks:
            path = folder / f"{config_hash({'facts': chunk})}.csv" if folder is not None else None
            if path is not None and path.exists():
                text = path.read_text("utf8")
            else:
                prepared = experiment.prepare(study, options, inputs) if prepared is None else prepared
                text = to_csv(rounded(experiment.rows(study, options, prepared, chunk)))
                if path is not None:
                    write_text(path, text)
            # Read back in any case: a run that was killed and one that was not must end alike.
            tables.append(read_table(io.StringIO(text)))
            bar.update(len(chunk))
    rows = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    provenance = config | {"hash": config_hash(config), "model_name": study.model.name, "dropped": study.dropped}
    return Result(rows, experiment.summary(study, options, rows), provenance)


def run_grid(
    ids: Sequence[str],
    models: dict[str, str],
    *,
    folder: Path = RESULTS,
    parts: Path = PARTS,
    fresh: bool = False,
    save: bool = True,
    facts_each: int = FACTS_EACH,
    log: Callable[[str], None] = print,
) -> dict[str, Result]:
    """Results of cells and of those that they need: stored ones, and what has none is run on `facts_each` facts a relation.

    `models`: slot -> model name; only cells of these slots. `fresh`: run `ids` also where there is a result. `save`: keep new results in
    `folder`; notebooks do not, their chunks stay in `parts`. `log` gets one line for each cell.

    Example
    -------
    >>> results = run_grid(["C1"], {"G": "atlas-gpt2"})
    >>> list(results)
    ['A1', 'C1']
    """
    ids = [name for name in ids if CELLS[name].slot in models]
    wanted = [name for name in CELLS if name in ids or any(name in CELLS[i].inputs for i in ids)]
    done: dict[str, Result] = {}
    for number, name in enumerate(wanted, 1):
        cell = CELLS[name]
        head = f"{number} of {len(wanted)}: {name} {models[cell.slot]} {cell.experiment} {_words(cell.options)}"
        inputs = {i: done[i] for i in cell.inputs}
        try:
            if fresh and name in ids:
                raise InputError(name, found=Literal("a stored result"), expected="a new run")
            done[name] = load_result(cell, options_of(cell), _model(models[cell.slot]), folder, inputs=inputs)
            log(f"{head}: stored")
        except InputError:
            log(head)
            study = _study(models[cell.slot], facts_each)
            done[name] = run_cell(cell, study, inputs, parts=parts / name, progress=sys.stderr.isatty())
            if save:
                save_result(done[name], cell, folder)
                shutil.rmtree(parts / name, ignore_errors=True)
    return done


def run_side_by_side(
    ids: Sequence[str], models: dict[str, str], jobs: int, log: Callable[[str], None], **options
) -> None:
    """As `run_grid`, `jobs` cells at a time, each in a process of its own on one thread."""
    ids = [name for name in ids if CELLS[name].slot in models]
    todo = [cell for cell in CELLS.values() if cell.id in ids or any(cell.id in CELLS[i].inputs for i in ids)]
    total, done, running = len(todo), [], {}
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in mid-work
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while todo or running:
            ready = [cell for cell in todo if set(cell.inputs) <= set(done)]
            todo = [cell for cell in todo if cell not in ready]
            running |= {pool.submit(_run_one, cell.id, models, **options): cell.id for cell in ready}
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done.append(running.pop(future))
                log(f"{len(done)} of {total} done: {future.result()}")


def _run_one(name: str, models: dict[str, str], **options) -> str:
    lines, start = [], time.perf_counter()
    run_grid([name], models, log=lines.append, **options)
    return f"{lines[-1].partition(': ')[2]} ({time.perf_counter() - start:.0f} s)"


@cache
def _study(name: str, facts_each: int) -> Study:
    return load_study(_model(name), *load_atlas(languages=("en",)), facts_each=facts_each)


@cache
def _model(name: str) -> Model:
    return load_model(name)


def _words(options: dict) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items())


def parse_slots(texts: Sequence[str]) -> dict[str, str]:
    """`G=name` and so on, on top of the shipped models; `InputError` for other slots."""
    models = dict(SLOTS)
    for text in texts:
        slot, equals, name = text.partition("=")
        if slot not in SLOTS or not equals or not name:
            raise InputError("--model", found=text, expected="SLOT=MODEL with a slot of " + " ".join(SLOTS))
        models[slot] = name
    return models


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cells", nargs="*", metavar="ID", help="cells to run, e.g. D3 (default: all 39)")
    parser.add_argument(
        "--model", action="append", default=[], metavar="SLOT=MODEL", help="another model for G, L or B"
    )
    parser.add_argument(
        "--facts-each", type=int, default=FACTS_EACH, help=f"known facts per relation (default: {FACTS_EACH})"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="where results go (default: data/results/ql)")
    parser.add_argument("--fresh", action="store_true", help="run also what has a result")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, each on one thread (default: 1, on all)")
    arguments = parser.parse_args(argv)

    def work():
        for name in arguments.cells:
            if name not in CELLS:
                raise InputError("cell", found=name, expected=Literal("one of " + " ".join(CELLS)))
        if arguments.jobs < 1:
            raise InputError("--jobs", found=arguments.jobs, expected="1 or more")
        run = run_grid if arguments.jobs == 1 else partial(run_side_by_side, jobs=arguments.jobs)
        run(
            arguments.cells or list(CELLS), parse_slots(arguments.model), folder=arguments.out, fresh=arguments.fresh,
            facts_each=arguments.facts_each, log=partial(print, flush=True),
        )  # fmt: skip

    return said_in_one_line(work)


if __name__ == "__main__":
    sys.exit(main())
