"""New objects are other ones, alike in all queries of a fact, and drawn uniformly over objects."""

import pandas as pd
import pytest

from knlib.counterfactuals import with_new_objects
from knlib.errors import InputError
from knlib.queries import build_queries


def fact(key, subject, object_, object_id, relation="r"):
    return {"fact": key, "relation": relation, "subject_id": subject, "object_id": object_id,
            "subject": dict.fromkeys(object_, (subject,)), "object": {c: (n,) for c, n in object_.items()}}  # fmt: skip


TABLE = pd.DataFrame([
    fact("r:1", "Peru", {"en": "Lima", "de": "Lima"}, "lima"),
    fact("r:2", "Chile", {"en": "Limassol", "de": "Santiago"}, "begins"),
    fact("r:3", "Spain", {"en": "Madrid", "de": "limassol"}, "begins in German"),
    fact("r:4", "France", {"en": "Paris"}, "no German"),
    fact("r:5", "Ghana", {"en": "Peru", "de": "Accra"}, "the subject"),
    fact("r:6", "Egypt", {"en": "Cairo", "de": "Kairo"}, "cairo"),
    fact("r:7", "Giza", {"en": "Cairo", "de": "Kairo"}, "cairo"),
    fact("s:1", "Peru", {"en": "sol", "de": "Sol"}, "sol", "s"),
])  # fmt: skip
QUERIES = pd.DataFrame({"fact": ["r:1", "r:1", "r:6"], "language": ["de", "en", "en"]})


def test_only_another_object_fits_that_no_name_betrays():
    for seed in range(8):
        found = with_new_objects(QUERIES, TABLE, seed=seed)
        assert found["new"].tolist()[:2] == ["Kairo", "Cairo"] and found["new_id"].tolist()[:2] == ["cairo", "cairo"]
        assert found["new"].iloc[2] != "Cairo"


def test_no_object_left_and_unknown_facts_are_named():
    lonely = TABLE[TABLE["relation"] == "s"]
    with pytest.raises(InputError, match="fact s:1: found no other object of its relation"):
        with_new_objects(pd.DataFrame({"fact": ["s:1"], "language": ["en"]}), lonely)
    with pytest.raises(InputError, match="queries: found 'r:9', expected facts of the table"):
        with_new_objects(QUERIES.assign(fact="r:9"), TABLE)


def test_objects_are_drawn_uniformly_whatever_the_number_of_their_facts():
    rows = [fact(f"r:{i}", f"s{i}", {"en": "Euro"}, "euro") for i in range(30)]
    rows += [fact("r:a", "sa", {"en": "Won"}, "won"), fact("r:b", "sb", {"en": "Yen"}, "yen")]
    query = pd.DataFrame({"fact": ["r:b"], "language": ["en"]})
    drawn = [with_new_objects(query, pd.DataFrame(rows), seed=seed)["new"].item() for seed in range(200)]
    assert set(drawn) == {"Euro", "Won"} and 70 < drawn.count("Won") < 130


def test_atlas_facts_get_one_object_in_all_their_queries(facts, templates):
    chosen = facts[facts["fact"].isin(["capital:FR", "continent:EG", "currency:JP"])]
    queries, _ = build_queries(chosen, templates[templates["template"].str.endswith("0")])
    found = with_new_objects(queries, facts, seed=3)
    assert (found.groupby("fact")["new_id"].nunique() == 1).all() and (found["new"] != found["answer"]).all()
    names = facts.drop_duplicates(["relation", "object_id"]).set_index(["relation", "object_id"])["object"]
    for row in found.itertuples():
        assert row.new == names[row.relation, row.new_id][row.language][0]
    again = with_new_objects(queries[::-2], facts[::-1], seed=3)
    assert again["new"].equals(found["new"].loc[again.index])
    assert (with_new_objects(queries, facts, seed=4)["new"] != found["new"]).any()
    assert list(found.columns) == [*queries.columns, "new", "new_id"] and "new" not in queries
