"""Write the Atlas edit set into `data/atlas`: `edits.jsonl`, `portability.jsonl` (templates), `edits_report.json`.

Run as `python -m atlas.build_edits`. From Atlas facts, templates and tokenizers alone, seeded; the same bytes every
time. An edit gives a fact another object of its relation; the card (`data/atlas/README.md`) says by which rules.
"""

import json
import random
from collections import Counter, defaultdict

import pandas as pd

from knlib.edit_set import REQUEST
from knlib.facts import ATLAS, load_facts
from knlib.languages import CODES
from knlib.queries import load_templates

from .build_templates import load_phrasings
from .edit_items import BY_CAPITAL, BY_CITY, HOPS, OLD_OBJECT, SAME_SUBJECT, Items
from .edit_pools import FirstTokens, Pools

SEED = 20240616
# Relation: edits, and how many of them for development. Where the fewest countries qualify goes first.
EDITS = {"currency": (30, 5), "language": (36, 6), "continent": (36, 6), "capital": (48, 8), "country": (90, 15)}
RELATIONS = ("capital", "continent", "currency", "language", "country")  # order of the file


def rng_of(*names: str) -> random.Random:
    return random.Random(" ".join([str(SEED), *names]))


def portability_templates() -> list[dict]:
    """One-hop wordings: those that the models were trained on (phrasings), and those never trained (sources)."""
    never_trained = json.loads((ATLAS / "sources" / "one_hop.json").read_text("utf8"))
    rows = []
    for code in CODES:
        trained = {BY_CAPITAL[r]: texts for r, texts in load_phrasings(code)["one_hop"].items() if r in BY_CAPITAL}
        for question, texts in (trained | never_trained[code]).items():
            rows += [
                {"template": f"{question}/{code}/{i}", "question": question, "relation": question.partition("_by_")[0],
                 "language": code, "text": text, "trained": question in trained}
                for i, text in enumerate(texts)
            ]  # fmt: skip
    return rows


# Which facts are edited, and what they become


def candidates(pools: Pools, relation: str) -> list:
    """Clean facts that can be edited: of cities but capitals, of countries with a clean capital and neighbours."""
    if relation == "country":
        return [row for row in pools.clean[relation] if row.subject_id not in pools.capitals]
    found = []
    for row in pools.clean[relation]:
        barred = pools.entangled(row.fact, row.object_id)
        others = [pools.clean_fact(other, row.subject_id) for other in pools.clean if other != relation]
        others = [other for other in others if other is not None and other.fact not in barred]
        if len(others) >= SAME_SUBJECT and pools.clean_fact("capital", row.subject_id):
            found.append(row)
    return found


def can_be_asked(pools: Pools, row, edited: set[str]) -> bool:
    """Whether a city's country has an unedited fact to ask about; of countries, all have a capital to ask by."""
    if row.relation != "country":
        return True
    facts = [pools.clean_fact(relation, row.object_id) for relation in BY_CITY]
    return any(fact is not None and fact.fact not in edited for fact in facts)


def reserve(relation: str, facts: int) -> int:
    """How many of an object's facts stay unedited, as neighbours of the others' edits."""
    if relation == "capital":
        return 0
    return min(OLD_OBJECT, facts - 1) if relation == "country" else 1


def choose_facts(pools: Pools) -> dict[str, list]:
    """The facts to edit by relation: no country twice, and every object keeps some that are not edited."""
    chosen, countries, edited = {}, set(), set()
    for relation, (count, _) in EDITS.items():
        rows = candidates(pools, relation)
        all_facts = Counter(row.object_id for row in (rows if relation == "country" else pools.clean[relation]))
        left, kept = all_facts.copy(), []
        for row in rng_of(relation, "facts").sample(rows, len(rows)):
            spare = left[row.object_id] > reserve(relation, all_facts[row.object_id])
            if len(kept) < count and row.subject_id not in countries and spare and can_be_asked(pools, row, edited):
                left[row.object_id] -= 1
                kept.append(row)
        if len(kept) < count:
            raise SystemExit(f"{relation}: {len(kept)} facts can be edited, {count} are wanted")
        chosen[relation] = sorted(kept, key=lambda row: row.fact)
        countries |= {row.subject_id for row in kept}
        edited |= {row.fact for row in kept}
    return chosen


def new_objects(items: Items, relation: str) -> list[str]:
    """Distinct objects of clean facts that no edit touches: each has a donor, which locality asks about."""
    rows = items.free(relation)
    if relation == "capital":
        # A country with an edit is described by its capital, which therefore cannot become that of another one too.
        countries = {items.pools.facts[fact].subject_id for fact in items.edited}
        rows = [row for row in rows if row.subject_id not in countries]
    return sorted({row.object_id for row in rows})


def draw_object(pools: Pools, items: Items, tokens: FirstTokens, row, objects: list[str]) -> str:
    """A new object, uniform over the distinct ones that differ from the old one and the subject and have a question."""
    for new in rng_of(row.fact, "object").sample(objects, len(objects)):
        if (
            pools.differ(row.object_id, new)
            and pools.apart(row.subject_id, new)
            and tokens.differ(row.relation, row.object, pools.names[new])
            and items.hops(row, new)
        ):
            return new
    raise SystemExit(f"{row.fact}: no new object fits")


