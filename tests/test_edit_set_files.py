"""Edit sets of other folders, and what is wrong with a malformed file."""

import json

import pytest

from knlib.edit_set import load_edits
from knlib.errors import InputError


def small(benchmark, *, wording=None, **changes):
    """A folder with one edit, one field of it changed."""
    templates = [
        {"template": f"capital/{code}/{name}", "relation": "capital", "language": code, "text": text, **split}
        for code in ("en", "de")
        for name, text, split in (
            ("train0", "{S}: capital {O}.", {"split": "train"}),
            ("train1", "{S}, capital {O}.", {"split": "train"}),
            ("held0", "{S} = {O}.", {"split": "held_out", "held_out": "core"}),
        )
    ]
    folder = benchmark(templates=templates)
    row = {
        "edit": "e", "fact": "capital:FR", "new": "lima", "split": "dev",
        "locality": {"same_subject": [], "same_relation": ["capital:PE", "capital:CH"], "unrelated": []},
        "portability": [{"question": "q", "subject": "FR", "old": "FR", "new": "PE", "rests_on": [], "ceiling": None}],
    }  # fmt: skip
    hops = [wording or {"template": f"q/{code}/0", "question": "q", "relation": "country", "language": code,
                        "text": "{S} → {O}.", "trained": False} for code in ("en", "de")]  # fmt: skip
    for name, lines in (("edits", [row | changes]), ("portability", hops)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
    return folder


def test_edits_of_another_folder(benchmark):
    edits = load_edits(small(benchmark))
    assert edits.requests[["language", "prompt", "answer", "new"]].values.tolist() == [
        ["en", "France: capital", "Paris", "Lima"], ["de", "Frankreich: capital", "Paris", "Lima"],
    ]  # fmt: skip
    assert edits.locality["answer"].tolist() == ["Lima", "Lima", "Bern", "Bern"]
    assert edits.portability[["prompt", "answer", "new"]].values.tolist() == [
        ["France →", "France", "Peru"], ["Frankreich →", "Frankreich", "Peru"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fact": "capital:XX"}, "edits.jsonl, line 1, field 'fact': found 'capital:XX', expected a fact"),
        ({"new": "paris"}, "field 'new': found 'paris', expected another object of the relation capital"),
        ({"new": "FR"}, "field 'new': found 'FR'"),
        ({"split": "train"}, "field 'split': found 'train', expected dev or test"),
        ({"edit": ""}, "field 'edit': found ''"),
        ({"locality": {"unrelated": []}}, "field 'locality'"),
        ({"locality": {"same_subject": ["x"], "same_relation": [], "unrelated": []}}, "same_subject: found 'x'"),
        ({"locality": {"same_subject": 3, "same_relation": [], "unrelated": []}}, "found 3, expected a list"),
        ({"portability": None}, "field 'portability': found None, expected a list"),
        ({"portability": ["x"]}, "item 0: found 'x', expected an object"),
        ({"portability": [{"question": "r"}]}, "field 'question': found 'r', expected a question of portability.jsonl"),
        ({"portability": [{"question": "q", "subject": "FR", "old": "FR", "new": 3}]}, "field 'new': found 3"),
        ({"portability": [{"question": "q", "subject": "FR", "old": "FR", "new": "PE", "rests_on": ["no"]}]},
         "field 'rests_on': found 'no', expected a fact of facts.jsonl"),
        ({"portability": [{"question": "q", "subject": "FR", "old": "FR", "new": "PE", "rests_on": [], "ceiling": []}]},
         "field 'ceiling': found []"),
        ({"fact": "capital:LU"}, "found no request in en"),
    ],
)  # fmt: skip
def test_a_malformed_edit_is_named(benchmark, changes, message):
    with pytest.raises(InputError) as error:
        load_edits(small(benchmark, **changes))
    assert message in str(error.value)


def test_a_fact_is_edited_once(benchmark):
    folder = small(benchmark)
    path = folder / "edits.jsonl"
    row = json.loads(path.read_text("utf8"))
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"edit": "other"}) + "\n", "utf8")
    with pytest.raises(InputError, match=r"line 2, field 'fact': found 'capital:FR', expected each once \(line 1"):
        load_edits(folder)


def test_a_malformed_question_is_named(benchmark):
    wording = {"template": "q/en/0", "question": "q", "relation": "country", "language": "en", "text": "{S} {O}"}
    with pytest.raises(InputError, match=r"portability.jsonl, line 1, field 'trained': found None"):
        load_edits(small(benchmark, wording=wording))
    with pytest.raises(InputError, match=r"line 1, field 'text'.* the slot \{O\} exactly once"):
        load_edits(small(benchmark, wording=wording | {"text": "{S}", "trained": False}))


def test_unknown_split_or_language():
    with pytest.raises(InputError, match="split: found 'train'"):
        load_edits(split="train")
    with pytest.raises(InputError, match="languages: found 'fi'"):
        load_edits(languages=("fi",))
