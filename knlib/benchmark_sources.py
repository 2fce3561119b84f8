"""Names and patterns of mLAMA and mParaRel, read from the files that you have.

Two layouts are understood. The published one: a folder with `mlama/` (the unpacked mlama1.1: `<lang>/<relation>.jsonl`,
`<lang>/templates.jsonl`) and `mpararel/` (`patterns/<lang>/<relation>.jsonl`, `tuples/<lang>/<relation>.jsonl`); one of
the two is enough. The packed one: `master.tsv.xz`, `labels/<lang>.tsv.xz`, `mlama_templates.jsonl`,
`mpararel_patterns_reviewed.jsonl`.
"""

import lzma
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .errors import InputError, Literal
from .facts import read_jsonl
from .languages import parse_languages

NAME_COLUMNS = ["relation", "line", "language", "source", "subject_id", "object_id", "subject", "object"]
PATTERN_COLUMNS = ["relation", "language", "source", "pattern"]
LICENCE = (
    "mLAMA is CC BY-NC 4.0; mParaRel states no licence. What is built from them is for your own research: "
    "do not pass it on without asking, and keep it out of repositories."
)
# Our code -> theirs. Indonesian is `ind` here, for in facts.jsonl the key `id` holds the id of an entity. Chinese of
# mParaRel is sorted by script, that of mLAMA is mixed: there mParaRel goes first.
MLAMA_CODES = {"ind": "id"}
MPARAREL_CODES = {"ind": "id", "zh": "zh-hans"}


@dataclass(frozen=True)
class Source:
    """What was read: `names` (a row per fact, language and source) and `patterns` (a row each), in file order.

    `names`: `relation`, `line` (mLAMA's lineid, which joins languages and sources), `language`, `source` (`mlama`,
    `mpararel` or `both`), `subject_id`, `object_id`, `subject`, `object`; the ids are empty where the source does not
    know the line. `patterns`: `relation`, `language`, `source`, `pattern` with the slots `[X]` and `[Y]`;
    mLAMA's come first, then those that a human has checked.
    """

    names: pd.DataFrame
    patterns: pd.DataFrame
    languages: tuple[str, ...]
    relations: tuple[str, ...]


