"""Answers kept beside the code: what a shipped model says to a fixed set of queries is computed once, and true of its weights."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pandas as pd

from .facts import candidates
from .files import atomically, write_text
from .models import Model
from .prediction import predict
from .result_files import config_hash, read_table, rounded, to_csv

ANSWERS = Path(__file__).resolve().parents[1] / "data" / "results" / "answers"
FOUND = ["prediction", "correct", "p_answer", "p_prediction"]


def answers_of(
    model: Model, queries: pd.DataFrame, facts: pd.DataFrame, *, recompute: bool = False, folder: str | Path = ANSWERS
) -> tuple[pd.DataFrame, str]:
    """`(predict(model, queries, facts), where from)`: `stored` if all queries are there, of these weights and candidates; else `run here`.

    `folder`: of `store_answers`; nothing is written. `recompute`: run in any case.

    Example
    -------
    >>> answers, source = answers_of(load_model("atlas-gpt2"), sample, facts)
    """
    table, path = _files(model, folder)
    there = not recompute and path.is_file() and table.is_file()
    if there and json.loads(path.read_text("utf8")) == _provenance(model, facts):
        stored, keys = read_table(table).set_index("key"), _keys(queries)
        if keys.isin(stored.index).all():
            found = stored.loc[keys, FOUND].reset_index(drop=True)
            found.insert(0, "query", queries["query"].to_numpy())
            return found, "stored"
    return predict(model, queries, facts), "run here"


def store_answers(
    model: Model, queries: pd.DataFrame, answers: pd.DataFrame, facts: pd.DataFrame, *, folder: str | Path = ANSWERS
) -> None:
    """Keeps what `predict` gave for the queries, row by row, probabilities to 5 digits.

    Example
    -------
    >>> store_answers(model, sample, predict(model, sample, facts), facts)
    """
    kept = rounded(answers[FOUND]).assign(key=_keys(queries).to_numpy()).drop_duplicates("key")
    table, path = _files(model, folder)
    # Without a time in its head, equal answers are equal files.
    packed = gzip.compress(to_csv(kept[["key", *FOUND]]).encode(), mtime=0)
    atomically(table, lambda temporary: Path(temporary).write_bytes(packed))
    write_text(path, json.dumps(_provenance(model, facts), indent=1) + "\n")


def _files(model: Model, folder: str | Path) -> tuple[Path, Path]:
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", model.name).strip("-")
    return Path(folder) / f"{name}.csv.gz", Path(folder) / f"{name}.json"


def _provenance(model: Model, facts: pd.DataFrame) -> dict:
    """What an answer depends on beside its query: the weights, and the names that it was chosen from."""
    codes = sorted({code for names in facts["object"] for code in names})
    names = {
        f"{relation} {code}": candidates(facts, relation, code)
        for relation in facts["relation"].unique()
        for code in codes
    }
    return {"model": model.hash, "candidates": config_hash(names)}


def _keys(queries: pd.DataFrame) -> pd.Series:
    """12 hex digits of what each query asks."""
    columns = ["query", "relation", "language", "prompt", "space", "answer", "suffix"]
    rows = zip(*(queries[column] for column in columns), strict=True)
    return pd.Series([hashlib.sha256("\0".join(row).encode()).hexdigest()[:12] for row in rows], dtype=str)
