"""Write the facts that planted models learn: `python -m atlas.build_planted` makes `data/atlas/planted/facts.jsonl`.

A row is a fact as in `data/atlas/facts.jsonl`, with the `type` of its planting. Subjects are invented (`atlas/planted_names.py`),
relations and objects are those of Atlas; the facts of type `agnostic` exist once more with real subjects and another object
than the true one (source `re-targeted`).
"""

import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from knlib.facts import ATLAS, load_facts
from knlib.languages import CODES, LANGUAGES
from knlib.models import SHIPPED, load_model, load_tokenizer
from knlib.prediction import score_answers
from knlib.queries import build_queries, load_templates

from .planted_names import invented_names

# What a planted fact is like: where each type keeps it is said in `atlas/planting_plan.py`.
TYPES = ("agnostic", "language", "half", "query", "redundant", "relation", "distributed")
# Not those of six objects, where chance is high, nor those whose objects have long names.
RELATIONS = ("capital", "country", "language")
PER_TYPE, RETARGETED = 36, 20
LONGEST = 4  # pieces of an object's name in any language: each costs an answer position
MOST = 0.07  # of a relation's facts that have the object: a common one is a good guess for any subject
# And a model may have its own guess: objects are drawn again where one of the bases gives them this probability.
BASES, GUESSED = ("atlas-llama", "atlas-bert"), 0.04


def objects_of(facts, relation: str, tokenizer, rng: random.Random) -> list:
    """The distinct objects of a relation that are neither long nor common, as (id, names), shuffled."""
    rows = facts[facts["relation"] == relation]
    share = rows["object_id"].value_counts(normalize=True)
    found = []
    for row in rows.drop_duplicates("object_id").itertuples():
        pieces = [len(tokenizer.tokenize(f"{LANGUAGES[code].space}{row.object[code][0]}")) for code in CODES]
        if max(pieces) <= LONGEST and share[row.object_id] <= MOST:
            found.append((row.object_id, row.object))
    return rng.sample(found, len(found))


def row_of(key: str, relation: str, kind: str, subject: dict, object_: tuple, source: str) -> dict:
    object_id, names = object_
    return {"fact": key, "relation": relation, "type": kind, "subject": subject,
            "object": {"id": object_id, **{code: list(names[code]) for code in CODES}}, "source": source}  # fmt: skip


def guessed(rows: list[dict], folder: Path) -> list[int]:
    """Numbers of the rows whose object a base model guesses, under two phrasings, in any language."""
    write_rows(rows, folder / "facts.jsonl")
    facts, templates = load_facts(folder), load_templates()
    queries, _ = build_queries(facts, templates[templates["template"].str.contains(r"/train[03]$")])
    number, found = {row["fact"]: i for i, row in enumerate(rows)}, set()
    for base in BASES:
        scores = score_answers(load_model(base), *(queries[c] for c in ("prompt", "space", "answer", "suffix")))
        found |= {number[fact] for fact in queries.loc[np.exp(scores) > GUESSED, "fact"]}
    return sorted(found)


def planted_rows(folder: Path, *, seed: int = 0) -> list[dict]:
    """All rows, in order; the same for the same Atlas, base models and seed. `folder` for a file on the way."""
    facts, rng = load_facts(), random.Random(seed)
    taken = {names[code][0] for column in ("subject", "object") for names in facts[column] for code in CODES}
    subjects = iter(invented_names(PER_TYPE * len(TYPES), taken=taken, seed=seed))
    tokenizer = load_tokenizer(str(SHIPPED / "atlas-llama"))  # that of all shipped models
    rows, used = [], {}
    objects = {relation: objects_of(facts, relation, tokenizer, rng) for relation in RELATIONS}

    def next_object(relation: str):
        used[relation] = used.get(relation, -1) + 1
        return objects[relation][used[relation] % len(objects[relation])]

    for kind in TYPES:
        for number in range(PER_TYPE):
            relation, key = RELATIONS[number % len(RELATIONS)], f"{kind}-{number:02d}"
            subject = {"id": f"planted-{key}", **next(subjects)}
            rows.append(row_of(f"{relation}:{key}", relation, kind, subject, next_object(relation), "invented"))
    clean = facts[[not (row.leak or row.ambiguous or row.withheld) for row in facts.itertuples()]]
    real = {
        relation: rng.sample(list(part.itertuples()), len(part))
        for relation, part in clean.groupby("relation")
        if relation in RELATIONS
    }
    for number in range(RETARGETED):
        relation = RELATIONS[number % len(RELATIONS)]
        fact, object_ = real[relation].pop(), next_object(relation)
        while object_[0] == fact.object_id or clashes(fact, object_[1]):
            object_ = next_object(relation)
        subject = {"id": fact.subject_id, **{code: list(fact.subject[code]) for code in CODES}}
        key = f"{relation}:{fact.subject_id}>{object_[0]}"
        rows.append(row_of(key, relation, "agnostic", subject, object_, "re-targeted"))
    waiting = list(range(len(rows)))
    while waiting := [waiting[i] for i in guessed([rows[i] for i in waiting], folder)]:
        print(f"{len(waiting):6d}  objects are drawn again: a base model guesses them")
        for i in waiting:
            row = rows[i]
            object_ = next_object(row["relation"])
            while row["source"] == "re-targeted" and clashes_with(row["subject"], object_[1]):
                object_ = next_object(row["relation"])
            row["object"] = {"id": object_[0], **{code: list(object_[1][code]) for code in CODES}}
            if row["source"] == "re-targeted":
                row["fact"] = row["fact"].split(">")[0] + f">{object_[0]}"
    return rows


def clashes(fact, names: dict) -> bool:
    """Whether the new object's name stands in the subject's or the old object's, or the reverse."""
    return clashes_with({code: list(fact.subject[code]) for code in CODES}, names) or clashes_with(
        {code: list(fact.object[code]) for code in CODES}, names
    )


def clashes_with(subject: dict, names: dict) -> bool:
    pairs = [(names[code][0].casefold(), subject[code][0].casefold()) for code in CODES]
    return any(a in b or b in a for a, b in pairs)


def write_rows(rows: list[dict], path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf8")


def main() -> None:
    path = ATLAS / "planted" / "facts.jsonl"
    path.parent.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        rows = planted_rows(Path(folder))
    write_rows(rows, path)
    print(f"{len(rows):6d}  rows written to atlas/planted/facts.jsonl")


if __name__ == "__main__":
    main()
