"""The Atlas edit set: the counts and rules of lafn.md, section 4.2."""

import json
import unicodedata
from collections import Counter

import pandas as pd
import pytest
from tokenizers import Tokenizer

from atlas.build_edits import EDITS, compose, portability_templates
from knlib.edit_set import LOCATING, REQUEST, EditSet, load_edits, load_portability
from knlib.editing.requests import check_requests
from knlib.facts import ATLAS, read_jsonl
from knlib.languages import CODES, in_script
from knlib.models import SHIPPED

WORDINGS = 2


@pytest.fixture(scope="module")
def edits() -> EditSet:
    return load_edits()


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [row for _, row in read_jsonl(ATLAS / "edits.jsonl")]


@pytest.fixture(scope="module")
def names(facts) -> dict:
    return dict(zip(facts["subject_id"], facts["subject"], strict=True)) | dict(
        zip(facts["object_id"], facts["object"], strict=True)
    )


@pytest.fixture(scope="module")
def table(facts) -> pd.DataFrame:
    return facts.set_index("fact")


@pytest.fixture(scope="module")
def entangled(rows, table) -> set:
    """Facts that edits make wrong besides the edited ones."""
    by_city = {row.subject_id: fact for fact, row in table.iterrows() if row.relation == "country"}
    found = set()
    for row in rows:
        old = table.loc[row["fact"]]
        if old.relation == "continent":
            found.add(f"subregion:{old.subject_id}")
        if old.relation == "capital":
            found |= {by_city[old.object_id], by_city[row["new"]]}
    return found


def test_counts(rows, table, edits):
    relations = Counter(table.at[row["fact"], "relation"] for row in rows)
    dev = Counter(table.at[row["fact"], "relation"] for row in rows if row["split"] == "dev")
    assert {relation: (relations[relation], dev[relation]) for relation in EDITS} == EDITS
    assert (relations.total(), dev.total()) == (240, 40)
    assert len(edits.requests) == 240 * 12 and len(edits.locating) == 8 * 240 * 12
    assert len(edits.paraphrases) == 4 * 240 * 12
    items = sum(len(row["portability"]) for row in rows)
    assert (edits.portability["kind"] == "portability").sum() == items * WORDINGS * 12
    kinds = edits.locality.groupby("kind").size() // 12
    assert kinds.to_dict() == {"same_subject": 2 * 150, "same_relation": 5 * 240, "unrelated": 5 * 240}


def test_editors_take_the_requests(edits):
    check_requests(edits.requests)
    assert (edits.requests.groupby("edit")["language"].agg(tuple) == CODES).all()
    assert all(row.subject in row.prompt for row in edits.requests.itertuples())


def test_splits_and_languages_are_parts_of_the_whole(edits):
    dev, test = (load_edits(languages=("ja", "en"), split=split) for split in ("dev", "test"))
    assert set(dev.requests["language"]) == {"en", "ja"}
    ids = [set(part.requests["edit"]) for part in (dev, test)]
    assert ids[0].isdisjoint(ids[1]) and ids[0] | ids[1] == set(edits.requests["edit"])
    for name in ("requests", "locating", "paraphrases", "locality", "portability"):
        both = len(getattr(dev, name)) + len(getattr(test, name))
        assert both == getattr(edits, name)["language"].isin(["en", "ja"]).sum(), name
        assert set(getattr(dev, name)["edit"]) <= ids[0], name


def test_rebuilt_files_are_the_same_bytes(rows):
    built, report = compose()
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in built)
    assert (ATLAS / "edits.jsonl").read_text("utf8") == text
    assert json.loads((ATLAS / "edits_report.json").read_text("utf8")) == report
    assert [row for _, row in read_jsonl(ATLAS / "portability.jsonl")] == portability_templates()
    for relation, counts in report.items():
        new = Counter(row["new"] for row in rows if row["fact"].startswith(relation + ":"))
        assert counts["majority of the new objects"] == round(max(new.values()) / sum(new.values()), 4)


# Rule 1


def test_new_objects_share_no_name_with_old_ones_or_subjects(rows, table, names):
    for row in rows:
        old = table.loc[row["fact"]]
        assert row["new"] in set(table.loc[table["relation"] == old.relation, "object_id"])
        for code in CODES:
            subject, before, after = (
                {name.casefold() for name in names[key][code]} for key in (old.subject_id, old.object_id, row["new"])
            )
            assert before.isdisjoint(after), (row["edit"], code)
            assert not any(a in s or s in a for a in before | after for s in subject), (row["edit"], code)


