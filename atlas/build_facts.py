"""Write `data/atlas/facts.jsonl` from CLDR tables and the name lists in `data/atlas/sources`.

Run as `python -m atlas.build_facts` (it needs the CLDR triples in the folder that the environment
variable KNLIB_DATASETS names; the table it writes is part of the repository, so nobody has to).
"""

import json
import lzma
import os
import random
import re
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

from knlib.languages import CODES, in_script

ROOT = Path(__file__).resolve().parents[1]
ATLAS = ROOT / "data" / "atlas"
SEED = 20240229

# Rows of the CLDR triples, and what each becomes here.
RELATIONS = {
    "C36": "capital",
    "C17": "country",
    "C30": "continent",
    "C361": "subregion",
    "C38": "currency",
    "C37": "language",
    "C282": "script",
}
SOURCES = {
    "capital": "CLDR zone cities; sources/capitals.json where CLDR has no name for the capital",
    "country": "CLDR time-zone table; capitals of sources/capitals.json",
    "continent": "UN M49 in CLDR territory containment",
    "subregion": "UN M49 in CLDR territory containment",
    "currency": "CLDR currency data (legal tender today)",
    "language": "CLDR territory information (countries with one official language)",
    "script": "CLDR language data (languages with one script)",
}
# Uninhabited, or without undisputed answers: left out altogether.
NO_COUNTRY = {"AQ", "BV", "HM", "IO", "TF", "GS", "UM"}
# Several seats or a disputed one: no single-valued capital.
NO_CAPITAL = {"ZA", "SZ", "BO", "IL", "PS", "EH", "LK", "NL", "BJ", "MY"}
# Regional variants of two languages give further names.
ALIAS_LOCALES = {"es": "es-419", "pt": "pt-PT"}


def clean(name: str) -> str:
    """NFC, plain spaces, without soft hyphens, direction marks and parenthetical remarks."""
    name = unicodedata.normalize("NFC", name).replace("\u00a0", " ").replace("\u202f", " ")
    name = re.sub("[\u00ad\u200e\u200f\u061c]", "", name)
    name = re.sub(r"[(（][^()（）]*[)）]", "", name)
    for short, long in (("о-ва", "острова"), ("о-в", "остров"), ("Св.", "Святой")):
        name = re.sub(rf"\b{re.escape(short)}(?!\w)", long, name)
    return re.sub(r"\s+", " ", name).strip()


def fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", plain).strip("-")


def read_triples() -> list[dict]:
    folder = Path(os.environ.get("KNLIB_DATASETS", ROOT.parent / "shared" / "datasets"))
    path = folder / "facts" / "cldr_triples_114langs.jsonl.xz"
    with lzma.open(path, "rt", encoding="utf8") as lines:
        return [json.loads(line) for line in lines]


def names_of(row: dict, side: int) -> dict[str, list[str]]:
    """All names of a triple's subject (0) or object (1), canonical first, by language."""
    names = {}
    for code in CODES:
        found = [row["labels"][code][side]] if code in row["labels"] else []
        other = ALIAS_LOCALES.get(code)
        if found and other in row["labels"]:
            found.append(row["labels"][other][side])
        names[code] = list(dict.fromkeys(clean(name) for name in found))
    return names


class Entities:
    """Names of every country, city, continent, ... by id; hand-written names come first."""

    def __init__(self):
        self.names: dict[str, dict[str, list[str]]] = {}

    def add(self, key: str, names: dict[str, list[str]], *, first: bool = False) -> str:
        known = self.names.setdefault(key, {code: [] for code in CODES})
        for code in CODES:
            new = [clean(name) for name in names.get(code, [])]
            both = new + known[code] if first else known[code] + new
            known[code] = list(dict.fromkeys(both))
        return key

    def row(self, key: str) -> dict:
        return {"id": key, **self.names[key]}


