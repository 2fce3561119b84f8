"""query_relevant/published.py: the reader, on records written here, and on the published files where they are."""

import json
from collections import Counter

import pytest

from knlib.errors import InputError
from knlib.multiple_choice import load_wordings
from knlib.query_relevant.published import FILES, FOLDER, load_published
from knlib.query_relevant.questions import questions, splits


def sentence(options, cue="Say:"):
    return "\n".join(["Which?", *(f" {letter}. {o}" for letter, o in zip("ABCD", options, strict=False)), "", cue])


def record(**changes):
    """A sound record of both sets: the gold option is x, in another place in each wording."""
    sentences = [sentence(o) for o in (["x", "y", "z", "w"], ["y", "x", "z", "w"], ["w", "y", "z", "x"])]
    return {
        "sentences": sentences,
        "obj_label": ["A", "B", "D"],
        "relation_name": "en",
        "relation": "P1",
        "ori_label": "x",
    } | changes


@pytest.fixture
def read(tmp_path):
    def read(records, name="language"):
        text = records if isinstance(records, str) else json.dumps(records)
        (tmp_path / FILES[name]).write_text(text, encoding="utf-8")
        return load_published(name, tmp_path)

    return read


def published(name):
    path = FOLDER / FILES[name]
    if not path.is_file():
        pytest.skip(f"no file {path}")
    return load_published(name)


def test_a_record_gives_three_prompts(read):
    prompts, problems = read({"u": record()}, "domain")
    assert problems.empty and prompts["query"].tolist() == ["u|0", "u|1", "u|2"]
    assert prompts["wording"].tolist() == ["en/0", "en/1", "en/2"] and set(prompts["fact"]) == {"u"}
    assert prompts["answer"].tolist() == ["A", "B", "D"] and set(prompts["gold"]) == {"x"}
    assert prompts["options"].iloc[1] == ("y", "x", "z", "w") and prompts["prompt"].iloc[0].endswith("Say:")


def test_translations_share_their_fact(read):
    prompts, _ = read({"a": record(), "b": record(), "c": record(relation_name="fr"), "d": record(relation_name="fr")})
    assert prompts.drop_duplicates(["fact", "language"])[["fact", "language"]].values.tolist() == [
        ["P1:0", "en"], ["P1:1", "en"], ["P1:0", "fr"], ["P1:1", "fr"]]  # fmt: skip
    assert set(prompts["relation"]) == {"P1"} and len(questions(prompts)) == 4


def test_a_record_left_out_does_not_shift_its_successors(read):
    prompts, problems = read({"a": record(obj_label=["A", "B", "E"]), "b": record(), "c": record(relation_name="fr")})
    assert sorted(prompts["fact"].unique()) == ["P1:0", "P1:1"] and problems["record"].tolist() == ["a"]
    assert prompts.loc[prompts["language"] == "en", "fact"].unique().tolist() == ["P1:1"]


@pytest.mark.parametrize(("changes", "reason"), [
    ({"sentences": "x"}, "sentences: not 3 texts"),
    ({"sentences": ["x", "y"]}, "sentences: not 3 texts"),
    ({"sentences": ["x", "y", 3]}, "sentences: not 3 texts"),
    ({"obj_label": ["A", "B"]}, "obj_label: not 3 texts"),
    ({"obj_label": ["A", "B", "E"]}, "obj_label 2: 'E' is not one of A B C D"),
    ({"relation_name": ""}, "relation_name: no text"),
    ({"relation": None}, "relation: no text"),
    ({"relation": ["P1"]}, "relation: no text"),
    ({"ori_label": None}, "ori_label: no text"),
    ({"sentences": [sentence("xyz")] * 3}, "sentence 0: options A B C, not A B C D"),
    ({"sentences": ["Which?"] * 3}, "sentence 0: options none, not A B C D"),
    ({"obj_label": ["A", "C", "D"]}, "sentence 1: option C is not ori_label"),
])  # fmt: skip
def test_a_malformed_record_is_reported_with_its_reason(read, changes, reason):
    prompts, problems = read({"good": record(), "bad": record(**changes)})
    assert problems.values.tolist() == [["bad", reason, False]]
    assert len(prompts) == 3 and prompts["query"].str.startswith("good").all()


