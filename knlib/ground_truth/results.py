"""The tables of a scoreboard as files: data/results/ground_truth/<model>/<table>.csv, with `result.json` last."""

import json
import re
from pathlib import Path

import pandas as pd

from ..errors import InputError, Literal
from ..files import write_text
from ..models import Model
from ..result_files import read_table, rounded, to_csv

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results" / "ground_truth"
TABLES = (
    "board",
    "facts",
    "curves",
    "confusion",
    "calibration",
    "costs",
    "consistency",
    "agreement",
    "agreement_board",
    "selection",
    "pairs",
)


def folder_of(model: str, folder: Path = RESULTS) -> Path:
    return Path(folder) / re.sub(r"[^A-Za-z0-9.-]+", "-", Path(model).name).strip("-")


def save_results(tables: dict[str, pd.DataFrame], provenance: dict, folder: Path = RESULTS) -> Path:
    """Write all tables and then what they are of, each whole or not at all; returns the model's folder."""
    own = folder_of(provenance["model_name"], folder)
    for name in TABLES:
        write_text(own / f"{name}.csv", to_csv(rounded(tables[name])))
    write_text(own / "result.json", json.dumps(provenance, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    return own


def load_results(model: Model, folder: Path = RESULTS) -> tuple[dict[str, pd.DataFrame], dict]:
    """The tables of `TABLES` by name, and their provenance, if they are of these weights.

    - `board`: `row`, `kind`, `scope`, `measure`, `estimate`, `low`, `high`, `facts`; `facts`: the measures of every fact
    - `curves`, `confusion`, `calibration`: of `knlib.ground_truth.estimates`
    - `costs`: `row`, `seconds` and `passes` (rows through the last FFN) per fact, `every`: so many-th fact is scored
    - `consistency`: the scores of every fact, by `scores`; `agreement`: with the oracle on natural facts, by `scores`
    - `selection`: of `synapse_selection`; `pairs`: of `pair_interactions`

    `provenance["left_out"]`: row -> why the model has none. Raises `InputError` for missing results, or those of other weights.

    Example
    -------
    >>> tables, provenance = load_results(load_model("planted-llama"))
    """
    own = folder_of(model.name, folder)
    if not (own / "result.json").is_file():
        raise InputError(own.name, found=Literal("no stored scoreboard"),
                         expected=f"run python -m knlib.ground_truth.scoreboard --model {model.name}")  # fmt: skip
    provenance = json.loads((own / "result.json").read_text("utf8"))
    if provenance["model"] != model.hash:
        raise InputError(f"scoreboard of {own.name}", found=Literal(f"weights {provenance['model']}"),
                         expected=f"{model.hash} of {model.name}")  # fmt: skip
    return {name: read_table(own / f"{name}.csv") for name in TABLES}, provenance
