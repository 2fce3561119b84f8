"""Facts: one row per fact, with subject and object names in several languages.

A benchmark is a folder with `facts.jsonl` and `templates.jsonl`. Atlas is the one that ships; a
folder of the same format that you made yourself loads with the same call.
"""

import json
import unicodedata
from pathlib import Path

import pandas as pd

from .errors import InputError, Literal

ATLAS = Path(__file__).resolve().parents[1] / "data" / "atlas"
MAX_LINE = 1_000_000
COLUMNS = ["fact", "relation", "subject_id", "object_id", "subject", "object", "source",
           "leak", "ambiguous", "withheld", "half", "multiple_choice", "one_hop", "n_objects"]  # fmt: skip


def read_jsonl(path: str | Path, name: str | None = None):
    """Yield `(line number, row)` of a JSON-lines file.

    Raises `InputError` naming file and line for what is not UTF-8, has a byte-order mark, is empty,
    too long, not JSON, or not an object.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, found=Literal("no such file"), expected="a JSON-lines file")
    data = path.read_bytes()
    label = name or path.name
    if data.startswith(b"\xef\xbb\xbf"):
        raise InputError(f"{label}, line 1", found=Literal("a byte-order mark"), expected="UTF-8 without one")
    if not data.strip():
        raise InputError(label, found=Literal("an empty file"), expected="one JSON object a line")
    for number, raw in enumerate(data.split(b"\n"), 1):
        where = f"{label}, line {number}"
        if raw.endswith(b"\r"):
            raise InputError(where, found=Literal("a Windows line end (CRLF)"), expected="LF line ends")
        if len(raw) > MAX_LINE:
            raise InputError(where, found=Literal(f"{len(raw):,} bytes"), expected=f"at most {MAX_LINE:,}")
        if not raw.strip():
            if number <= data.rstrip(b"\n").count(b"\n"):
                raise InputError(where, found=Literal("an empty line"), expected="a JSON object")
            continue
        try:
            row = json.loads(raw.decode("utf8"))
        except UnicodeDecodeError as error:
            raise InputError(where, found=Literal(f"bytes that are not UTF-8 at column {error.start + 1}"),
                             expected="UTF-8 text") from None  # fmt: skip
        except json.JSONDecodeError as error:
            raise InputError(where, found=Literal(f"broken JSON at column {error.colno}: {error.msg}"),
                             expected="a JSON object") from None  # fmt: skip
        except (ValueError, RecursionError) as error:  # numbers of 5,000 digits, brackets 100,000 deep
            raise InputError(where, found=Literal(f"JSON beyond limits: {error}"), expected="a JSON object") from None
        if not isinstance(row, dict):
            raise InputError(where, found=row, expected="a JSON object")
        yield number, row


def text_field(row: dict, field: str, where: str) -> str:
    """The non-empty, NFC-normalized text in `row[field]`; `InputError` otherwise."""
    if field not in row:
        raise InputError(f"{where}, field '{field}'", found=Literal("nothing"), expected="text")
    return checked_text(row[field], f"{where}, field '{field}'")


def checked_text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(where, found=value, expected="non-empty text")
    if value != value.strip():
        raise InputError(where, found=value, expected="text without blanks around it")
    if not unicodedata.is_normalized("NFC", value):
        raise InputError(where, found=value, expected="NFC-normalized text")
    return value


def _entity(row: dict, field: str, where: str, languages: tuple[str, ...] | None):
    """Id and names of the subject or object of a row."""
    value = row.get(field)
    where = f"{where}, field '{field}'"
    if not isinstance(value, dict):
        raise InputError(where, found=value, expected="an object with 'id' and names by language")
    key = text_field(value, "id", where)
    names = {}
    for code in languages or [code for code in value if code != "id"]:
        given = value.get(code)
        if code not in value:
            raise InputError(f"{where}, language '{code}'", found=Literal("nothing"), expected="a list of names")
        if not isinstance(given, list) or not given:
            raise InputError(f"{where}, language '{code}'", found=given, expected="a list of names")
        names[code] = tuple(checked_text(name, f"{where}, language '{code}'") for name in given)
    if not names:
        raise InputError(where, found=Literal("no language"), expected="names in at least one language")
    return key, names


def _language_list(row: dict, field: str, where: str) -> tuple[str, ...]:
    value = row.get(field, [])
    if not isinstance(value, list) or not all(isinstance(code, str) for code in value):
        raise InputError(f"{where}, field '{field}'", found=value, expected="a list of language codes")
    return tuple(value)


def _count(row: dict, field: str, where: str) -> int:
    value = row.get(field, 1)
    if type(value) is not int or value < 1:
        raise InputError(f"{where}, field '{field}'", found=value, expected="a whole number from 1")
    return value


def load_facts(
    folder: str | Path = ATLAS,
    *,
    relations: list[str] | None = None,
    languages: tuple[str, ...] | None = None,
) -> pd.DataFrame:
    """The facts of a benchmark folder, validated, one row per fact.

    Columns: `fact` (stable id), `relation`, `subject_id`, `object_id`; `subject` and `object`
    (dict: language -> names, the first canonical); `source`; `leak` and `ambiguous` (languages in which
    the answer is given away by the subject's name, or a name means two things: no query is made of
    these); `withheld` (languages in which the Atlas models never saw the fact); `half`,
    `multiple_choice`, `one_hop` (which training sets hold it); `n_objects` (how many objects are right: where more than
    one, the others' names stand behind the first one's, and only rows with 1 suit a score with a single right answer).

    Raises `InputError` with file, line and field for a malformed row, a fact id that comes twice, a
    subject with two objects in one relation, a relation or language that the file does not have.

    Example
    -------
    >>> facts = load_facts(relations=["capital"])
    >>> facts.set_index("fact").loc["capital:FR", "object"]["tr"]
    ('Paris',)
    """
    path = Path(folder) / "facts.jsonl"
    rows, seen, pairs = [], {}, {}
    for number, row in read_jsonl(path):
        where = f"{path.name}, line {number}"
        fact, relation = text_field(row, "fact", where), text_field(row, "relation", where)
        if fact in seen:
            raise InputError(f"{where}, field 'fact'", found=fact,
                             expected=f"an id of its own (line {seen[fact]} has this one)")  # fmt: skip
        seen[fact] = number
        subject_id, subject = _entity(row, "subject", where, languages)
        object_id, object_ = _entity(row, "object", where, languages)
        other = pairs.setdefault((relation, subject_id), number)
        if other != number:
            raise InputError(f"{where}, field 'subject'", found=subject_id,
                             expected=f"one object per subject and relation (line {other} has another)")  # fmt: skip
        rows.append((fact, relation, subject_id, object_id, subject, object_, row.get("source", ""),
                     _language_list(row, "leak", where), _language_list(row, "ambiguous", where),
                     _language_list(row, "withheld", where), row.get("half"),
                     row.get("multiple_choice"), row.get("one_hop"), _count(row, "n_objects", where)))  # fmt: skip
    facts = pd.DataFrame(rows, columns=COLUMNS)
    return select_relations(facts, relations)


def select_relations(table: pd.DataFrame, relations: list[str] | None) -> pd.DataFrame:
    """The rows of the named relations; `InputError` for one that the table does not have."""
    if relations is None:
        return table
    known = table["relation"].unique()
    for relation in relations:
        if relation not in known:
            raise InputError("relations", found=relation, expected=Literal("one of " + " ".join(known)))
    return table[table["relation"].isin(relations)].reset_index(drop=True)


def names_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Facts in long form: one row per (fact, language) with canonical names and the flags as booleans.

    Columns: `fact`, `relation`, `language`, `subject`, `object`, `leak`, `ambiguous`, `withheld`.

    Example
    -------
    >>> table = names_table(load_facts(relations=["capital"]))
    >>> table.query("fact == 'capital:FR' and language == 'ja'")[["subject", "object"]].values.tolist()
    [['フランス', 'パリ']]
    """
    rows = [
        (row.fact, row.relation, code, row.subject[code][0], row.object[code][0],
         code in row.leak, code in row.ambiguous, code in row.withheld)
        for row in facts.itertuples()
        for code in row.subject
        if code in row.object
    ]  # fmt: skip
    columns = ["fact", "relation", "language", "subject", "object", "leak", "ambiguous", "withheld"]
    return pd.DataFrame(rows, columns=columns)


def candidates(facts: pd.DataFrame, relation: str, language: str) -> list[str]:
    """All objects of a relation in a language, canonical names, sorted: the set of a typed prediction."""
    rows = facts.loc[facts["relation"] == relation, "object"]
    return sorted({names[language][0] for names in rows if language in names})
