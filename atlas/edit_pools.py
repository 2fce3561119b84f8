"""What the edit set is chosen from: clean facts, what an edit entangles, and whether names are told apart."""

from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer

from knlib.languages import CODES

MODELS = Path(__file__).resolve().parents[1] / "data" / "models"


class Pools:
    """Lookups over the facts of Atlas. Clean: neither a leak nor an ambiguous name in any language.

    `facts`: id -> row; `by_subject`: (relation, subject id) -> row; `clean`: relation -> rows in file order; `names`:
    entity id -> language -> names.
    """

    def __init__(self, facts: pd.DataFrame):
        rows = list(facts.itertuples())
        self.facts = {row.fact: row for row in rows}
        self.by_subject = {(row.relation, row.subject_id): row for row in rows}
        self.clean: dict[str, list] = {}
        for row in rows:
            self.clean.setdefault(row.relation, [])
            if not row.leak and not row.ambiguous:
                self.clean[row.relation].append(row)
        self.clean_ids = {row.fact for group in self.clean.values() for row in group}
        self.names = {row.subject_id: row.subject for row in rows} | {row.object_id: row.object for row in rows}
        self.capitals = {row.object_id for row in rows if row.relation == "capital"}

    def clean_fact(self, relation: str, subject: str):
        """The fact of a relation and subject if it is clean, else None."""
        row = self.by_subject.get((relation, subject))
        return row if row is not None and row.fact in self.clean_ids else None

    def entangled(self, fact: str, new: str) -> set[str]:
        """Facts whose truth changes, or may, where `fact` gets the object `new`: they test nothing as neighbours."""
        row = self.facts[fact]
        if row.relation == "continent":
            return {f"subregion:{row.subject_id}"}
        if row.relation == "capital":  # a capital lies in its country
            found = (self.by_subject.get(("country", city)) for city in (row.object_id, new))
            return {other.fact for other in found if other is not None}
        return set()

    def apart(self, subject: str, answer: str) -> bool:
        """Whether in no language a name of one entity stands in a name of the other, and gives it away."""
        pairs = [
            (a.casefold(), b.casefold())
            for code in CODES for a in self.names[subject][code] for b in self.names[answer][code]
        ]  # fmt: skip
        return not any(a in b or b in a for a, b in pairs)

    def differ(self, one: str, other: str) -> bool:
        """Whether no name is shared in any language."""
        return all(
            {name.casefold() for name in self.names[one][code]}.isdisjoint(
                name.casefold() for name in self.names[other][code]
            )
            for code in CODES
        )


class FirstTokens:
    """First token of a name where it answers a prompt, under every shipped tokenizer."""

    def __init__(self, templates: pd.DataFrame):
        self.tokenizers = [Tokenizer.from_file(str(path)) for path in sorted(MODELS.glob("*/tokenizer.json"))]
        if not self.tokenizers:
            raise FileNotFoundError("no tokenizer in data/models")
        # The end of the prompt is enough: no token crosses from a prompt into its answer.
        self.ends = {
            (row.relation, row.language): row.text.split("{S}")[1].split("{O}")[0] for row in templates.itertuples()
        }
        self.known: dict[tuple, tuple] = {}

    def of(self, relation: str, language: str, name: str) -> tuple[int, ...]:
        key = relation, language, name
        if key not in self.known:
            end = self.ends[relation, language]
            begin = len(end.rstrip())
            encoded = [one.encode(end + name, add_special_tokens=False) for one in self.tokenizers]
            self.known[key] = tuple(
                next(i for i, (_, stop) in zip(one.ids, one.offsets, strict=True) if stop > begin) for one in encoded
            )
        return self.known[key]

    def differ(self, relation: str, one: dict, other: dict) -> bool:
        """Whether the canonical names begin with different tokens in every language and tokenizer."""
        return all(
            a != b
            for code in CODES
            for a, b in zip(self.of(relation, code, one[code][0]), self.of(relation, code, other[code][0]), strict=True)
        )
