"""Results of arms as files: `data/results/edits/<model>/<arm>.csv.gz` (scores), `<arm>.json` (configuration, costs)."""

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..editing.changes import option_record
from ..errors import InputError, Literal
from ..files import atomically, write_text
from ..models import Model
from ..result_files import read_table, to_csv
from .arms import Arm

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results" / "edits"


@dataclass(frozen=True, eq=False)
class ArmResult:
    """`scores` as `run_arm` has them; `costs`: means over edits; `provenance`: the configuration, `edits`, and its hash."""

    scores: pd.DataFrame
    costs: dict
    provenance: dict


def configuration(arm: Arm, model: Model, study_hash: str) -> dict:
    """What an arm's rows depend on, beside which edits they are of."""
    return {"arm": arm.id, "editor": arm.editor, "options": option_record(**arm.options), "mode": arm.mode,
            "contexts": arm.contexts, "model": model.hash, "questions": study_hash}  # fmt: skip


def result_paths(arm: str, model: str, folder: str | Path = RESULTS) -> tuple[Path, Path]:
    """The files of an arm's scores and of its configuration."""
    own = Path(folder) / re.sub(r"[^A-Za-z0-9.-]+", "-", str(model)).strip("-")
    return own / f"{arm}.csv.gz", own / f"{arm}.json"


def save_result(result: ArmResult, folder: str | Path = RESULTS) -> None:
    """Both files, written whole or not at all; the configuration last, which makes the result complete."""
    table, path = result_paths(result.provenance["arm"], result.provenance["model_name"], folder)
    # Without a time in its head, equal scores are equal files.
    packed = gzip.compress(to_csv(result.scores).encode(), mtime=0)
    atomically(table, lambda temporary: Path(temporary).write_bytes(packed))
    stored = {"provenance": result.provenance, "costs": result.costs}
    write_text(path, json.dumps(stored, indent=1, ensure_ascii=False) + "\n")


def load_result(arm: Arm, model: Model, study_hash: str | None = None, folder: str | Path = RESULTS) -> ArmResult:
    """A stored result, if it is of these weights and options (and, if given, of these questions).

    Raises `InputError` that names what is missing or differs, with the command that computes it.

    Example
    -------
    >>> load_result(arms(model)["rome"], model).scores
    """
    table, path = result_paths(arm.id, model.name, folder)
    command = f"run python -m knlib.scoreboard.grid --model {model.name} {arm.id}"
    if not path.is_file() or not table.is_file():
        raise InputError(f"{model.name}/{arm.id}", found=Literal("no stored result"), expected=command)
    stored = json.loads(path.read_text("utf8"))
    wanted = configuration(arm, model, study_hash)
    for key, value in wanted.items():
        if stored["provenance"][key] != value and not (key == "questions" and study_hash is None):
            raise InputError(f"{path.name}, {key}", found=stored["provenance"][key], expected=f"{value}: {command}")
    return ArmResult(read_table(table), stored["costs"], stored["provenance"])


def stored_results(model: Model, wanted: dict[str, Arm], folder: str | Path = RESULTS) -> dict[str, ArmResult]:
    """The stored results of a model, by arm, of those that there are; one of other weights or options is not taken.

    Example
    -------
    >>> list(stored_results(model, arms(model)))[:2]
    ['ft_l', 'ft_m']
    """
    there = {name: arm for name, arm in wanted.items() if result_paths(name, model.name, folder)[1].is_file()}
    return {name: load_result(arm, model, folder=folder) for name, arm in there.items()}
