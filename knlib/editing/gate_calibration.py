"""What a cache's gate goes by: a probe of relations and a threshold per language, from prompts that should hit and others."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ..errors import InputError
from ..models import Model
from .cache import Entry, Gate, end_states
from .relation_probe import RelationProbe, can_fit, left_out_margins

NEGATIVE_COLUMNS = ("fact", "relation", "language", "prompt")
LEAST_COSINE = 0.8  # where there is nothing to fit a probe on


def check_negatives(negatives: pd.DataFrame | None) -> None:
    """Raises `InputError` for what is no table with `NEGATIVE_COLUMNS`, and for other than text in them; None is right.

    Example
    -------
    >>> check_negatives(negatives)
    """
    if negatives is None:
        return
    if not isinstance(negatives, pd.DataFrame) or not set(NEGATIVE_COLUMNS) <= set(negatives):
        found = list(negatives) if isinstance(negatives, pd.DataFrame) else type(negatives).__name__
        raise InputError("negatives", found=found, expected="a table with columns " + " ".join(NEGATIVE_COLUMNS))
    for column in NEGATIVE_COLUMNS:
        for value in negatives[column]:
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"negatives, {column}", found=value, expected="text")


def gate_of(
    model: Model, entries: Sequence[Entry], rows: pd.DataFrame, ends: torch.Tensor, layer: int,
    negatives: pd.DataFrame | None, hits: float,
) -> tuple[RelationProbe | None, dict[str, float], dict[str, dict]]:  # fmt: skip
    """The probe, language -> threshold, and language -> {`threshold`, `hits`, `false`} as a report.

    `rows` of `prompt_rows`, `ends` their states behind `layer` [rows, width]; `negatives` with `NEGATIVE_COLUMNS`. The
    threshold keeps a share `hits` of a language's rows when their templates (column `template`, or the number of the prompt
    in its edit and language) are left out of the fit, and is 0 at most: the entry's own relation is the most probable.
    In the report: the share of such rows that hits, and of negatives about an entry's subject; None without any.
    Without negatives, or where all ask for one relation, there is no probe, and `LEAST_COSINE` in every language.

    Example
    -------
    >>> probe, thresholds, report = gate_of(model, entries, rows, ends, 4, negatives, 0.98)
    >>> report["en"]
    {'threshold': 0.0, 'hits': 1.0, 'false': 0.0}
    """
    languages = list(dict.fromkeys(rows["language"]))
    asked = [_asked(rows, "edit")] + ([] if negatives is None else [_asked(negatives, "fact")])
    table = pd.concat(asked, ignore_index=True)
    if len(table) == len(rows) or not can_fit(table["relation"].tolist()):
        report = {code: {"threshold": LEAST_COSINE, "hits": None, "false": None} for code in languages}
        return None, dict.fromkeys(languages, LEAST_COSINE), report
    states = torch.cat([ends, end_states(model, negatives["prompt"], layer)])
    probe, margins = RelationProbe.fit(states, table["relation"].tolist()), left_out_margins(states, table)
    number = {name: i for i, name in enumerate(probe.names)}
    own = [(i, table.at[i, "language"], table.at[i, "relation"]) for i in range(len(rows))]
    other = [(len(rows) + i, table.at[len(rows) + i, "language"], entry.relation)
             for i, entry in _named(model, entries, layer, negatives["prompt"])]  # fmt: skip
    thresholds, report = {}, {}
    for code in languages:
        right, wrong = (
            np.array([margins[i, number[relation]] for i, language, relation in group if language == code])
            for group in (own, other)
        )
        right, wrong = right[~np.isnan(right)], wrong[~np.isnan(wrong)]
        thresholds[code] = min(0.0, float(np.quantile(right, 1 - hits, method="lower"))) if len(right) else 0.0
        shares = [float((found >= thresholds[code]).mean()) if len(found) else None for found in (right, wrong)]
        report[code] = {"threshold": thresholds[code], "hits": shares[0], "false": shares[1]}
    return probe, thresholds, report


def _asked(table: pd.DataFrame, owner: str) -> pd.DataFrame:
    """Relation, language and template of prompts; those without a template are numbered within owner and language."""
    template = table.groupby([owner, "language"]).cumcount().astype(str)
    if "template" in table:
        template = table["template"].where(table["template"].notna(), template)
    return table[["relation", "language"]].assign(template=template)


def _named(model: Model, entries: Sequence[Entry], layer: int, prompts: pd.Series) -> list[tuple[int, Entry]]:
    """(number of a prompt, entry whose subject it names); those that name none never get in, and do not count."""
    gate, found = Gate(model, entries, layer, {}, semantic=False), []
    for i, prompt in enumerate(prompts):
        ids = torch.tensor(model.pieces(prompt))
        named = gate.named(ids, torch.ones_like(ids), [len(ids) - 1])
        found += [(i, gate.entries[entry]) for _, _, entry in named]
    return found