def read_source(folder: str | Path, *, languages=None, relations: list[str] | None = None) -> Source:
    """Read names and patterns of the chosen languages and relations (default: all) from either layout.

    Raises `InputError`, naming file and line, for a missing file, a malformed line, a language or relation that is not
    there. Formats: Kassner et al. 2021 (arXiv 2102.00894) for mLAMA, Fierro and Søgaard 2022 for mParaRel.

    Example
    -------
    >>> source = read_source("datasets/mlama_mpararel", languages="en,de", relations=["P36"])  # doctest: +SKIP
    >>> source.names.query("line == 30")[["subject", "object"]].values.tolist()  # doctest: +SKIP
    [['Germany', 'Berlin'], ['Deutschland', 'Berlin']]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, found=Literal("no such folder"), expected="a folder with mLAMA or mParaRel files")
    packed = (folder / "master.tsv.xz").exists()
    if not packed and not (folder / "mlama").is_dir() and not (folder / "mpararel").is_dir():
        raise InputError(folder, found=Literal("neither mlama/ nor mpararel/ nor master.tsv.xz"),
                         expected="a folder with mLAMA or mParaRel files")  # fmt: skip
    codes = parse_languages(languages, known=_known_languages(folder, packed))
    names, patterns = (_packed if packed else _published)(folder, codes)
    names = pd.DataFrame(names, columns=NAME_COLUMNS)
    patterns = pd.DataFrame(patterns, columns=PATTERN_COLUMNS)
    known = sorted(set(names["relation"]) | set(patterns["relation"]))
    chosen = tuple(dict.fromkeys(relations)) if relations else tuple(known)
    for relation in chosen:
        if relation not in known:
            raise InputError("relations", found=relation, expected=Literal("one of " + " ".join(known)))
    return Source(names[names["relation"].isin(chosen)].reset_index(drop=True),
                  patterns[patterns["relation"].isin(chosen)].reset_index(drop=True), codes, chosen)  # fmt: skip


def _known_languages(folder: Path, packed: bool) -> tuple[str, ...]:
    if packed:
        found = {path.name.removesuffix(".tsv.xz") for path in (folder / "labels").glob("*.tsv.xz")}
    else:
        found = {path.parent.name for path in (folder / "mlama").glob("*/templates.jsonl")}
        found |= {path.name for path in (folder / "mpararel" / "patterns").glob("*") if path.is_dir()}
    found |= {code for code, other in MPARAREL_CODES.items() if other in found}
    return tuple(sorted(found - set(MLAMA_CODES.values())))


# The packed layout


def _packed(folder: Path, codes: tuple[str, ...]) -> tuple[list, list]:
    ids = {(relation, line): (subject, object_)
           for relation, line, subject, object_, *_ in _tsv(folder / "master.tsv.xz", 7, line_column=1)}  # fmt: skip
    names, patterns = [], []
    for code in codes:
        own, other = MLAMA_CODES.get(code, code), MPARAREL_CODES.get(code, code)
        # One file holds both sources (m, p, b = both) unless mParaRel has a code of its own for the language.
        parts = [(own, {"m": "mlama", "b": "both", "p": "mpararel"})]
        if other != own:
            parts = [(other, {"p": "mpararel", "b": "mpararel"}), (own, {"m": "mlama", "b": "mlama"})]
        for file, sources in parts:
            path = folder / "labels" / f"{file}.tsv.xz"
            for source, relation, line, subject, object_ in _tsv(path, 5, line_column=2):
                if source in sources:
                    names.append((relation, line, code, sources[source], *ids.get((relation, line), ("", "")),
                                  subject, object_))  # fmt: skip
    path = folder / "mlama_templates.jsonl"
    for number, row in read_jsonl(path):
        where = f"{path.name}, line {number}"
        language, text = _text(row, "lang", where), _text(row, "template", where)
        patterns += [(_text(row, "relation", where), code, "mlama", text)
                     for code in codes if MLAMA_CODES.get(code, code) == language]  # fmt: skip
    path, reviewed = folder / "mpararel_patterns_reviewed.jsonl", []
    for number, row in read_jsonl(path):
        where = f"{path.name}, line {number}"
        language, text = _text(row, "lang", where), _text(row, "pattern", where)
        reviewed += [(not row.get("checked_by_human"), _text(row, "relation", where), code, "mpararel", text)
                     for code in codes if MPARAREL_CODES.get(code, code) == language]  # fmt: skip
    return names, patterns + [row[1:] for row in sorted(reviewed, key=lambda row: row[0])]


def _tsv(path: Path, columns: int, *, line_column: int):
    """Rows of an xz-compressed table with a header; the line number that joins the tables as a whole number."""
    if not path.is_file():
        raise InputError(path, found=Literal("no such file"), expected="a table, tab-separated, packed by xz")
    try:
        lines = lzma.decompress(path.read_bytes()).decode("utf8").rstrip("\n").split("\n")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise InputError(path.name, found=Literal(f"unreadable data: {error}"),
                         expected="UTF-8 text packed by xz") from None  # fmt: skip
    for number, text in enumerate(lines[1:], 2):
        row = text.split("\t")
        if len(row) != columns:
            raise InputError(
                f"{path.name}, line {number}",
                found=Literal(f"{len(row)} columns"),
                expected=f"{columns}, separated by tabs",
            )
        if not row[line_column].isdecimal():
            raise InputError(f"{path.name}, line {number}, column {line_column + 1}",
                             found=row[line_column], expected="a line number")  # fmt: skip
        row[line_column] = int(row[line_column])
        yield row


# The published layout


def _published(folder: Path, codes: tuple[str, ...]) -> tuple[list, list]:
    names, patterns = [], []
    for code in codes:
        own, other = MLAMA_CODES.get(code, code), MPARAREL_CODES.get(code, code)
        mlama, tuples = folder / "mlama" / own, folder / "mpararel" / "tuples" / other
        parts = [(mlama, "mlama"), (tuples, "mpararel")]
        for where, source in parts if other == own else parts[::-1]:
            for path in sorted(where.glob("*.jsonl")):
                if path.name != "templates.jsonl":
                    names += _names(path, code, source)
        if (mlama / "templates.jsonl").exists():
            for where, row in _rows(mlama / "templates.jsonl"):
                patterns.append((_text(row, "relation", where), code, "mlama", _text(row, "template", where)))
        reviewed = []
        for path in sorted((folder / "mpararel" / "patterns" / other).glob("*.jsonl")):
            for where, row in _rows(path):
                reviewed.append((not row.get("checked-by-human"), path.stem, code, "mpararel",
                                 _text(row, "pattern", where)))  # fmt: skip
        patterns += [row[1:] for row in sorted(reviewed, key=lambda row: row[0])]
    return names, patterns


def _names(path: Path, code: str, source: str):
    for where, row in _rows(path):
        line = row.get("lineid")
        if type(line) is not int or line < 0:
            raise InputError(f"{where}, field 'lineid'", found=line, expected="a line number")
        values = [_text(row, field, where) for field in ("sub_uri", "obj_uri", "sub_label", "obj_label")]
        yield (path.stem, line, code, source, *values)


def _rows(path: Path):
    """`("<lang>/<file>, line 3", row)` of a JSON-lines file."""
    name = f"{path.parent.name}/{path.name}"
    return ((f"{name}, line {number}", row) for number, row in read_jsonl(path, name))


def _text(row: dict, field: str, where: str) -> str:
    """Text as it is, an empty one too: what is wrong with it is counted by the gates."""
    if not isinstance(row.get(field), str):
        raise InputError(f"{where}, field '{field}'", found=row.get(field), expected="text")
    return row[field]