@pytest.mark.parametrize("model", ["atlas-llama", "atlas-gpt2", "atlas-bert"])
def test_first_tokens_differ(edits, model):
    path = SHIPPED / model / "tokenizer.json"
    if not path.exists():
        pytest.skip(f"no file {path.relative_to(SHIPPED.parents[1])}")
    tokenizer = Tokenizer.from_file(str(path))
    unknown = tokenizer.token_to_id("<unk>")
    for row in edits.requests.itertuples():
        first = set()
        for name in (row.answer, row.new):
            encoded = tokenizer.encode(row.prompt + row.space + name, add_special_tokens=False)
            assert unknown not in encoded.ids, row.edit
            ends = [end for _, end in encoded.offsets]
            first.add(next(i for i, end in zip(encoded.ids, ends, strict=True) if end > len(row.prompt)))
            # no token holds the end of the prompt and the beginning of the answer
            assert all(end <= len(row.prompt) or start >= len(row.prompt) for start, end in encoded.offsets), row.prompt
        assert len(first) == 2, (row.edit, row.language)


def test_new_objects_are_spread(rows, table):
    """Uniform over distinct objects: the euro and English, the most frequent by far, are not the most frequent here."""
    for relation, common in (("currency", "currency:EUR"), ("language", "language:en")):
        of_relation = table[table["relation"] == relation]
        assert of_relation["object_id"].value_counts().idxmax() == common
        new = Counter(row["new"] for row in rows if row["fact"].startswith(relation + ":"))
        assert len(new) >= 10 and new[common] <= 6 and max(new.values()) <= 6


# Rule 2


def test_no_subject_is_edited_twice(rows, table):
    subjects = [table.at[row["fact"], "subject_id"] for row in rows]
    assert len(set(subjects)) == len(rows) == len({row["fact"] for row in rows}) == len({row["edit"] for row in rows})


def test_nothing_asked_rests_on_an_edited_fact(rows, entangled):
    edited = {row["fact"] for row in rows}
    for row in rows:
        neighbours = {fact for kind in row["locality"].values() for fact in kind}
        assert neighbours.isdisjoint(edited | entangled), row["edit"]
        for item in row["portability"]:
            bases = item["rests_on"] + (
                [item["ceiling"]["fact"], *item["ceiling"]["rests_on"]] if item["ceiling"] else []
            )
            assert bases and edited.isdisjoint(bases), row["edit"]


# Rule 3


def test_templates_of_request_locating_and_held_out_are_disjoint(edits, templates):
    used = {name: set(getattr(edits, name)["template"]) for name in ("requests", "locating", "paraphrases")}
    last = {name: {template.split("/")[-1] for template in found} for name, found in used.items()}
    assert last["requests"] == {REQUEST} and last["locating"] == set(LOCATING)
    assert last["paraphrases"].isdisjoint(last["requests"] | last["locating"])
    texts = templates.set_index("template")
    assert (texts.loc[sorted(used["paraphrases"]), "split"] == "held_out").all()
    assert (texts.loc[sorted(used["requests"] | used["locating"]), "split"] == "train").all()
    prompts = [set(zip(getattr(edits, name)["language"], getattr(edits, name)["prompt"], strict=True)) for name in used]
    assert prompts[0].isdisjoint(prompts[2]) and prompts[1].isdisjoint(prompts[2])
    held_out = edits.paraphrases.groupby(["edit", "language"])["prompt"].nunique()
    assert held_out.min() >= 2 and len(held_out) == 240 * 12


def test_prompts_give_no_answer_away(edits):
    for row in edits.requests.itertuples():
        assert row.new.casefold() not in row.prompt.casefold(), row.edit
    for row in edits.paraphrases.itertuples():
        assert row.new.casefold() not in row.prompt.casefold(), (row.edit, row.prompt)
    for row in edits.portability.itertuples():
        assert row.new.casefold() not in row.prompt.casefold(), (row.edit, row.prompt)


# Rule 4


def test_neighbours_are_what_their_kind_says(rows, table):
    for row in rows:
        edited, kinds = table.loc[row["fact"]], row["locality"]
        same = table.loc[kinds["same_subject"]]
        assert len(same) == (0 if edited.relation == "country" else 2) and same.index.is_unique
        assert (same["subject_id"] == edited.subject_id).all() and (same["relation"] != edited.relation).all()
        relation = table.loc[kinds["same_relation"]]
        assert len(relation) == 5 and relation.index.is_unique
        assert (relation["relation"] == edited.relation).all() and row["fact"] not in relation.index
        counts = relation["object_id"].value_counts()
        assert counts[row["new"]] == 1, row["edit"]
        assert counts.get(edited.object_id, 0) <= 3
        unrelated = table.loc[kinds["unrelated"]]
        assert (
            len(unrelated) == 5
            and unrelated["relation"].is_unique
            and edited.relation not in set(unrelated["relation"])
        )
        own = {edited.subject_id, edited.object_id, row["new"]}
        assert own.isdisjoint(unrelated["subject_id"]) and own.isdisjoint(unrelated["object_id"]), row["edit"]


