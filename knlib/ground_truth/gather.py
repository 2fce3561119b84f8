"""From the pieces of a finished run to its tables."""

import json

import pandas as pd

from ..query_relevant import localizers as letter_localizers
from .consistency import NAMES
from .direct import DIRECT
from .estimates import agreement_board, board, calibration, confusion, curves
from .letters import PREFIX
from .metrics import MEASURES
from .parts import PAIR_CHUNKS, Plan, chunks, natural_chunks, selected_facts, stored
from .results import TABLES
from .scorers import facts_of, rows, scores
from .selection import COLUMNS as SELECTION
from .study import GroundStudy


def collected(plan: Plan, left_out: dict[str, str]) -> tuple[dict[str, pd.DataFrame], dict]:
    """The tables of `TABLES`, and what they are of. `left_out`: row -> why it has no result."""
    study = plan.study
    parts = row_parts(plan, left_out)
    tables, stable, decisions, costs = [], [], [], []
    kinds = study.facts.set_index("fact")["kind"]
    for row, own in parts.items():
        heads = [stored(plan, "measures", row, part, ".json") for part in own]
        tables += [stored(plan, "measures", row, part, ".csv").assign(row=row) for part in own]
        if not row.startswith(PREFIX):
            stable += [stored(plan, "measures", row, part, ".stability.csv").assign(row=row) for part in own]
        decisions += [(row, fact, kinds[fact], what) for head in heads for fact, what in head["decisions"].items()]
        costs.append(_cost(plan, row, heads))
    measured = _together(tables, ["row", "fact", "scope", *MEASURES])
    measured["kind"] = measured["fact"].map(kinds)
    stable = _together(stable, ["row", "fact", "scope", "bin", "stated", "neurons", "true"])
    decided = pd.DataFrame(decisions, columns=["row", "fact", "kind", "decision"])
    agreed = [stored(plan, "agreement", name, part, ".csv").assign(scores=name)
              for name in scores() if name not in left_out or not facts_of(name, study.facts, study.model)
              for part in natural_chunks(plan)]  # fmt: skip
    agreed = _together(agreed, ["scores", "fact", "spearman", "top"])
    found = {
        "board": board(measured), "facts": measured[["row", "fact", "kind", "scope", *MEASURES]], "curves": curves(measured),
        "confusion": confusion(decided), "calibration": calibration(stable), "costs": pd.DataFrame(costs),
        "consistency": _consistency(plan, left_out, kinds), "agreement": agreed, "agreement_board": agreement_board(agreed),
        "selection": _pieces(plan, "selection", "synapses", chunks(selected_facts(study)), left_out, SELECTION),
        "pairs": _pieces(plan, "pairs", "pairs", natural_chunks(plan)[:PAIR_CHUNKS], left_out, ["query"]),
    }  # fmt: skip
    return {name: found[name] for name in TABLES}, provenance(study, left_out, list(parts))


def row_parts(plan: Plan, left_out: dict[str, str]) -> dict[str, list]:
    """Row -> the keys of its pieces, for all rows that were not left out."""
    study = plan.study
    found = {
        row: chunks(facts_of(name, study.facts, study.model))
        for row, (name, _) in rows().items()
        if name not in left_out
    }
    found |= {row: chunks(study.facts["fact"].tolist()) for row in DIRECT}
    found |= {PREFIX + name: ["letters"] for name in letter_localizers.names()}
    return {row: parts for row, parts in found.items() if row not in left_out}


def provenance(study: GroundStudy, left_out: dict[str, str], names: list[str]) -> dict:
    return {"model": study.model.hash, "model_name": study.model.name, "study": study.hash, "rows": names, "left_out": left_out,
            "facts": {str(k): int(v) for k, v in study.facts["kind"].value_counts(sort=False).items()},
            "queries": len(study.queries), "natural": len(study.natural), "gates": study.gates}  # fmt: skip


def _together(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    kept = [table for table in tables if len(table)]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=columns)


def _cost(plan: Plan, row: str, heads: list[dict]) -> dict:
    """Seconds and passes of a fact: of the score that a row starts from, and of the localizer."""
    facts = sum(head["facts"] for head in heads)
    seconds, passes = (sum(head[key] for head in heads) / facts for key in ("seconds", "passes"))
    start = rows().get(row, (None,))[0]
    paths = sorted((plan.folder / "costs" / str(start)).glob("*.json")) if start else []
    own = [cost for path in paths if (cost := json.loads(path.read_text("utf8"))) and cost["planted"]]
    known = sum(cost["facts"] for cost in own)
    if known:
        seconds += sum(cost["seconds"] for cost in own) / known
        passes += sum(cost["passes"] for cost in own) / known
    return {"row": row, "seconds": seconds, "passes": passes, "facts": facts, "of": len(plan.study.facts)}


def _consistency(plan: Plan, left_out: dict[str, str], kinds: pd.Series) -> pd.DataFrame:
    study = plan.study
    tables = [stored(plan, "consistency", name, part, ".csv").assign(scores=name) for name in scores() if name not in left_out
              for part in chunks(facts_of(name, study.facts, study.model))]  # fmt: skip
    table = _together(tables, ["scores", "fact", *NAMES])
    table["kind"] = table["fact"].map(kinds)
    return table[["scores", "fact", "kind", *NAMES]]


def _pieces(plan: Plan, kind: str, name: str, keys: list, left_out: dict, columns: list[str]) -> pd.DataFrame:
    return _together([stored(plan, kind, name, key, ".csv") for key in keys if name not in left_out], columns)
