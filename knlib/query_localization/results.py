"""Results of cells as files: `data/results/ql/<model>/<id>.csv` (rows) and `<id>.json` (configuration, estimates)."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..errors import InputError, Literal
from ..files import write_text
from ..models import Model
from ..result_files import read_table, to_csv
from .cells import Cell

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results" / "ql"


@dataclass(frozen=True, eq=False)
class Result:
    """`rows` as the experiment documents them; `summary`: its estimates; `provenance`: configuration and hash."""

    rows: pd.DataFrame
    summary: dict
    provenance: dict


def result_paths(cell: Cell, model: str, folder: str | Path = RESULTS) -> tuple[Path, Path]:
    """The files of a cell's rows and of its summary."""
    own = Path(folder) / re.sub(r"[^A-Za-z0-9.-]+", "-", str(model)).strip("-")
    return own / f"{cell.id}.csv", own / f"{cell.id}.json"


def save_result(result: Result, cell: Cell, folder: str | Path = RESULTS) -> None:
    """Both files, written whole or not at all; the summary last, which makes the result complete."""
    table, summary = result_paths(cell, result.provenance["model_name"], folder)
    write_text(table, to_csv(result.rows))
    stored = {"provenance": result.provenance, "summary": result.summary}
    write_text(summary, json.dumps(stored, indent=1, ensure_ascii=False) + "\n")


def load_result(
    cell: Cell, options: dict, model: Model, folder: str | Path = RESULTS, *, inputs: dict[str, Result] | None = None
) -> Result:
    """A stored result, if it is of these weights, of these options and of these inputs.

    Raises `InputError` that names what is missing or differs, with the command that computes it.

    Example
    -------
    >>> load_result(CELLS["A1"], options_of(CELLS["A1"]), load_model("atlas-gpt2")).summary
    """
    table, path = result_paths(cell, model.name, folder)
    command = f"run python -m knlib.query_localization.grid --model {cell.slot}={model.name} {cell.id}"
    if not path.is_file() or not table.is_file():
        raise InputError(f"{model.name}/{cell.id}", found=Literal("no stored result"), expected=command)
    stored = json.loads(path.read_text("utf8"))
    wanted = {"model": model.hash, "experiment": cell.experiment, "options": options}
    if inputs is not None:
        wanted["inputs"] = {name: result.provenance["hash"] for name, result in inputs.items()}
    for key, value in wanted.items():
        if stored["provenance"][key] != value:
            raise InputError(f"{path.name}, {key}", found=stored["provenance"][key], expected=f"{value}: {command}")
    return Result(read_table(table), stored["summary"], stored["provenance"])
