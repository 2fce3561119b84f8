"""Build a parallel benchmark, in the format of Atlas, from the mLAMA and mParaRel files that you have.

`python -m knlib.benchmark_builder SOURCE OUT --languages en,de,fr --relations P19,P36` writes `facts.jsonl`,
`templates.jsonl`, `report.md` and `report.csv` into OUT. It loads like Atlas: `load_facts(OUT)`, `load_templates(OUT)`.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import pandas as pd

from .benchmark_gates import Candidate, choose_templates, keep_parallel, merge_names, refuse, slot_position, tidy
from .benchmark_report import Benchmark, report_text, write_benchmark
from .benchmark_sources import Source, read_source
from .errors import InputError, Literal, said_in_one_line
from .facts import COLUMNS
from .queries import MODES, SPLITS, TEMPLATE_COLUMNS, build_queries


def build_benchmark(
    source: Source,
    *,
    mode: str = "causal",
    min_queries: int = 2,
    min_languages: int | None = None,
    cap: int | None = None,
    tokenizer=None,
) -> Benchmark:
    """The facts and templates of `source` that pass the gates (`knlib.benchmark_gates`), relation by relation.

    `mode`: `causal` keeps templates that end with the answer, `mlm` also those with words behind it. `min_queries`: per
    fact and language, 2 or more (paraphrases). `min_languages`: how many languages must be able to ask a fact, default
    all; a fact loses the languages that cannot. `cap`: at most so many facts per relation and object, the first ones.
    `tokenizer` (a transformers one): drops answers with an unknown token, counts the tokens of each.

    Raises `InputError` for options out of range, and if nothing is left.

    Example
    -------
    >>> source = read_source("datasets/mlama_mpararel", languages="en,de,fr", relations=["P36"])  # doctest: +SKIP
    >>> build_benchmark(source).outcomes.groupby(["part", "outcome"])["rows"].sum()  # doctest: +SKIP
    """
    least = len(source.languages) if min_languages is None else min_languages
    if mode not in MODES:
        raise InputError("mode", found=mode, expected=Literal("one of " + " ".join(MODES)))
    if min_queries < 2:
        raise InputError("min_queries", found=min_queries, expected="2 or more: a fact needs paraphrases")
    if not 1 <= least <= len(source.languages):
        raise InputError("min_languages", found=least, expected=f"1 to {len(source.languages)}, the languages chosen")
    if cap is not None and cap < 1:
        raise InputError("cap", found=cap, expected="1 or more")

    names, patterns = (dict(tuple(table.groupby("relation"))) for table in (source.names, source.patterns))
    outcomes, tokens, facts, templates = Counter(), {}, [], []

    def unknown(code: str, name: str) -> bool:
        if tokenizer is not None and (code, name) not in tokens:
            ids = tokenizer(name, add_special_tokens=False)["input_ids"]
            tokens[code, name] = (len(ids), tokenizer.unk_token_id in ids)
        return tokenizer is not None and tokens[code, name][1]

    for relation in source.relations:

        def drop_pattern(code, gate, relation=relation):
            outcomes["templates", relation, code, gate] += 1

        def drop_name(code, gate, relation=relation):
            outcomes["names", relation, code, gate] += 1

        asked = choose_templates(relation, patterns.get(relation, source.patterns[:0]), mode=mode,
                                 at_least=min_queries, drop=drop_pattern)  # fmt: skip
        found = merge_names(names.get(relation, source.names[:0]), drop=drop_name)
        refuse(found, asked={row["language"] for row in asked}, unknown=unknown, drop=drop_name)
        # Only facts that may still be parallel are asked: most are not, and asking is what takes time.
        found = keep_parallel(found, at_least=least, cap=None, drop=drop_name)
        queries, report = build_queries(_facts_table(found, relation), _templates_table(asked), splits=SPLITS)
        counts = Counter(zip(queries["fact"], queries["language"], strict=True))
        for fact in found:
            for code in list(fact.subject):
                if counts[_key(relation, fact), code] < min_queries:
                    fact.lose(code)
                    drop_name(code, "few_queries")
        kept = keep_parallel(found, at_least=least, cap=cap, drop=drop_name)

        rows = [_row(relation, fact, source.languages) for fact in kept]
        pairs = {(row["fact"], code) for row in rows for code in row["subject"] if code != "id"}
        used = {code for _, code in pairs}
        for _, code in pairs:
            outcomes["names", relation, code, "kept"] += 1
        for row in asked:
            outcomes["templates", relation, row["language"], "kept" if row["language"] in used else "no_facts"] += 1
        for key, number in counts.items():
            outcomes["queries", relation, key[1], "kept" if key in pairs else "fact_dropped"] += number
        for row in report.to_dict("records"):
            for gate in ("no_name", "object_in_prompt", "duplicate"):
                outcomes["queries", relation, row["language"], gate] += row[gate]
        facts += rows
        templates += [row for row in asked if row["language"] in used]

    if not facts:
        raise InputError("benchmark", found=Literal("no fact that passes the gates"),
                         expected="other languages or relations, or a smaller number of languages at least")  # fmt: skip
    positions = Counter((row.language, slot_position(tidy(row.pattern))) for row in source.patterns.itertuples())
    return Benchmark(
        facts, templates,
        _table(outcomes, ["part", "relation", "language", "outcome"]),
        _table(positions, ["language", "position"]),
        pd.DataFrame([(*key, *value) for key, value in tokens.items()], columns=["language", "object", "tokens", "unknown"]),
        {"languages": " ".join(source.languages), "relations": " ".join(source.relations), "mode": mode,
         "min_queries": min_queries, "min_languages": least, "cap": cap},
    )  # fmt: skip


def _key(relation: str, fact: Candidate) -> str:
    return f"{relation}:{fact.subject_id}"


def _row(relation: str, fact: Candidate, languages: tuple[str, ...]) -> dict:
    """A row of facts.jsonl."""
    codes = [code for code in languages if code in fact.subject]
    return {
        "fact": _key(relation, fact), "relation": relation,
        "subject": {"id": fact.subject_id, **{code: fact.subject[code] for code in codes}},
        "object": {"id": fact.object_id, **{code: fact.object[code] for code in codes}},
        "source": "mLAMA, mParaRel", "n_objects": fact.n_objects,
    }  # fmt: skip


def _facts_table(facts: list[Candidate], relation: str) -> pd.DataFrame:
    """The candidates as `load_facts` would give them: build_queries reads no other form."""
    rows = [{"fact": _key(relation, fact), "relation": relation, "subject": fact.subject,
             "object": {code: tuple(names) for code, names in fact.object.items()}, "leak": (), "ambiguous": ()}
            for fact in facts]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _templates_table(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=TEMPLATE_COLUMNS)


def _table(counts: Counter, columns: list[str]) -> pd.DataFrame:
    rows = [(*key, int(number)) for key, number in sorted(counts.items()) if number]
    return pd.DataFrame(rows, columns=[*columns, "rows"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="knlib.benchmark_builder", description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="folder with mlama/ and mpararel/, or their packed form")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--languages", help="codes, separated by commas (default: all)")
    parser.add_argument("--relations", help="codes, separated by commas (default: all)")
    parser.add_argument(
        "--mode", default="causal", help="causal (default) or mlm: also templates for masked models only"
    )
    parser.add_argument("--min-queries", type=int, default=2, help="per fact and language (default 2)")
    parser.add_argument("--min-languages", type=int, help="that must be able to ask a fact (default: all chosen)")
    parser.add_argument("--cap", type=int, help="most facts per relation and object (default: no limit)")
    parser.add_argument("--tokenizer", help="folder or hub id: drop answers with unknown tokens, count tokens")
    given = parser.parse_args(argv)

    def work():
        relations = given.relations.split(",") if given.relations else None
        source = read_source(given.source, languages=given.languages, relations=relations)
        benchmark = build_benchmark(
            source, mode=given.mode, min_queries=given.min_queries, min_languages=given.min_languages, cap=given.cap,
            tokenizer=_load_tokenizer(given.tokenizer) if given.tokenizer else None,
        )  # fmt: skip
        write_benchmark(benchmark, given.out)
        print(report_text(benchmark))

    return said_in_one_line(work)


def _load_tokenizer(name: str):
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError("tokenizer", found=name, expected="a folder or hub id with a tokenizer") from error


if __name__ == "__main__":
    sys.exit(main())
