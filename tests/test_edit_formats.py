"""Loaders of public edit sets: on small files written here, and on the sets themselves where you have them."""

import json
import lzma
import os
from pathlib import Path

import pytest

from knlib.edit_formats import PREFIX, REQUEST_COLUMNS, load_counterfact, load_parallel, load_zsre
from knlib.editing.requests import check_requests
from knlib.errors import InputError

DATASETS = Path(os.environ.get("KNLIB_DATASETS", Path(__file__).resolve().parents[2] / "shared" / "datasets"))


def texts(subject="Ada", src="Where does Ada live?", alt="Rome", **more) -> dict:
    found = {
        "subject": subject, "src": src, "rephrase": "Ada lives where?", "alt": alt, "loc": "nq question: types of tea",
        "loc_ans": "green", "portability": {"New Question": "In which country does Ada live?", "New Answer": "Italy"},
    }  # fmt: skip
    return found | more


def write(path: Path, rows: list) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows) if ".jsonl" in path.suffixes else json.dumps(rows)
    path.write_bytes(lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())
    return path


RECORDS = [
    {"n": 0, "langs": {"en": texts(), "cz": texts(src="Kde žije Ada?", rephrase="Kde žije Ada?"), "zh-cn": texts()}},
    {"n": 1, "langs": {"en": texts(alt="Oslo", src="Who is she?"), "cz": texts(subject=" "), "zh-cn": texts(alt="")}},
    {"n": 2, "langs": {"en": texts(subject="Bo", alt=7), "cz": "nothing",
                       "zh-cn": texts(subject="Bo", loc="", portability={})}},
    {"n": 3, "langs": {"en": texts(subject="Cy", alt="Italy",
                                   portability={"New Question": "Is it in ITALY?", "New Answer": "y"})}},
    {"n": 0, "langs": {"en": texts()}},
]  # fmt: skip


@pytest.mark.parametrize("name", ["set.jsonl", "set.jsonl.xz", "set.json", "set.json.xz"])
def test_every_record_loads_or_is_reported(tmp_path, name):
    requests, report = load_parallel(write(tmp_path / name, RECORDS))
    assert list(requests) == REQUEST_COLUMNS
    check_requests(requests)  # what every editor asks of them
    assert requests[["edit", "language", "new"]].values.tolist() == [
        ["set/0", "cs", "Rome"], ["set/0", "en", "Rome"], ["set/0", "zh", "Rome"], ["set/1", "en", "Oslo"],
        ["set/2", "zh", "Rome"], ["set/3", "en", "Italy"],
    ]  # fmt: skip
    found = report.set_index("reason")
    dropped = found[~found["kept"]]["count"].to_dict()
    assert dropped == {
        "subject: empty": 1, "alt: empty": 1, "alt: not text": 1, "not an object": 1, "language missing": 2,
        "id comes twice": 3,
    }  # fmt: skip
    assert len(requests) + sum(dropped.values()) == len(RECORDS) * 3
    assert found[found["kept"]]["count"].to_dict() == {
        "loaded": 6, "paraphrase equals the prompt": 1, "subject with several new objects": 2,
        "subject not in the prompt": 3, "new object in the portability question": 1, "no paraphrase": 0,
        "no locality": 1, "no portability": 1,
    }  # fmt: skip
    assert found.at["subject: empty", "examples"] == ("set/1 cs",)


def test_texts_and_flags_of_a_record(tmp_path):
    requests, _ = load_parallel(write(tmp_path / "set.jsonl", RECORDS), languages="en,cs,zh")
    rows = requests.set_index(["edit", "language"])
    english = rows.loc["set/0", "en"]
    assert english["prompt"] == "Where does Ada live?" and english["answer"] == ""
    assert (english["space"], rows.at[("set/0", "zh"), "space"], english["suffix"]) == (" ", "", "")
    assert english["paraphrase"] == "Ada lives where?"
    # by characters, as str.lstrip does it, "types" would lose its beginning
    assert english["locality"] == "types of tea" != "nq question: types of tea".lstrip(PREFIX)
    assert (english["portability"], english["portability_answer"]) == ("In which country does Ada live?", "Italy")
    assert rows["rephrase_is_source"].to_dict() == {key: key == ("set/0", "cs") for key in rows.index}
    assert rows.index[rows["conflict"]].tolist() == [("set/0", "en"), ("set/1", "en")]
    assert rows["subject_in_prompt"].to_dict()["set/1", "en"] is False
    assert rows.index[rows["new_in_portability"]].tolist() == [("set/3", "en")]


def test_the_layout_of_bi_zsre_and_the_old_object(tmp_path):
    records = [{"en": texts(old="Lima"), "zh": texts(old="利马"), "case_id": 5}]
    requests, report = load_parallel(write(tmp_path / "bi.json", records))
    assert requests[["edit", "language", "answer"]].values.tolist() == [["bi/0", "en", "Lima"], ["bi/0", "zh", "利马"]]
    assert report["kept"].all()


def test_languages_are_chosen_by_their_own_codes(tmp_path):
    path = write(tmp_path / "set.jsonl", RECORDS)
    assert load_parallel(path, languages="cs")[0]["language"].unique().tolist() == ["cs"]
    with pytest.raises(InputError, match="languages: found 'cz', expected one of cs en zh"):
        load_parallel(path, languages="cz")


