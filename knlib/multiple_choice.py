"""Multiple-choice prompts: a question, four options of one relation, a letter for an answer."""

import hashlib
import random
import unicodedata
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from .errors import InputError
from .facts import ATLAS, read_jsonl, text_field

LETTERS = ("A", "B", "C", "D")


def load_wordings(folder: str | Path = ATLAS) -> pd.DataFrame:
    """The multiple-choice wordings of a benchmark folder, one row per (wording, relation).

    Columns: `wording` (`"en/0"`), `language`, `relation`, `instruction`, `question` (with `{S}`), `options`
    (the form of one line, with `{L}` and `{O}`), `cue` (what stands before the letter).
    """
    path = Path(folder) / "multiple_choice.jsonl"
    columns = ["wording", "language", "relation", "instruction", "question", "options", "cue"]
    rows = []
    for number, row in read_jsonl(path):
        where = f"{path.name}, line {number}"
        rows.append([text_field(row, field, where) for field in columns])
        for field, slots in (("question", ["{S}"]), ("options", ["{L}", "{O}"])):
            for slot in slots:
                if row[field].count(slot) != 1:
                    raise InputError(f"{where}, field '{field}'", found=row[field],
                                     expected=f"the slot {slot} exactly once")  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def prompt_text(wording, subject: str, options: list[str]) -> str:
    """The text of one multiple-choice prompt, up to and including the cue.

    Example
    -------
    >>> row = load_wordings().query("wording == 'en/0' and relation == 'capital'").iloc[0]
    >>> print(prompt_text(row, "France", ["Rome", "Paris", "Bern", "Quito"]))
    Read the question and name the right line.
    What is the capital of the country France?
    A: Rome
    B: Paris
    C: Bern
    D: Quito
    The right line is
    """
    lines = [
        wording.options.replace("{L}", letter).replace("{O}", option)
        for letter, option in zip(LETTERS, options, strict=True)
    ]
    question = wording.question.replace("{S}", subject)
    return "\n".join([wording.instruction, question, *lines, wording.cue])


def answer_space(cue: str) -> str:
    """What stands between the cue and the letter: nothing after full-width punctuation or Han and Kana."""
    return "" if unicodedata.east_asian_width(cue[-1]) in "WF" and not "\uac00" <= cue[-1] <= "\ud7a3" else " "


class OptionDrawer:
    """Draws the four options of a fact: the gold object and three of its relation by frequency as gold.

    The same objects serve all languages and wordings; no two share a name, none contains another, in
    any language of the facts.
    """

    def __init__(self, facts: pd.DataFrame):
        self._facts = {row.fact: row for row in facts.itertuples()}
        self._objects: dict[str, list] = {}
        for row in facts.itertuples():
            self._objects.setdefault(row.relation, []).append((row.object_id, row.object))
        self._drawn: dict[str, list[dict] | None] = {}  # of the evaluation: the same for all languages and wordings

    def draw(self, fact: str, rng: random.Random) -> list[dict] | None:
        """Names of four objects (gold first), or None where the relation has too few distinct ones."""
        row = self._facts[fact]
        chosen, pool = [row.object], self._objects[row.relation]
        for _ in range(200):
            names = pool[rng.randrange(len(pool))][1]
            if not any(clash(names, other) for other in chosen):
                chosen.append(names)
                if len(chosen) == len(LETTERS):
                    return chosen
        return None

    def base_order(self, fact: str, wording: str) -> list[dict] | None:
        """The evaluation options of (fact, wording number), in their seeded base order."""
        if fact not in self._drawn:
            self._drawn[fact] = self.draw(fact, _seeded("options", fact))
        objects = self._drawn[fact]
        if objects is None:
            return None
        order = _seeded("order", fact, wording.split("/")[-1]).sample(range(4), 4)
        return [objects[i] for i in order]


def clash(a: dict, b: dict) -> bool:
    """Whether the names of two objects are alike, or one contains the other, in a language."""
    return any(
        a[code][0].casefold() in b[code][0].casefold() or b[code][0].casefold() in a[code][0].casefold()
        for code in a
        if code in b
    )


def _seeded(*parts: str) -> random.Random:
    return random.Random(hashlib.sha256("|".join(parts).encode()).digest())


def build_multiple_choice(
    facts: pd.DataFrame, wordings: pd.DataFrame, *, rotations: int = 4, asked: Collection[str] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Multiple-choice prompts of every fact, wording and rotation of the options.

    `asked`: names of facts that get prompts (default: all); options are drawn from all facts either way.

    Returns `(prompts, report)`. A prompt row: `query`, `fact`, `relation`, `language`, `wording`, `rotation`,
    `subject`, `prompt`, `space`, `answer` (the letter), `gold` (the object's name), `options`. All four
    rotations make each letter gold once. The report counts per relation and language what was dropped and why.
    """
    if not 1 <= rotations <= 4:
        raise InputError("rotations", found=rotations, expected="1 to 4")
    unknown = sorted(set(asked or ()) - set(facts["fact"]))
    if unknown:
        raise InputError("asked", found=unknown[0], expected="names of facts in the table")
    drawer, rows, counts = OptionDrawer(facts), [], {}
    by_relation = dict(tuple(facts.groupby("relation", sort=False)))
    for wording in wordings.itertuples():
        code = wording.language
        gates = dict.fromkeys(("no_name", "leak", "ambiguous", "too_few_options", "prompts"), 0)
        count = counts.setdefault((wording.relation, code), gates)
        for fact in by_relation.get(wording.relation, facts[:0]).itertuples():
            if asked is not None and fact.fact not in asked:
                continue
            if code not in fact.subject or code not in fact.object:
                count["no_name"] += 1
                continue
            if code in fact.leak or code in fact.ambiguous:
                count["leak" if code in fact.leak else "ambiguous"] += 1
                continue
            base = drawer.base_order(fact.fact, wording.wording)
            if base is None or not all(code in names for names in base):
                count["too_few_options"] += 1
                continue
            for rotation in range(rotations):
                options = base[rotation:] + base[:rotation]
                letter = LETTERS[next(i for i, names in enumerate(options) if names is fact.object)]
                subject = fact.subject[code][0]
                names = [names[code][0] for names in options]
                rows.append((f"{fact.fact}|{wording.wording}|{rotation}", fact.fact, wording.relation, code,
                             wording.wording, rotation, subject, prompt_text(wording, subject, names),
                             answer_space(wording.cue), letter,
                             fact.object[code][0], tuple(names)))  # fmt: skip
                count["prompts"] += 1
    columns = ["query", "fact", "relation", "language", "wording", "rotation", "subject", "prompt", "space",
               "answer", "gold", "options"]  # fmt: skip
    report = pd.DataFrame([{"relation": r, "language": c, **count} for (r, c), count in counts.items()])
    return pd.DataFrame(rows, columns=columns), report