def test_a_record_that_is_no_object_is_reported(read):
    _, problems = read({"bad": ["x"], "worse": None})
    assert problems["reason"].tolist() == ["a record is an object, not list", "a record is an object, not NoneType"]


def test_a_repeated_option_is_reported_and_kept(read):
    prompts, problems = read({"u": record(sentences=[sentence("xyyw"), sentence("yxzw"), sentence("wyzx")])})
    assert problems.values.tolist() == [["u", "an option is repeated", True]] and len(prompts) == 3


def test_files_that_cannot_be_read_are_named(read, tmp_path):
    with pytest.raises(InputError, match=r"subject_qa.json: found no file"):
        load_published("domain", tmp_path)
    with pytest.raises(InputError, match=r"language_qa.json: found text that is no JSON"):
        read("{")
    with pytest.raises(InputError, match=r"language_qa.json: found list, expected an object"):
        read("[]")
    with pytest.raises(InputError, match="name: found 'x', expected one of domain language sample"):
        load_published("x")


def test_the_domain_set_is_as_described():
    """Spec test 16, section 2.5."""
    prompts, problems = published("domain")
    sizes = dict.fromkeys(["biology", "physics", "chemistry", "mathematics", "geography"], 100) | {
        "computer_science": 52
    }
    assert prompts.drop_duplicates("fact")["relation"].value_counts().to_dict() == sizes
    assert Counter(prompts["answer"]) == {"A": 414, "B": 436, "C": 415, "D": 391}
    assert problems["reason"].tolist() == ["an option is repeated"] and problems["kept"].all()
    # One option set in all wordings.
    assert (prompts["options"].map(frozenset).groupby(prompts["fact"]).nunique() == 1).all()
    words = prompts["gold"].str.split().str.len()
    assert round(words.mean(), 1) == 3.1 and round((words == 1).mean(), 2) == 0.43 and words.max() == 16
    stems = prompts[prompts["wording"] == "en/0"]["prompt"].str.extract(r"question:\n((?s:.*?))\n A\. ")[0]
    assert stems.nunique() == 548 and stems.str.len().max() <= 300
    assert (prompts.groupby("fact")["answer"].nunique() == 1).sum() == 39
    assert [len(s.test) for s in splits(prompts)] == [552] * 3


def test_the_language_set_is_as_described():
    """Spec test 16, section 2.5."""
    prompts, problems = published("language")
    assert problems.empty and len(questions(prompts)) == 600
    counts = questions(prompts).groupby(["language", "relation"]).size()
    assert set(counts) == {20} and counts.index.levels[0].tolist() == ["ar", "en", "fr", "ja", "ru", "zh"]
    assert counts.index.levels[1].tolist() == ["P108", "P1303", "P159", "P17", "P19"]
    assert (questions(prompts).groupby("fact")["language"].nunique() == 6).all()
    assert Counter(prompts["answer"]) == {"A": 460, "B": 430, "C": 481, "D": 429}
    sets = prompts["options"].map(frozenset).groupby([prompts["fact"], prompts["language"]]).nunique()
    assert (sets > 1).all()
    assert (prompts.groupby(["fact", "language"])["answer"].nunique() == 1).sum() == 38
    # Aligned: a fact's English and French answers are mostly spelled alike.
    gold = prompts.drop_duplicates(["fact", "language"]).pivot(index="fact", columns="language", values="gold")
    assert (gold["en"] == gold["fr"]).mean() > 0.4


def test_the_sample_repeats_questions_of_the_domain_set():
    """Spec test 16, section 2.5: reordered options, the same questions."""
    sample, domain = published("sample")[0], published("domain")[0]
    assert sample["fact"].nunique() == 18

    def stems(prompts):
        rows = prompts[prompts["wording"] == "en/0"]
        return set(rows["prompt"].str.extract(r"question:\n((?s:.*?))\n A\. ")[0])

    assert stems(sample) <= stems(domain)


@pytest.mark.parametrize("name", list(FILES))
def test_no_line_of_our_wordings_is_published(name):
    """Spec test 15."""
    prompts, _ = published(name)
    theirs = {line.strip() for prompt in prompts["prompt"] for line in prompt.split("\n")} - {""}
    ours = load_wordings()
    lines = {
        line.strip()
        for column in ("instruction", "question", "cue")
        for text in ours[column]
        for line in text.split("\n")
    }
    assert not lines & theirs
