"""facts.py: loading and reshaping facts; what is malformed is in test_bad_input.py."""

import pytest
from conftest import FACTS

from knlib.errors import InputError
from knlib.facts import COLUMNS, candidates, load_facts, names_table, read_jsonl, select_relations


def test_rows_keep_ids_names_and_flags(benchmark):
    facts = load_facts(benchmark())
    assert list(facts.columns) == COLUMNS
    assert facts["fact"].tolist() == [row["fact"] for row in FACTS]
    paris = facts.iloc[0]
    assert (paris["subject_id"], paris["object_id"]) == ("FR", "paris")
    assert paris["object"] == {"en": ("Paris", "Paname"), "de": ("Paris",)}
    assert paris["leak"] == () and facts.iloc[-1]["leak"] == ("en", "de")


def test_chosen_languages_are_kept_and_must_be_there(benchmark):
    folder = benchmark()
    assert all(list(names) == ["de"] for names in load_facts(folder, languages=("de",))["subject"])
    with pytest.raises(InputError, match=r"facts.jsonl, line 1, field 'subject', language 'ja': found nothing"):
        load_facts(folder, languages=("de", "ja"))


def test_relations_are_chosen_by_name(facts):
    chosen = load_facts(relations=["script", "capital"])
    assert set(chosen["relation"]) == {"script", "capital"}
    assert chosen.index.tolist() == list(range(len(chosen)))
    assert len(chosen) == facts["relation"].isin(["script", "capital"]).sum()
    with pytest.raises(InputError, match="relations: found 'mayor', expected one of capital country continent"):
        select_relations(facts, ["capital", "mayor"])


def test_names_table_has_one_row_per_fact_and_language(benchmark):
    table = names_table(load_facts(benchmark()))
    assert len(table) == 2 * len(FACTS)
    assert table.groupby("fact")["leak"].sum().to_dict() == {row["fact"]: 2 * ("leak" in row) for row in FACTS}
    found = table.set_index(["fact", "language"]).loc[("capital:RU", "de")]
    assert (found["subject"], found["object"]) == ("Russland", "Moskau")


def test_names_table_skips_languages_that_one_side_lacks(benchmark):
    half = FACTS[0] | {"object": {"id": "paris", "en": ["Paris"]}}
    assert names_table(load_facts(benchmark([half])))["language"].tolist() == ["en"]


def test_candidates_are_the_sorted_canonical_objects(benchmark):
    facts = load_facts(benchmark())
    assert candidates(facts, "capital", "en") == ["Bern", "Lima", "Luxembourg", "Moscow", "Paris"]
    assert candidates(facts, "capital", "ja") == candidates(facts, "mayor", "en") == []


def test_candidates_of_a_shared_object_count_once(facts):
    found = candidates(facts, "continent", "en")
    assert found == sorted(set(found)) and len(found) == 6


def test_jsonl_lines_are_numbered_from_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": "\xd0\x96"}\n\n\n')  # blank lines at the very end do no harm
    assert list(read_jsonl(path)) == [(1, {"a": 1}), (2, {"a": "Ж"})]
