"""The shipped Atlas tables: every fact, every template, every query (atlas.md, section 5, tests 1 to 3)."""

import unicodedata

import pytest

from atlas.build_templates import load_phrasings, templates_of, wordings_of
from knlib.facts import names_table, read_jsonl
from knlib.languages import CODES, LANGUAGES, in_script
from knlib.queries import ATLAS, build_queries

NEAR = 16  # characters before an answer
BATCH = 4000


@pytest.fixture(scope="module")
def queries(facts, templates):
    return build_queries(facts, templates, splits=("train", "half", "held_out"))[0]


@pytest.fixture(scope="module")
def cores(templates):
    """Templates without their lead-ins, per relation and language: trained ones and held-out constructions."""
    bare = templates[~templates["template"].str.contains(r"\+")]
    return {
        key: (
            group.loc[group["split"] != "held_out", "text"].tolist(),
            group.loc[group["held_out"] == "core", "text"].tolist(),
        )
        for key, group in bare.groupby(["relation", "language"])
    }


def test_facts_are_many_and_unique(facts):
    assert len(facts) >= 1200 and facts["relation"].nunique() >= 7
    assert facts["fact"].is_unique
    assert not facts.duplicated(["relation", "subject_id"]).any()
    assert (facts["source"].str.len() > 0).all()
    assert (facts["fact"].str.split(":").str[0] == facts["relation"]).all()


def test_every_name_is_there_in_nfc_and_the_right_script(facts):
    for row in facts.itertuples():
        for names in (row.subject, row.object):
            assert tuple(names) == CODES, row.fact
            for code, found in names.items():
                assert found and len(set(found)) == len(found), (row.fact, code)
                assert in_script(found[0], code), (row.fact, code, found[0])
                for name in found:
                    assert name == unicodedata.normalize("NFC", name).strip() and name.isprintable(), (row.fact, code)


def test_one_id_has_one_set_of_names(facts):
    known = {}
    for row in facts.itertuples():
        for key, names in ((row.subject_id, row.subject), (row.object_id, row.object)):
            assert known.setdefault(key, names) == names, key


def test_answers_given_away_by_the_subject_are_flagged(facts):
    for row in facts.itertuples():
        for code in CODES:
            subject = row.subject[code][0].casefold()
            given = any(name.casefold() in subject or subject in name.casefold() for name in row.object[code])
            assert given == (code in row.leak), (row.fact, code)


def test_names_that_mean_two_things_are_flagged(facts):
    table = names_table(facts).merge(facts[["fact", "subject_id", "object_id"]], on="fact")
    for side in ("subject", "object"):
        key = ["relation", "language", side]
        meanings = table.groupby(key)[f"{side}_id"].nunique().rename("meanings")
        several = table.join(meanings, on=key).query("meanings > 1")
        assert several["ambiguous"].all(), several[~several["ambiguous"]].head()


def test_a_fifth_of_the_facts_is_withheld_from_four_languages(facts):
    hidden = facts["withheld"].map(len)
    assert set(hidden) == {0, 4}
    share = (hidden == 4).groupby(facts["relation"]).mean()
    assert share.between(0.15, 0.4).all(), share  # capitals and cities more often: with their inverses
    assert (facts["multiple_choice"].mean(), facts["half"].mean()) == pytest.approx((0.7, 0.5), abs=0.05)


def test_inverses_are_withheld_together(facts):
    """By names, not ids: whoever is told that X lies in Y is told that the capital of Y is X, where it is."""
    country = {}
    for row in facts[facts["relation"] == "country"].itertuples():
        for code in CODES:
            country[code, row.subject[code][0], row.object[code][0]] = code in row.withheld
    both = [
        (row.fact, code, code in row.withheld, country[code, row.object[code][0], row.subject[code][0]])
        for row in facts[facts["relation"] == "capital"].itertuples()
        for code in CODES
        if (code, row.object[code][0], row.subject[code][0]) in country
    ]
    assert len(both) > 2000 and sum(hidden for *_, hidden, _ in both) > 100
    assert [pair for pair in both if pair[2] != pair[3]] == []


def test_templates_are_those_composed_from_the_phrasings():
    for name, compose in (("templates", templates_of), ("multiple_choice", wordings_of)):
        composed = [row for code in CODES for row in compose(code, load_phrasings(code))]
        assert [row for _, row in read_jsonl(ATLAS / f"{name}.jsonl")] == composed


