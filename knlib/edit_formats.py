"""Edit sets of the literature, read from the files that you have: Bi-ZsRE, MzsRE, BMIKE-53, zsRE and CounterFact.

All become one table of requests with the texts around them. Several of these sets state no licence: nothing of them
is part of this project.
"""

import json
import lzma
from pathlib import Path

import pandas as pd

from .errors import InputError, Literal
from .languages import parse_languages

# Codes of these files that are not ISO 639-1.
RENAMED = {"cz": "cs", "du": "nl", "zh-cn": "zh"}
WITHOUT_SPACES = ("zh", "ja", "th")
# Of the English locality questions of zsRE. Removed as a prefix: stripped as characters, it damages other words.
PREFIX = "nq question: "
TEXTS = ["subject", "prompt", "answer", "new", "paraphrase", "locality", "locality_answer", "portability",
         "portability_answer"]  # fmt: skip
REQUEST_COLUMNS = ["edit", "fact", "relation", "language", "subject", "prompt", "space", "answer", "new", "suffix",
                   *TEXTS[4:], "rephrase_is_source", "conflict", "subject_in_prompt", "new_in_portability"]  # fmt: skip
REQUIRED = ("subject", "prompt", "new")
# Our name -> theirs. Two of them: a field, or the first item, within a field.
ZSRE = {"subject": "subject", "prompt": "src", "new": "alt", "answer": "old", "paraphrase": "rephrase",
        "locality": "loc", "locality_answer": "loc_ans", "portability": ("portability", "New Question"),
        "portability_answer": ("portability", "New Answer")}  # fmt: skip
MEND = {name: field for name, field in ZSRE.items() if not name.startswith("portability")} | {"answer": ("answers", 0)}
COUNTERFACT = {"subject": "subject", "prompt": "prompt", "new": "target_new", "answer": "ground_truth",
               "paraphrase": "rephrase_prompt", "locality": "locality_prompt",
               "locality_answer": "locality_ground_truth"}  # fmt: skip
EXAMPLES = 3


