"""Reads the data sets that Chen et al. published (tigerchen52/qrneuron): for tests and measurements, never copied here."""

import json
import re
from pathlib import Path

import pandas as pd

from ..errors import InputError, Literal
from ..multiple_choice import LETTERS

# Where a checkout has the reference data beside it.
FOLDER = Path(__file__).resolve().parents[3] / "shared" / "datasets" / "qrneuron"
FILES = {"domain": "subject_qa.json", "language": "language_qa.json", "sample": "domain_sample_multi_choice_qa.json"}
WORDINGS = 3
COLUMNS = ["query", "fact", "relation", "language", "wording", "rotation", "prompt", "space", "suffix", "answer", "gold",
           "options"]  # fmt: skip
_OPTION = re.compile(r"^ ([A-D])\. (.*)$", re.MULTILINE)


def load_published(name: str = "domain", folder: str | Path = FOLDER) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The prompts of a published data set, and the records that are not as described.

    `name`: `domain` (six subjects, English), `language` (the same 100 facts in six languages), `sample`. Returns
    `(prompts, problems)`:

    - a prompt row, as of `build_multiple_choice`: `query`, `fact`, `relation` (subject, or relation like `P17`), `language`,
      `wording` (`"en/0"`), `rotation` (0: there is one order), `prompt`, `space` and `suffix` (empty), `answer` (a letter), `gold`,
      `options`. In `language`, a fact is relation and number among its language's: its translations share it.
    - a problem row: `record` (its id), `reason`, `kept` (False: all its prompts are left out).

    Raises `InputError` for a missing file, text that is no JSON, another name.

    Example
    -------
    >>> prompts, problems = load_published("domain")
    >>> prompts["fact"].nunique(), len(problems)
    (552, 1)
    """
    if name not in FILES:
        raise InputError("name", found=name, expected=Literal("one of " + " ".join(FILES)))
    path = Path(folder) / FILES[name]
    if not path.is_file():
        raise InputError(str(path), found=Literal("no file"), expected="a data set of tigerchen52/qrneuron")
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), found=Literal(f"text that is no JSON ({error})"), expected="an object") from None
    if not isinstance(records, dict):
        raise InputError(str(path), found=Literal(type(records).__name__), expected="an object: id -> record")
    rows, problems, counts = [], [], {}
    for key, record in records.items():
        # Counted before anything is left out: the translations of a fact stand at the same place.
        kind = tuple(str(record.get(f)) for f in ("relation", "relation_name")) if isinstance(record, dict) else ()
        number = counts[kind] = counts.get(kind, -1) + 1
        reason = _malformed(record, name)
        if reason is not None:
            problems.append((key, reason, False))
            continue
        relation, language, fact = kind[1], "en", key
        if name == "language":
            relation, language, fact = *kind, f"{kind[0]}:{number}"
        for wording, (sentence, letter) in enumerate(zip(record["sentences"], record["obj_label"], strict=True)):
            options = dict(_OPTION.findall(sentence))
            rows.append((f"{key}|{wording}", fact, relation, language, f"{language}/{wording}", 0, sentence, "", "", letter,
                         options[letter], tuple(options[own] for own in LETTERS)))  # fmt: skip
        if any(len(set(options)) < len(LETTERS) for *_, options in rows[-WORDINGS:]):
            problems.append((key, "an option is repeated", True))
    return pd.DataFrame(rows, columns=COLUMNS), pd.DataFrame(problems, columns=["record", "reason", "kept"])


def _malformed(record, name: str) -> str | None:
    """Why a record cannot be used, or None."""
    if not isinstance(record, dict):
        return f"a record is an object, not {type(record).__name__}"
    for field in ("sentences", "obj_label"):
        values = record.get(field)
        if not isinstance(values, list) or len(values) != WORDINGS or not all(isinstance(v, str) for v in values):
            return f"{field}: not {WORDINGS} texts"
    for field in ("relation_name", *(("relation", "ori_label") if name == "language" else ())):
        if not isinstance(record.get(field), str) or not record[field]:
            return f"{field}: no text"
    for number, (sentence, letter) in enumerate(zip(record["sentences"], record["obj_label"], strict=True)):
        if letter not in LETTERS:
            return f"obj_label {number}: {letter!r} is not one of A B C D"
        options = _OPTION.findall(sentence)
        if [own for own, _ in options] != list(LETTERS):
            return f"sentence {number}: options {' '.join(own for own, _ in options) or 'none'}, not A B C D"
        if name == "language" and dict(options)[letter] != record["ori_label"]:
            return f"sentence {number}: option {letter} is not ori_label"
    return None