def test_zsre_and_counterfact_records(tmp_path):
    record = texts(pred="Bern", answers=["Lima", "Ciudad"]) | {"portability": 3}
    records = [record, texts(alt=""), texts(answers=["Rome"]), texts(answers=3)]
    requests, report = load_zsre(write(tmp_path / "zsre.json", records), "en")
    assert requests[["answer", "new", "portability"]].values.tolist() == [["Lima", "Rome", ""], ["", "Rome", ""]]
    dropped = report[~report["kept"]][["reason", "count"]].values.tolist()
    assert dropped == [["alt: empty", 1], ["the new object is the old one", 1]]
    record = {
        "case_id": 7, "prompt": "Ada lives in", "target_new": "Rome", "subject": "Ada", "ground_truth": "Lima",
        "rephrase_prompt": "Ada's home:", "locality_prompt": "Bo lives in", "locality_ground_truth": "Lima",
    }  # fmt: skip
    requests, report = load_counterfact(write(tmp_path / "cf.json", [record]))
    row = requests.iloc[0]
    assert (row["edit"], row["language"], row["prompt"], row["answer"], row["new"]) == (
        "cf/7", "en", "Ada lives in", "Lima", "Rome",
    )  # fmt: skip
    assert (row["paraphrase"], row["locality"], row["locality_answer"]) == ("Ada's home:", "Bo lives in", "Lima")
    assert report.set_index("reason").at["no portability", "count"] == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b"[]", "a.json: found no list of records"),
        ("a.json", b'{"x": 1}', "found no list of records"),
        ("a.json", b"[1]", "a.json, record 0: found 1, expected a JSON object"),
        ("a.jsonl", b'{"x": 1}\n{', "a.jsonl: found broken JSON"),
        ("a.json", b"\xff", "unreadable data"),
        ("a.json.xz", b"[]", "unreadable data"),
        ("a.json", b'[{"langs": {}}]', "a.json, record 0: found .*, expected texts by language"),
        ("a.json", b'[{"prompt": "x"}]', "expected texts by language"),
    ],
)
def test_what_is_not_of_the_format_is_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_parallel(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: found no such file"):
        load_counterfact(tmp_path / "none.json")


# The sets themselves


def public(name: str) -> Path:
    path = DATASETS / name
    if not path.exists():
        pytest.skip(f"no file {path}")
    return path


def test_mzsre():
    requests, report = load_parallel(public("mzsre/mzsre12.jsonl.xz"))
    assert report["kept"].all() and len(requests) == 743 * 12
    assert (requests["language"].value_counts() == 743).all()
    assert set(requests["language"]) == {"cs", "de", "nl", "en", "es", "fr", "pt", "ru", "th", "tr", "vi", "zh"}
    equal = requests.groupby("language")["rephrase_is_source"].mean()
    assert (equal[["en", "zh"]] == 0).all() and equal.drop(["en", "zh"]).between(0.16, 0.27).all()
    assert requests.query("language == 'en'")["new_in_portability"].mean() == pytest.approx(0.27, abs=0.005)
    assert requests.groupby("language")["subject_in_prompt"].mean()["th"] == pytest.approx(0.18, abs=0.005)


def test_stripping_by_characters_would_damage_sixty_prompts():
    requests, _ = load_parallel(public("mzsre/mzsre12.jsonl.xz"), languages="en")
    damaged = sum((PREFIX + text).lstrip(PREFIX) != text for text in requests["locality"])
    assert damaged == 60 and not requests["locality"].str.startswith(PREFIX).any()


@pytest.mark.parametrize(
    ("name", "records", "dropped"),
    [
        ("mzsre53", 743, {"az": 6}),
        ("mcounterfact53", 1031, {"da": 3, "sk": 2, "th": 5}),
        ("wikifactdiff53", 784, {"th": 2}),
    ],
)
def test_bmike53(name, records, dropped):
    languages = None if name == "mzsre53" else "en,da,sk,th,zh"  # reading all of them takes ten seconds each
    requests, report = load_parallel(public(f"bmike53/{name}.jsonl.xz"), languages=languages)
    found = requests["language"].value_counts()
    assert len(found) == (5 if languages else 53)
    assert {code: records - n for code, n in found.items() if n != records} == dropped
    assert report[~report["kept"]]["count"].sum() == sum(dropped.values())


def test_counterfact():
    parts = [
        load_counterfact(public(f"counterfact/counterfact-{part}.json.xz"))[0] for part in ("train", "edit", "val")
    ]
    assert [len(part) for part in parts] == [10_000, 10_000, 1_919]
    assert parts[1]["subject"].nunique() == 9_587
    assert all((part["locality_answer"] == part["answer"]).all() and part["subject_in_prompt"].all() for part in parts)


def test_zsre():
    requests, report = load_zsre(public("zsre/zsre_mend_eval_chinese.json.xz"), "zh")
    dropped = report[~report["kept"]].set_index("reason")["count"].to_dict()
    assert len(requests) == 2_890 and dropped == {"alt: empty": 10, "the new object is the old one": 100}
    requests, report = load_zsre(public("zsre/zsre_mend_train-1k.json"), "en")
    dropped = report[~report["kept"]].set_index("reason")["count"].to_dict()
    assert len(requests) == 981 and dropped == {"alt: empty": 2, "the new object is the old one": 17}
