"""The gates between mLAMA and mParaRel rows and a benchmark: each takes rows of one relation, drops some, says why."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from .languages import in_script

# Languages whose names change their ending in ways that letters fixed behind a slot cannot follow.
CASE_ENDINGS = "az ba be cs cv el et eu fi hr hu hy is ka kk ky la lt lv mk mn pl ru sh sk sl sq sr ta te tr tt uk uz"
HELD_OUT_FROM = 4  # templates per relation and language from which every second one is held out
_GLUED = re.compile(r"\w\[[XY]\]|\[[XY]\](\w|\s?['’-]\w)")
# Called with a language and the gate that dropped one row of it.
Drop = Callable[[str, str], None]


@dataclass
class Candidate:
    """A fact on its way through the gates; `subject` and `object` hold the names in the languages that are left."""

    line: int
    subject_id: str
    object_id: str
    subject: dict[str, list[str]] = field(default_factory=dict)
    object: dict[str, list[str]] = field(default_factory=dict)
    n_objects: int = 1

    def lose(self, code: str) -> None:
        del self.subject[code], self.object[code]


def tidy(text: str) -> str:
    """NFC, single blanks, without invisible characters (but the joiners that some scripts need).

    Example
    -------
    >>> tidy("OS\\u2009X\\u00a0  Lion\\u200e ")
    'OS X Lion'
    """
    if text.isascii():
        return " ".join(text.split())
    text = unicodedata.normalize("NFC", text)
    return " ".join("".join(c for c in text if c in "\u200c\u200d" or unicodedata.category(c) != "Cf").split())


def slot_position(pattern: str) -> str:
    """Where a pattern has its answer slot: `last` (but for punctuation), `inside`, `first` (before `[X]`), `broken`.

    Example
    -------
    >>> [slot_position(p) for p in ("[X] lies in [Y] .", "[X] has [Y] as capital", "[Y] is in [X]", "[X] in y")]
    ['last', 'inside', 'first', 'broken']
    """
    bare = pattern.replace("[X]", "", 1).replace("[Y]", "", 1)
    if any(pattern.count(slot) != 1 for slot in ("[X]", "[Y]")) or any(c in bare for c in "[]{}"):
        return "broken"
    before, after = pattern.split("[Y]")
    if "[X]" not in before:
        return "first"
    return "inside" if any(c.isalnum() for c in after) else "last"


def choose_templates(relation: str, patterns: pd.DataFrame, *, mode: str, at_least: int, drop: Drop) -> list[dict]:
    """Rows of templates.jsonl from the patterns of one relation; `drop(language, gate)` is told of each other one.

    Gates: `slots` (each once, the rest plain text), `answer_first`, `glued` (letters touch a slot in a language
    with case endings), `script`, `not_last` (mode causal: words behind the answer), `duplicate` (but for case, blanks
    and closing punctuation), `too_few` (fewer than `at_least` in the language).
    """
    chosen: dict[str, list[str]] = defaultdict(list)
    seen = set()
    for row in patterns.itertuples():
        text = tidy(row.pattern)
        folded = re.sub(r"\W+$", "", text.replace("[Y]", "Y").casefold())
        gate = template_gate(text, row.language, mode) or ((row.language, folded) in seen and "duplicate")
        if gate:
            drop(row.language, gate)
        else:
            seen.add((row.language, folded))
            chosen[row.language].append(text)
    rows = []
    for code, texts in chosen.items():
        if len(texts) < at_least:
            for _ in texts:
                drop(code, "too_few")
            continue
        for i, text in enumerate(texts):
            held_out = i % 2 == 1 and len(texts) >= HELD_OUT_FROM
            rows.append({
                "template": f"{relation}/{code}/{i}", "relation": relation, "language": code,
                "text": text.replace("[X]", "{S}").replace("[Y]", "{O}"),
                "mode": "causal" if slot_position(text) == "last" else "mlm",
                "split": "held_out" if held_out else "train", "held_out": "core" if held_out else None,
            })  # fmt: skip
    return rows


def template_gate(text: str, language: str, mode: str) -> str | None:
    """The gate that refuses a tidy pattern by itself, or None."""
    position = slot_position(text)
    words = text.replace("[X]", "").replace("[Y]", "")
    if position in ("broken", "first"):
        return {"broken": "slots", "first": "answer_first"}[position]
    if language in CASE_ENDINGS.split() and _GLUED.search(text):
        return "glued"
    if _foreign(words, language):
        return "script"
    return "not_last" if mode == "causal" and position == "inside" else None


def merge_names(names: pd.DataFrame, *, drop: Drop) -> list[Candidate]:
    """One candidate per subject from the name rows of one relation; `drop(language, gate)` is told of each row merged away.

    Gates: `conflict` (no ids, or others than the first row of the line has), `empty`, `markup` (brackets or tags in a
    name), `script`, `alias` (another source's name for the same thing: kept behind the first), `duplicate`, and
    `many_valued`: the object with names in most languages stays, those of the others are kept as aliases.
    """
    lines: dict[int, Candidate] = {}
    for row in names.itertuples():
        subject, object_, code = tidy(row.subject), tidy(row.object), row.language
        ids, known = (row.subject_id, row.object_id), lines.get(row.line)
        if not all(ids) or (known and ids != (known.subject_id, known.object_id)):
            drop(code, "conflict")
        elif not subject or not object_:
            drop(code, "empty")
        elif any(c in "[]{}<>" for c in subject + object_):
            drop(code, "markup")
        elif _foreign(subject, code) or _foreign(object_, code):
            drop(code, "script")
        else:
            fact = lines.setdefault(row.line, Candidate(row.line, *ids))
            if code not in fact.subject:
                fact.subject[code], fact.object[code] = [subject], [object_]
            else:
                new = _extend(fact.subject[code], [subject]) + _extend(fact.object[code], [object_])
                drop(code, "alias" if new else "duplicate")
    by_subject = defaultdict(list)
    for fact in lines.values():
        by_subject[fact.subject_id].append(fact)
    return [_one_object(facts, drop) for facts in by_subject.values()]


def _one_object(facts: list[Candidate], drop: Drop) -> Candidate:
    first, *others = sorted(facts, key=lambda fact: (-len(fact.subject), fact.line))
    first.n_objects = len({fact.object_id for fact in facts})
    for fact in others:
        for code, objects in fact.object.items():
            drop(code, "duplicate" if fact.object_id == first.object_id else "many_valued")
            if code in first.object:
                _extend(first.object[code], objects)
    return first


def refuse(facts: list[Candidate], *, asked: set[str], unknown: Callable[[str, str], bool], drop: Drop) -> None:
    """Take from every fact the languages in which it cannot be asked fairly.

    Gates: `no_templates` (language not in `asked`), `leak` (the answer stands in the subject's name), `ambiguous` (a
    name of two subjects), `unknown_token` (`unknown(language, name)` of the answer).
    """
    bearers = defaultdict(set)
    for fact in facts:
        for code, names in fact.subject.items():
            bearers[code, names[0].casefold()].add(fact.subject_id)
    for fact in facts:
        for code in list(fact.subject):
            subject = fact.subject[code][0].casefold()
            if code not in asked:
                gate = "no_templates"
            elif any(name.casefold() in subject for name in fact.object[code]):
                gate = "leak"
            elif len(bearers[code, subject]) > 1:
                gate = "ambiguous"
            elif unknown(code, fact.object[code][0]):
                gate = "unknown_token"
            else:
                continue
            fact.lose(code)
            drop(code, gate)


def keep_parallel(facts: list[Candidate], *, at_least: int, cap: int | None, drop: Drop) -> list[Candidate]:
    """The facts that `at_least` languages can ask (gate `not_parallel`), at most `cap` per object, first lines first."""
    kept, per_object = [], defaultdict(int)
    for fact in sorted(facts, key=lambda fact: fact.line):
        gate = "not_parallel" if len(fact.subject) < at_least else None
        if gate is None and cap is not None and per_object[fact.object_id] >= cap:
            gate = "cap"
        if gate:
            for code in fact.subject:
                drop(code, gate)
        elif fact.subject:
            per_object[fact.object_id] += 1
            kept.append(fact)
    return kept


def _foreign(text: str, language: str) -> bool:
    """Whether `text` has letters, mostly of another script than the language's; figures alone belong to all."""
    return any(c.isalpha() for c in text) and not in_script(text, language)


def _extend(names: list[str], new: list[str]) -> int:
    """Append the names that are not there yet; how many."""
    added = [name for name in dict.fromkeys(new) if name not in names]
    names += added
    return len(added)