def build(pools: Pools, tokens: FirstTokens) -> list[dict]:
    """All edits with the facts and questions around them."""
    chosen = choose_facts(pools)
    edits = [{"fact": row.fact, "new": None} for relation in RELATIONS for row in chosen[relation]]
    for relation in RELATIONS:  # capitals first: which ones two countries share decides what can be asked about others
        items = Items(pools, edits, SEED)
        objects = new_objects(items, relation)
        for edit in edits:
            row = pools.facts[edit["fact"]]
            if row.relation == relation:
                edit["new"] = draw_object(pools, items, tokens, row, objects)
    dev = {
        row.fact
        for relation, (_, count) in EDITS.items()
        for row in rng_of(relation, "dev").sample(chosen[relation], count)
    }
    items = Items(pools, edits, SEED)
    return [
        {"edit": f"{edit['fact']}={edit['new']}", **edit, "split": "dev" if edit["fact"] in dev else "test",
         "locality": items.locality(edit), "portability": items.portability(edit)}
        for edit in edits
    ]  # fmt: skip


def check(pools: Pools, edits: list[dict]) -> None:
    """Edits do not meet: whatever is asked about one of them rests on nothing that another one changes."""
    edited = {edit["fact"] for edit in edits}
    touched = edited | {fact for edit in edits for fact in pools.entangled(edit["fact"], edit["new"])}
    shared = {edit["new"] for edit in edits if edit["fact"].startswith("capital:")}
    subjects = Counter(pools.facts[fact].subject_id for fact in edited)
    assert len(edited) == len(edits) and max(subjects.values()) == 1, "a subject with two edits"
    for edit in edits:
        asked = {fact for kind in edit["locality"].values() for fact in kind}
        assert asked.isdisjoint(touched), (edit["edit"], asked & touched)
        for item in edit["portability"]:
            bases = set(item["rests_on"])
            assert item["question"] not in BY_CAPITAL.values() or item["subject"] not in shared, edit["edit"]
            if item["ceiling"]:
                bases |= {item["ceiling"]["fact"], *item["ceiling"]["rests_on"]}
            assert bases.isdisjoint(edited), (edit["edit"], bases & edited)


# What is written


def report_of(pools: Pools, edits: list[dict]) -> dict:
    """Counts by relation: pool, edits, objects, majority baseline, questions around, and which rules fall short."""
    report, items = {}, Items(pools, edits, SEED)
    for relation in RELATIONS:
        own = [edit for edit in edits if pools.facts[edit["fact"]].relation == relation]
        new, old = Counter(edit["new"] for edit in own), Counter(pools.facts[edit["fact"]].object_id for edit in own)
        counts = defaultdict(int)
        for edit in own:
            old_object = pools.facts[edit["fact"]].object_id
            objects = [pools.facts[fact].object_id for fact in edit["locality"]["same_relation"]]
            counts["locality: same subject"] += len(edit["locality"]["same_subject"])
            counts["locality: same relation, old object"] += objects.count(old_object)
            counts["locality: same relation, new object"] += objects.count(edit["new"])
            counts["locality: same relation, other object"] += sum(o not in (old_object, edit["new"]) for o in objects)
            counts["locality: unrelated"] += len(edit["locality"]["unrelated"])
            counts["short: fewer than two facts of the same subject"] += (
                len(edit["locality"]["same_subject"]) < SAME_SUBJECT
            )
            counts["short: fewer than three neighbours with the old object"] += objects.count(old_object) < OLD_OBJECT
            counts["short: one portability question"] += len(edit["portability"]) < HOPS
            for item in edit["portability"]:
                counts[f"portability: {item['question']}"] += 1
                counts["short: portability without a ceiling"] += item["ceiling"] is None
        report[relation] = {
            "clean facts": len(pools.clean[relation]), "pool": len(candidates(pools, relation)), "edits": len(own),
            "dev": sum(edit["split"] == "dev" for edit in own), "old objects": len(old), "new objects": len(new),
            "objects to choose from": len(new_objects(items, relation)),
            "majority of the new objects": round(max(new.values()) / len(own), 4),
            "majority of the old objects": round(max(old.values()) / len(own), 4), **counts,
        }  # fmt: skip
    return report


def write_jsonl(name: str, rows: list[dict]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (ATLAS / name).write_text(text, "utf8")


def compose() -> tuple[list[dict], dict]:
    """`(edits, report)` as the files hold them."""
    pools = Pools(load_facts())
    edits = build(pools, FirstTokens(request_templates()))
    check(pools, edits)
    return edits, report_of(pools, edits)


def request_templates() -> pd.DataFrame:
    templates = load_templates()
    return templates[templates["template"].str.endswith("/" + REQUEST)]


def main() -> None:
    edits, report = compose()
    write_jsonl("edits.jsonl", edits)
    write_jsonl("portability.jsonl", portability_templates())
    (ATLAS / "edits_report.json").write_text(json.dumps(report, indent=1) + "\n", "utf8")
    print(pd.DataFrame(report, dtype=object).fillna("-").to_string())
    print(f"{len(edits)} edits written to atlas/edits.jsonl")


if __name__ == "__main__":
    main()