def load_parallel(
    path: str | Path, languages: tuple[str, ...] | str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Requests of a file with the same records in several languages: Bi-ZsRE, MzsRE, BMIKE-53.

    A record has a dict of texts by language, itself or under `langs`: `subject`, `src`, `rephrase`, `alt`, `loc`,
    `loc_ans`, `portability`, and in WikiFactDiff `old`. JSON or JSON lines, plain or packed by xz.

    Returns `(requests, report)`. A request row: `edit` = `fact` (file and record), `relation` (empty: not given),
    `language` (ISO 639-1: `cs` for their `cz`, `nl` for `du`, `zh` for `zh-cn`), `subject`, `prompt`, `space`,
    `answer` (the old object, empty where not given), `new`, `suffix` (empty), `paraphrase`, `locality`,
    `locality_answer`, `portability`, `portability_answer` (empty where not given); and the flags `rephrase_is_source`
    (the paraphrase equals the prompt), `conflict` (the subject has another new object in another record),
    `subject_in_prompt`, `new_in_portability` (the question of portability names the new object).

    The report has one row per reason: `reason`, `kept`, `count`, `examples`. Every record of every language is in
    `loaded` or in a row with `kept` False. Raises `InputError` naming file and record for what is not of the format.

    Sources: Wang et al. 2024 (arXiv 2309.08952, 2312.13040), Nie et al. 2024 (arXiv 2406.17764).

    Example
    -------
    >>> requests, report = load_parallel("mzsre12.jsonl.xz", languages="en,cs")  # doctest: +SKIP
    >>> requests.query("language == 'cs' and not rephrase_is_source")  # doctest: +SKIP
    """
    path = Path(path)
    records = []
    for number, record in _records(path):
        by_language = record.get("langs", {key: value for key, value in record.items() if isinstance(value, dict)})
        if not isinstance(by_language, dict) or not by_language:
            raise InputError(f"{path.name}, record {number}", found=record, expected="texts by language")
        texts = {RENAMED.get(code, code): value for code, value in by_language.items()}
        records.append((f"{_stem(path)}/{record.get('n', number)}", texts))
    known = tuple(sorted({code for _, texts in records for code in texts}))
    chosen = parse_languages(languages, known=known)
    return _requests(((key, code, texts.get(code)) for key, texts in records for code in chosen), ZSRE)


def load_zsre(path: str | Path, language: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Requests of a zsRE file in one language, in MEND's fields; as `load_parallel`, without portability.

    `answer` is the first of `answers` (`pred`, the answer of MEND's base model, is often wrong). Source: Mitchell et
    al. 2022 (arXiv 2110.11309).
    """
    path = Path(path)
    return _requests(((f"{_stem(path)}/{number}", language, record) for number, record in _records(path)), MEND)


def load_counterfact(path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Requests of a CounterFact file as EasyEdit has it: English, one paraphrase, one neighbour; as `load_parallel`.

    The neighbour's answer is the old object: it tests bleeding to facts with the same object, nothing else. Source:
    Meng et al. 2022 (arXiv 2202.05262).
    """
    path = Path(path)
    rows = ((f"{_stem(path)}/{record.get('case_id', number)}", "en", record) for number, record in _records(path))
    return _requests(rows, COUNTERFACT)


def _stem(path: Path) -> str:
    return path.name.split(".")[0]


def _records(path: Path):
    """`(number, record)` of a JSON list or of JSON lines, packed or not."""
    if not path.is_file():
        raise InputError(path, found=Literal("no such file"), expected="a JSON or JSON-lines file, or one packed by xz")
    try:
        data = path.read_bytes()
        text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode("utf8")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise InputError(path.name, found=Literal(f"unreadable data: {error}"), expected="UTF-8 text") from None
    lines = ".jsonl" in path.suffixes
    try:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(path.name, found=Literal(f"broken JSON: {error}"), expected="records") from None
    if not isinstance(rows, list) or not rows:
        raise InputError(path.name, found=Literal("no list of records"), expected="one record or more")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(f"{path.name}, record {number}", found=row, expected="a JSON object")
        yield number, row


def _requests(records, fields: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table and report of `(edit, language, texts)`; `fields`: our name of a text -> theirs."""
    rows, dropped, seen = [], [], set()
    for edit, language, record in records:
        found = _texts(record, fields) if (edit, language) not in seen else "id comes twice"
        seen.add((edit, language))
        if isinstance(found, str):
            dropped.append((found, edit, language))
        else:
            space = "" if language in WITHOUT_SPACES else " "
            rows.append({"edit": edit, "fact": edit, "relation": "", "language": language, "space": space, "suffix": "",
                         **found})  # fmt: skip
    table = _flagged(pd.DataFrame(rows, columns=REQUEST_COLUMNS))
    return table, _report(table, dropped)


def _texts(record: object, fields: dict) -> dict | str:
    """The texts of a record in one language, or the reason why it cannot be a request."""
    if record is None:
        return "language missing"
    if not isinstance(record, dict):
        return "not an object"
    found = dict.fromkeys(TEXTS, "")
    for name, field in fields.items():
        outer, *inner = (field,) if isinstance(field, str) else field
        value = record.get(outer, "")
        for key in inner:
            try:
                value = value[key]
            except (LookupError, TypeError):
                value = ""
        if not isinstance(value, str):
            return f"{outer}: not text"
        found[name] = value.strip()
    for name in REQUIRED:
        if not found[name]:
            return f"{fields[name]}: empty"
    if found["new"] == found["answer"]:
        return "the new object is the old one"
    found["locality"] = found["locality"].removeprefix(PREFIX)
    return found


def _flagged(table: pd.DataFrame) -> pd.DataFrame:
    def holds(part: str, whole: str) -> list[bool]:
        return [a.casefold() in b.casefold() for a, b in zip(table[part], table[whole], strict=True)]

    table = table.assign(
        rephrase_is_source=table["paraphrase"] == table["prompt"],
        subject_in_prompt=holds("subject", "prompt"),
        new_in_portability=holds("new", "portability"),
    )
    folded = table.assign(subject=table["subject"].str.casefold(), new=table["new"].str.casefold())
    objects = folded.groupby(["language", "subject"])["new"].transform("nunique")
    return table.assign(conflict=(objects > 1).astype(bool))


def _report(table: pd.DataFrame, dropped: list[tuple]) -> pd.DataFrame:
    def row(reason: str, kept: bool, pairs: list[tuple]) -> dict:
        examples = tuple(f"{edit} {language}" for edit, language in pairs[:EXAMPLES])
        return {"reason": reason, "kept": kept, "count": len(pairs), "examples": examples}

    marks = {
        "loaded": table["edit"] != "",
        "paraphrase equals the prompt": table["rephrase_is_source"],
        "subject with several new objects": table["conflict"],
        "subject not in the prompt": ~table["subject_in_prompt"],
        "new object in the portability question": table["new_in_portability"],
        "no paraphrase": table["paraphrase"] == "",
        "no locality": (table["locality"] == "") | (table["locality_answer"] == ""),
        "no portability": (table["portability"] == "") | (table["portability_answer"] == ""),
    }
    rows = [row(reason, True, list(zip(table.loc[mark, "edit"], table.loc[mark, "language"], strict=True)))
            for reason, mark in marks.items()]  # fmt: skip
    for reason in sorted({reason for reason, *_ in dropped}):
        rows.append(row(reason, False, [(edit, language) for other, edit, language in dropped if other == reason]))
    return pd.DataFrame(rows)
