"""The questions around an edit: facts that must stay as they are, one-hop questions whose answer changes with it."""

import random

from .edit_pools import Pools

SAME_SUBJECT, SAME_RELATION, OLD_OBJECT, UNRELATED, HOPS = 2, 5, 3, 5, 2
# One-hop questions: what they ask for, and whether they describe their subject by its capital or by one of its cities.
BY_CAPITAL = {relation: f"{relation}_by_capital" for relation in ("continent", "currency", "language")}
BY_CITY = {relation: f"{relation}_by_city" for relation in ("continent", "currency", "capital")}


class Items:
    """Chooses the questions around edits. `edits`: all of them (`fact`, `new`), so that none touches another's."""

    def __init__(self, pools: Pools, edits: list[dict], seed: int):
        self.pools, self.seed = pools, seed
        self.edited = {edit["fact"] for edit in edits}
        self.blocked = self.edited | {fact for edit in edits for fact in pools.entangled(edit["fact"], edit["new"])}
        # A capital that an edit gives to a second country describes neither of them.
        self.shared = {edit["new"] for edit in edits if edit["fact"].startswith("capital:")}

    def rng(self, *names: str) -> random.Random:
        return random.Random(" ".join([str(self.seed), *names]))

    def free(self, relation: str) -> list:
        """Clean facts that no edit touches."""
        return [row for row in self.pools.clean[relation] if row.fact not in self.blocked]

    # Locality

    def locality(self, edit: dict) -> dict[str, list[str]]:
        """Ids of the facts that must not change, by kind."""
        row = self.pools.facts[edit["fact"]]
        return {
            "same_subject": self.same_subject(row),
            "same_relation": self.same_relation(row, edit["new"]),
            "unrelated": self.unrelated(row, edit["new"]),
        }

    def same_subject(self, row) -> list[str]:
        others = [other.fact for relation in self.pools.clean if relation != row.relation
                  for other in self.free(relation) if other.subject_id == row.subject_id]  # fmt: skip
        return self.rng(row.fact, "same subject").sample(others, min(SAME_SUBJECT, len(others)))

    def same_relation(self, row, new: str) -> list[str]:
        """Three with the old object if there are, one with the new one (its donor), and others up to five."""
        rng = self.rng(row.fact, "same relation")
        group = self.free(row.relation)
        old = [other.fact for other in group if other.object_id == row.object_id]
        donors = [other.fact for other in group if other.object_id == new]
        rest = [other.fact for other in group if other.object_id not in (row.object_id, new)]
        chosen = rng.sample(old, min(OLD_OBJECT, len(old))) + rng.sample(donors, min(1, len(donors)))
        return chosen + rng.sample(rest, SAME_RELATION - len(chosen))

    def unrelated(self, row, new: str) -> list[str]:
        """One fact each of five other relations, about none of the entities of the edit."""
        rng, own = self.rng(row.fact, "unrelated"), {row.subject_id, row.object_id, new}
        relations = [relation for relation in self.pools.clean if relation != row.relation]
        return [
            rng.choice([o.fact for o in self.free(relation) if own.isdisjoint((o.subject_id, o.object_id))])
            for relation in rng.sample(relations, UNRELATED)
        ]

    # Portability

    def portability(self, edit: dict) -> list[dict]:
        """One-hop questions: `question`, entity ids of `subject`, `old` and `new` answer, the facts that it
        `rests_on`, and a `ceiling`, the same question about facts that no edit touches."""
        row, rng = self.pools.facts[edit["fact"]], self.rng(edit["fact"], "portability")
        found = self.hops(row, edit["new"])
        items = rng.sample(found, min(HOPS, len(found)))
        for item in items:
            asked = self.ceilings(item["question"])
            # The country of a capital is named in the question: right answers there say nothing about hops.
            item["ceiling"] = rng.choice(asked) if asked else None
        return items

    def hops(self, row, new: str) -> list[dict]:
        """Every one-hop question about an edit that is well posed."""
        pools = self.pools
        if row.relation == "capital":
            home = pools.clean_fact("country", new)
            if home is None or home.fact in self.edited or not pools.apart(row.subject_id, home.object_id):
                return []
            return [_item("country_by_capital", row.subject_id, row.subject_id, home.object_id, [home.fact])]
        if row.relation in BY_CAPITAL:
            capital = self.describing_capital(row.subject_id)
            if capital is None or not all(pools.apart(capital.object_id, answer) for answer in (row.object_id, new)):
                return []
            return [_item(BY_CAPITAL[row.relation], capital.object_id, row.object_id, new, [capital.fact])]
        found = []
        for relation, question in BY_CITY.items():
            pair = [pools.clean_fact(relation, country) for country in (row.object_id, new)]
            if all(fact is not None and fact.fact not in self.edited for fact in pair):
                old, answer = (fact.object_id for fact in pair)
                if pools.differ(old, answer) and all(pools.apart(row.subject_id, one) for one in (old, answer)):
                    found.append(_item(question, row.subject_id, old, answer, [fact.fact for fact in pair]))
        return found

    def describing_capital(self, country: str):
        """The country's `capital` fact if it describes this country alone, whatever is edited."""
        capital = self.pools.clean_fact("capital", country)
        usable = capital is not None and capital.fact not in self.edited and capital.object_id not in self.shared
        return capital if usable else None

    def ceilings(self, question: str) -> list[dict]:
        """The question about every fact that no edit touches: `fact`, ids of `subject` and `answer`, `rests_on`."""
        relation, _, by = question.partition("_by_")
        if question == "country_by_capital":
            return []
        if by == "capital":
            pairs = [(row, self.describing_capital(row.subject_id), row.object_id) for row in self.free(relation)]
            rows = [(row, capital.object_id, answer, [capital.fact]) for row, capital, answer in pairs if capital]
        else:
            places = [row for row in self.free("country") if row.subject_id not in self.pools.capitals]
            pairs = [(place, self.pools.clean_fact(relation, place.object_id)) for place in places]
            rows = [(place, place.subject_id, fact.object_id, [fact.fact])
                    for place, fact in pairs if fact is not None and fact.fact not in self.edited]  # fmt: skip
        return [
            {"fact": row.fact, "subject": subject, "answer": answer, "rests_on": rests_on}
            for row, subject, answer, rests_on in rows
            if self.pools.apart(subject, answer)
        ]


def _item(question: str, subject: str, old: str, new: str, rests_on: list[str]) -> dict:
    return {"question": question, "subject": subject, "old": old, "new": new, "rests_on": rests_on}