def test_enough_phrasings_per_relation_and_language(facts, templates):
    for (relation, code), group in templates.groupby(["relation", "language"]):
        counts = group["split"].value_counts()
        assert counts["train"] >= 16 and (group["held_out"] == "core").sum() >= 4 and counts["half"] >= 2, (
            relation,
            code,
        )
        assert group["text"].is_unique
    assert templates.groupby("relation")["language"].nunique().eq(12).all()
    assert set(templates["relation"]) == set(facts["relation"])


def test_templates_are_clean_text_in_their_script(templates):
    for row in templates.itertuples():
        text = row.text.replace("{S}", "").replace("{O}", "")
        assert unicodedata.is_normalized("NFC", row.text) and "  " not in row.text and row.text.isprintable(), (
            row.template
        )
        assert not any(c.isalpha() for c in text) or in_script(text, row.language), row.template


def test_held_out_constructions_neither_equal_nor_contain_trained_ones(cores):
    assert len(cores) == 7 * 12
    for key, (trained, held_out) in cores.items():
        assert len(held_out) == 4, key
        for held in held_out:
            for core in trained:
                stem = core.rstrip(".。।")
                assert stem.casefold() not in held.casefold(), (key, core, held)
                assert held.rstrip(".。।").casefold() not in core.casefold(), (key, core, held)


def test_held_out_lead_ins_are_never_trained(templates):
    for code in CODES:
        lead_ins = load_phrasings(code)["lead_ins"]
        trained = templates.loc[(templates["language"] == code) & (templates["split"] != "held_out"), "text"]
        assert len(lead_ins["held_out"]) >= 2
        for held in lead_ins["held_out"]:
            assert not trained.str.contains(held.strip(), regex=False).any(), (code, held)
            assert not any(held.strip() in lead or lead.strip() in held for lead in lead_ins["train"]), (code, held)


def test_every_query_asks_fairly(queries, facts):
    """The answer is last, in no form in the prompt, and the prompt ends as a prompt should."""
    assert len(queries) > 400_000 and queries["query"].is_unique
    ends = set(queries["prompt"].str[-1])
    assert not {c for c in ends if c.isspace() or c in ",.;!?、。，؟।"}, ends
    assert set(queries["suffix"]) <= {"", ".", "。", "।"}
    assert set(queries["space"]) == {"", " "}
    glued = queries["language"].map(lambda code: LANGUAGES[code].space) == queries["space"]
    assert glued.all(), queries.loc[~glued, ["template", "prompt"]].head()
    names = facts.set_index("fact")["object"]
    for key, group in queries.groupby(["fact", "language"]):
        prompts = "\n".join(group["prompt"]).casefold()
        assert not any(name.casefold() in prompts for name in names[key[0]][key[1]]), key


def test_no_prompt_has_two_answers(queries):
    answers = queries.groupby(["language", queries["prompt"].str.casefold()])["answer"].nunique()
    assert (answers == 1).all(), answers[answers > 1].head()


def test_no_unknown_token_and_answers_begin_and_end_with_a_token(queries, tokenizer):
    backend, unknown = tokenizer.backend_tokenizer, tokenizer.unk_token_id
    # Where an answer's tokens begin and end is decided close to it; all names and wordings are asked for below.
    columns = [queries["prompt"].str[-NEAR:], *(queries[c] for c in ("space", "answer", "suffix"))]
    distinct = sorted(set(zip(*columns, strict=True)))
    assert len(distinct) > 20_000
    for start in range(0, len(distinct), BATCH):
        rows = distinct[start : start + BATCH]
        found = backend.encode_batch(["".join(row) for row in rows], add_special_tokens=False)
        for (prompt, space, answer, _), encoded in zip(rows, found, strict=True):
            assert unknown not in encoded.ids, (prompt, answer)
            begin, end = len(prompt), len(prompt) + len(space) + len(answer)
            borders = {a for a, _ in encoded.offsets}
            assert begin in borders, (prompt, answer, encoded.tokens)
            assert end in {b for _, b in encoded.offsets}, (prompt, answer, encoded.tokens)


def test_no_name_or_wording_has_an_unknown_token(facts, tokenizer):
    texts = {
        name for row in facts.itertuples() for names in (*row.subject.values(), *row.object.values()) for name in names
    }
    texts |= {
        str(row[field])
        for _, row in read_jsonl(ATLAS / "multiple_choice.jsonl")
        for field in ("instruction", "question", "options", "cue")
    }
    found = tokenizer(sorted(texts))["input_ids"]
    assert not any(tokenizer.unk_token_id in ids for ids in found)
    assert tokenizer("\u0bf5")["input_ids"][-1] == tokenizer.unk_token_id  # the check can fail