def test_three_neighbours_keep_the_old_object_where_there_are(rows, table, entangled):
    edited = {row["fact"] for row in rows}
    clean = table[[not a and not b for a, b in zip(table["leak"], table["ambiguous"], strict=True)]]
    free = clean[~clean.index.isin(edited | entangled)]
    fewer = 0
    for row in rows:
        old = table.loc[row["fact"]]
        there = ((free["relation"] == old.relation) & (free["object_id"] == old.object_id)).sum()
        kept = (table.loc[row["locality"]["same_relation"], "object_id"] == old.object_id).sum()
        assert kept == min(3, there), row["edit"]
        fewer += kept < 3 and old.relation != "capital"
    assert fewer == 27  # 4 currencies, 23 cities: the number that the card gives


def test_every_neighbour_is_asked_in_every_language(edits):
    asked = edits.locality.groupby(["edit", "kind", "fact"])["language"].nunique()
    assert (asked == 12).all() and not edits.locality.duplicated(["edit", "kind", "query"]).any()


# Rule 5


def test_portability_changes_the_answer(rows, table, names, edits):
    for row in rows:
        assert 1 <= len(row["portability"]) <= 2, row["edit"]
        for item in row["portability"]:
            for code in CODES:
                assert set(names[item["old"]][code]).isdisjoint(names[item["new"]][code]), (row["edit"], code)
    changed = edits.portability[edits.portability["kind"] == "portability"]
    assert (changed["answer"] != changed["new"]).all()
    wordings = changed.groupby(["edit", "question", "language"])["prompt"].nunique()
    assert (wordings == WORDINGS).all()


def test_portability_follows_from_the_edit(rows, table):
    """Each question is answered here from the facts, by its own meaning."""
    known = {(row.relation, row.subject_id): row.object_id for row in table.itertuples()}
    given = {row["new"] for row in rows if row["fact"].startswith("capital:")}
    capitals = Counter(table.loc[table["relation"] == "capital", "object_id"])
    for row in rows:
        subject = table.at[row["fact"], "subject_id"]
        for item in row["portability"]:
            what, by = item["question"].split("_by_")
            if item["question"] == "country_by_capital":
                assert item["subject"] == subject and item["new"] == known["country", row["new"]]
            elif by == "capital":
                assert item["subject"] == known["capital", subject] and item["new"] == row["new"]
                assert item["subject"] not in given and capitals[item["subject"]] == 1, row["edit"]
            else:
                assert item["subject"] == subject and item["new"] == known[what, row["new"]]
                assert item["old"] == known[what, known["country", subject]]
            if item["ceiling"]:
                one = item["ceiling"]
                place = known["country", one["subject"]]
                assert known[what, place] == one["answer"], row["edit"]
                assert by == "city" or (known["capital", place] == one["subject"] and one["subject"] not in given)


def test_ceiling_stands_beside_all_but_one_question(rows, edits):
    without = {item["question"] for row in rows for item in row["portability"] if item["ceiling"] is None}
    assert without == {"country_by_capital"}
    ceiling = edits.portability[edits.portability["kind"] == "ceiling"]
    assert (ceiling["answer"] == ceiling["new"]).all()
    assert set(ceiling["fact"]).isdisjoint(edits.requests["fact"])


def test_seen_sentences_are_those_of_training(edits, facts):
    flags = facts.set_index("fact")["one_hop"]
    seen = edits.portability[edits.portability["seen"]]
    assert len(seen) > 500 and flags[seen["fact"]].all()
    assert set(seen["question"]) == {"continent_by_capital", "currency_by_capital", "language_by_capital"}
    text = load_portability().set_index("template")["trained"]
    assert text[seen["template"]].all() and not text.all()
    untrained = edits.portability[edits.portability["question"].str.endswith("by_city")]
    assert not untrained["seen"].any() and (untrained["split"] == "held_out").all()


def test_one_hop_questions_have_known_tokens(edits, tokenizer):
    backend, unknown = tokenizer.backend_tokenizer, tokenizer.unk_token_id
    queries = edits.portability
    for row in queries.itertuples():
        encoded = backend.encode(row.prompt + row.space + row.new, add_special_tokens=False)
        assert unknown not in encoded.ids, row.prompt
        assert len(row.prompt) in {a for a, _ in encoded.offsets}, (row.prompt, encoded.tokens)


def test_one_hop_questions_are_clean_text_in_their_script():
    table = load_portability()
    assert (table.groupby(["question", "language"])["text"].nunique() == WORDINGS).all()
    assert len(table) == 7 * WORDINGS * 12
    for row in table.itertuples():
        assert row.template.startswith(f"{row.question}/{row.language}/")
        assert unicodedata.is_normalized("NFC", row.text) and "  " not in row.text and row.text.isprintable()
        assert in_script(row.text.replace("{S}", "").replace("{O}", ""), row.language), row.template