def collect() -> tuple[list[dict], Counter]:
    """Every candidate fact, before the gates; and what was left out at this stage."""
    triples, left_out = read_triples(), Counter()
    capitals = json.loads((ATLAS / "sources" / "capitals.json").read_text("utf8"))
    countries = json.loads((ATLAS / "sources" / "countries.json").read_text("utf8"))
    entities, facts, city_of = Entities(), {}, {}

    for code, names in countries.items():
        entities.add(code, names, first=True)
    for row in triples:
        if row["rel"] == "C30":
            entities.add(row["sub"], names_of(row, 0))

    def fact(relation: str, key: str, subject: str, object_: str):
        facts[f"{relation}:{key}"] = (relation, subject, object_)

    for row in triples:  # cities first: capitals refer to them
        if row["rel"] == "C17":
            city = "city:" + slug(row["labels"]["en"][0])
            if city in entities.names:
                city += "-" + row["obj"]
            entities.add(city, names_of(row, 0))
            city_of[fold(row["labels"]["en"][0]), row["obj"]] = city
            if row["obj"] not in NO_COUNTRY:
                fact("country", city.removeprefix("city:"), city, row["obj"])
    for row in triples:
        relation, code = RELATIONS[row["rel"]], row["sub"]
        if row["rel"] == "C17":
            continue
        if row["rel"] != "C282" and code in NO_COUNTRY:
            left_out["country left out: " + " ".join(sorted(NO_COUNTRY))] += 1
        elif row["rel"] == "C36":
            english = row["labels"]["en"][1]
            if code in capitals or "label_note" in row:
                continue  # named by hand below
            city = city_of.get((fold(english), code)) or entities.add(f"city:{slug(english)}-{code}", names_of(row, 1))
            fact("capital", code, code, city)
        else:
            prefix = {"C37": "language:", "C38": "currency:", "C282": "script:"}.get(row["rel"], "region:")
            subject = entities.add("language:" + code, names_of(row, 0)) if row["rel"] == "C282" else code
            fact(relation, code, subject, entities.add(prefix + row["obj"], names_of(row, 1)))
    for code, names in capitals.items():
        english = names["en"][0]
        city = city_of.get((fold(english), code)) or "city:" + slug(english)
        if city in entities.names and city != city_of.get((fold(english), code)):
            city += "-" + code
        entities.add(city, names, first=True)
        fact("capital", code, code, city)
        fact("country", city.removeprefix("city:"), city, code)
    for code in NO_CAPITAL:
        if facts.pop(f"capital:{code}", None):
            left_out["no single undisputed capital: " + " ".join(sorted(NO_CAPITAL))] += 1
    rows = [
        {
            "fact": key,
            "relation": relation,
            "subject": entities.row(subject),
            "object": entities.row(object_),
            "source": SOURCES[relation],
        }
        for key, (relation, subject, object_) in facts.items()
    ]
    return rows, left_out


def gate(rows: list[dict], report: Counter) -> list[dict]:
    """Drop facts without all names; flag (fact, language) pairs whose answer is given away or unclear."""
    kept = []
    for row in rows:
        missing = [c for c in CODES if not row["subject"][c] or not row["object"][c]]
        wrong = [
            c
            for c in CODES
            if not missing and not (in_script(row["subject"][c][0], c) and in_script(row["object"][c][0], c))
        ]
        if missing or wrong:
            report[f"{row['relation']}: dropped, {'name missing' if missing else 'name in another script'}"] += 1
        else:
            kept.append(row)
    subjects, objects = defaultdict(set), defaultdict(set)
    for row in kept:
        for code in CODES:
            subjects[row["relation"], code, fold(row["subject"][code][0])].add(row["subject"]["id"])
            objects[row["relation"], code, fold(row["object"][code][0])].add(row["object"]["id"])
    for row in kept:
        row["leak"], row["ambiguous"] = [], []
        for code in CODES:
            subject, answers = fold(row["subject"][code][0]), [fold(n) for n in row["object"][code]]
            if any(a in subject or subject in a for a in answers):
                row["leak"].append(code)
            key = row["relation"], code
            if len(subjects[*key, subject]) > 1 or len(objects[*key, answers[0]]) > 1:
                row["ambiguous"].append(code)
        report[f"{row['relation']}: kept"] += 1
        report[f"{row['relation']}: (fact, language) pairs flagged leak"] += len(row["leak"])
        report[f"{row['relation']}: (fact, language) pairs flagged ambiguous"] += len(row["ambiguous"])
    return kept


def assign_splits(rows: list[dict]) -> None:
    """Who learns what: withheld languages, the half for `half` phrasings, multiple choice, one hop."""
    rng = random.Random(SEED)
    by_relation = defaultdict(list)
    for row in rows:
        by_relation[row["relation"]].append(row)
    for group in by_relation.values():
        order = rng.sample(range(len(group)), len(group))
        for rank, i in enumerate(order):
            row, share = group[i], rank / len(group)
            row["withheld"] = sorted(rng.sample(CODES, 4), key=CODES.index) if share < 0.2 else []
            row["half"] = rank % 2
            row["multiple_choice"] = rng.random() < 0.7
            row["one_hop"] = rng.random() < 0.5
    # A fact's inverse (country -> capital, city -> country) is withheld in the same languages.
    by_pair = {(r["relation"], r["subject"]["id"], r["object"]["id"]): r for r in rows}
    for row in rows:
        if row["relation"] == "capital":
            inverse = by_pair.get(("country", row["object"]["id"], row["subject"]["id"]))
            if inverse and (row["withheld"] or inverse["withheld"]):
                row["withheld"] = inverse["withheld"] = row["withheld"] or inverse["withheld"]


def main() -> None:
    rows, report = collect()
    kept = gate(rows, report)
    assign_splits(kept)
    kept.sort(key=lambda row: (list(SOURCES).index(row["relation"]), row["fact"]))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    (ATLAS / "facts.jsonl").write_text(text, "utf8")
    (ATLAS / "build_report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", "utf8")
    for line, count in sorted(report.items()):
        print(f"{count:6d}  {line}")
    print(f"{len(kept):6d}  facts written to {ATLAS.name}/facts.jsonl")


if __name__ == "__main__":
    main()
