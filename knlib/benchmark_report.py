"""What a benchmark build kept and dropped, as text and as a table, and the files of the benchmark."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .accuracy import majority
from .benchmark_sources import LICENCE
from .errors import InputError, Literal
from .files import write_text

PARTS = {
    "names": "Names (one row: a fact's subject and object in one language)",
    "templates": "Templates (one row: a pattern)",
    "queries": "Queries (one row: a fact and a template that passed by themselves)",
}
REPORTED_FROM = 3  # paraphrases per relation and language that a published comparison should have


@dataclass(frozen=True)
class Benchmark:
    """Rows of the two files, and what became of every row that was read.

    `outcomes`: `part` (`templates`: patterns; `names`: a fact's names in a language, per source; `queries`: pairs of
    a fact and a template), `relation`, `language`, `outcome` (`kept`, or the gate that dropped it), `rows`. Every row of
    the input has exactly one outcome. `positions`: `language`, `position` of the answer slot (`last`, `inside`,
    `first`, `broken`), `rows`. `tokens`: `language`, `object`, `tokens`, `unknown`; empty without a tokenizer.
    `options`: what `build_benchmark` was called with.
    """

    facts: list[dict]
    templates: list[dict]
    outcomes: pd.DataFrame
    positions: pd.DataFrame
    tokens: pd.DataFrame
    options: dict


def report_text(benchmark: Benchmark) -> str:
    """The build report in Markdown: counts by gate, by language, by relation, identical answers, licence."""
    facts = pd.DataFrame([
        {"fact": row["fact"], "relation": row["relation"], "object_id": row["object"]["id"],
         "many_valued": row["n_objects"] > 1} for row in benchmark.facts
    ])  # fmt: skip
    templates = pd.DataFrame(benchmark.templates)
    lines = ["# Build report", "", f"Licence: {LICENCE}", ""]
    lines += [f"- {name}: {value}" for name, value in benchmark.options.items() if value is not None]
    for part, title in PARTS.items():
        rows = benchmark.outcomes[benchmark.outcomes["part"] == part]
        counts = rows.groupby("outcome")["rows"].sum()
        dropped = counts.drop("kept").sort_values(ascending=False)
        table = pd.DataFrame([("in", rows["rows"].sum()), *dropped.items(), ("kept", counts["kept"])],
                             columns=["outcome", "rows"])  # fmt: skip
        lines += ["", f"## {title}", "", _markdown(table)]
    lines += ["", "## Languages", "", _markdown(_languages(benchmark, templates))]
    lines += ["", "## Relations", "", _markdown(_relations(facts, templates))]
    lines += ["", "## Identical answers", "",
              "Share of the facts that both languages ask whose answer is spelled alike (case aside), in %.", "",
              _markdown((100 * same_answer(benchmark)).round(0).reset_index(names=""))]  # fmt: skip
    if len(benchmark.tokens):
        unknown = benchmark.tokens[benchmark.tokens["unknown"]]
        found = unknown["language"] + " " + unknown["object"]
        lines += ["", "## Tokenizer", "", f"{len(unknown)} of {len(benchmark.tokens)} answers have an unknown token"
                  + (": " + ", ".join(found[:20]) + (", ..." if len(found) > 20 else "") if len(found) else "") + "."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _languages(benchmark: Benchmark, templates: pd.DataFrame) -> pd.DataFrame:
    """By language: where patterns have their answer, what was read and kept, tokens per answer if known."""
    counts = benchmark.outcomes.pivot_table(index=["language", "part"], columns="outcome", values="rows", aggfunc="sum")
    read, kept = counts.sum(axis=1).unstack("part"), counts["kept"].unstack("part")
    places = benchmark.positions.pivot_table(index="language", columns="position", values="rows", aggfunc="sum")
    last = places["last"] if "last" in places else pd.Series(0, places.index)
    cells = templates.groupby(["language", "relation"]).size()
    codes = benchmark.options["languages"].split()
    table = pd.DataFrame({
        "patterns": read["templates"], "answer last %": (100 * last / places.sum(axis=1)).round(0),
        "templates kept": kept["templates"], "names": read["names"], "names kept": kept["names"],
        "queries kept": kept.get("queries"),
        f"relations with {REPORTED_FROM}+ templates": (cells >= REPORTED_FROM).groupby("language").sum(),
    }, index=codes)  # fmt: skip
    if len(benchmark.tokens):
        table["tokens per answer"] = benchmark.tokens.groupby("language")["tokens"].mean().round(1)
    return table.fillna(0).reset_index(names="language")


def _relations(facts: pd.DataFrame, templates: pd.DataFrame) -> pd.DataFrame:
    """By relation: facts, distinct objects, accuracy of always naming the commonest, facts with several right objects."""
    table = facts.groupby("relation").agg(
        facts=("fact", "size"), objects=("object_id", "nunique"), several_objects=("many_valued", "sum")
    )
    table["majority %"] = (100 * majority(facts)).round(0)
    fewest = templates.groupby(["relation", "language"]).size().groupby("relation").min()
    held_out = (templates["split"] == "held_out").groupby([templates["relation"], templates["language"]]).any()
    table["fewest templates"] = fewest
    table["languages with a held-out split"] = held_out.groupby("relation").sum()
    return table.reset_index()


def same_answer(benchmark: Benchmark) -> pd.DataFrame:
    """Share of facts whose answer is spelled alike in two languages, languages x languages, over facts that both ask."""
    codes = benchmark.options["languages"].split()
    names = pd.DataFrame([{code: row["object"][code][0].casefold() for code in codes if code in row["object"]}
                          for row in benchmark.facts], columns=codes)  # fmt: skip
    both = {a: {b: names[a].notna() & names[b].notna() for b in codes} for a in codes}
    return pd.DataFrame({a: {b: (names[a] == names[b])[both[a][b]].mean() for b in codes} for a in codes})


def _markdown(table: pd.DataFrame) -> str:
    cells = [list(table.columns), ["---"] * table.shape[1]]
    cells += [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def _cell(value) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def write_benchmark(benchmark: Benchmark, folder: str | Path) -> None:
    """Write `facts.jsonl`, `templates.jsonl`, `report.md`, `report.csv`; each whole or not at all.

    Raises `InputError` where the folder holds facts that no build wrote (Atlas, or your own).
    """
    folder = Path(folder)
    if (folder / "facts.jsonl").exists() and not (folder / "report.csv").exists():
        raise InputError(folder, found=Literal("a facts.jsonl that was not built here"), expected="another folder")
    files = {
        "report.csv": benchmark.outcomes.to_csv(index=False, lineterminator="\n"),
        "report.md": report_text(benchmark),
        "templates.jsonl": _jsonl(benchmark.templates),
        "facts.jsonl": _jsonl(benchmark.facts),
    }
    try:
        for name, text in files.items():
            write_text(folder / name, text)
    except OSError as error:
        raise InputError(folder, found=Literal(error.strerror or str(error)), expected="a folder to write to") from None


def _jsonl(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
