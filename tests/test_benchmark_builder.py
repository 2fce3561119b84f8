"""benchmark_*.py: mLAMA and mParaRel files through the gates; every row of the input is accounted for."""

import json
import lzma
import os
from collections import Counter
from pathlib import Path

import pytest
from mlama_files import NAMES, TEMPLATES, lines, write_packed, write_published

from knlib.benchmark_builder import build_benchmark
from knlib.benchmark_gates import choose_templates, slot_position, template_gate, tidy
from knlib.benchmark_report import report_text, same_answer, write_benchmark
from knlib.benchmark_sources import read_source
from knlib.errors import InputError
from knlib.facts import load_facts
from knlib.languages import in_script
from knlib.queries import SPLITS, build_queries, load_templates

DATASETS = Path(os.environ.get("KNLIB_DATASETS", Path(__file__).resolve().parents[2] / "shared" / "datasets"))
MLAMA = DATASETS / "mlama_mpararel"
# Of one script, and with patterns that mostly end with the answer: enough relations have facts in all twelve.
TWELVE = "en,es,fr,pt,it,ca,cs,pl,ro,ind,vi,hr"
needs_mlama = pytest.mark.skipif(not MLAMA.is_dir(), reason=f"no folder {MLAMA}")


@pytest.fixture
def published(tmp_path) -> Path:
    return write_published(tmp_path / "source")


@pytest.fixture
def packed(tmp_path) -> Path:
    return write_packed(tmp_path / "packed")


def outcomes(benchmark, part: str, relation: str) -> dict:
    rows = benchmark.outcomes.query("part == @part and relation == @relation")
    return {(row.language, row.outcome): row.rows for row in rows.itertuples()}


def input_counts(source) -> Counter:
    counts = Counter(("names", row.relation, row.language) for row in source.names.itertuples())
    return counts + Counter(("templates", row.relation, row.language) for row in source.patterns.itertuples())


def test_every_gate_drops_its_row(published):
    benchmark = build_benchmark(read_source(published))
    assert outcomes(benchmark, "names", "P36") == NAMES
    assert outcomes(benchmark, "templates", "P36") == TEMPLATES
    # four facts are asked: the three that stay, and Foo, whose English prompts all name the answer
    assert outcomes(benchmark, "queries", "P36") == {
        ("en", "kept"): 9, ("en", "object_in_prompt"): 3, ("fi", "kept"): 6, ("fi", "fact_dropped"): 2,
    }  # fmt: skip
    assert outcomes(benchmark, "names", "P19") == {("en", "not_parallel"): 1, ("fi", "no_templates"): 1}
    assert outcomes(benchmark, "templates", "P19") == {("en", "no_facts"): 2, ("fi", "too_few"): 1}


def test_report_sums_to_the_input(published):
    source = read_source(published)
    benchmark = build_benchmark(source)
    sums = benchmark.outcomes.groupby(["part", "relation", "language"])["rows"].sum()
    assert sums.drop("queries").to_dict() == input_counts(source)
    assert sums["queries", "P36"].to_dict() == {"en": 4 * 3, "fi": 4 * 2}
    assert benchmark.positions.query("language == 'en'").set_index("position")["rows"].to_dict() == {
        "last": 7, "inside": 1, "first": 1, "broken": 1,
    }  # fmt: skip


def test_what_is_built_loads_like_atlas(published, tmp_path):
    benchmark = build_benchmark(read_source(published))
    write_benchmark(benchmark, tmp_path / "out")
    facts, templates = load_facts(tmp_path / "out", languages=("en", "fi")), load_templates(tmp_path / "out")
    assert facts["fact"].tolist() == ["P36:Q142", "P36:Q419", "P36:Q258"]
    africa, peru = facts.set_index("fact").loc["P36:Q258"], facts.set_index("fact").loc["P36:Q419"]
    assert africa["object"] == {"en": ("Pretoria", "Cape Town"), "fi": ("Pretoria", "Kapkaupunki")}
    assert (africa["object_id"], africa["n_objects"], peru["n_objects"]) == ("Q3926", 2, 1)
    assert peru["subject"]["en"] == ("Peru", "Republic of Peru")
    # mLAMA's template first, then the one that a human has checked
    assert templates.loc[templates["language"] == "en", "text"].tolist() == [
        "The capital of {S} is {O}.", "{S} — capital: {O}", "capital of {S}, {O}",
    ]  # fmt: skip
    queries, report = build_queries(facts, templates)
    kept = benchmark.outcomes.query("part == 'queries' and outcome == 'kept'")["rows"].sum()
    assert len(queries) == report["slots"].sum() == kept == 15
    assert queries.groupby(["fact", "language"]).size().min() == 2
    assert not queries[["prompt", "answer", "subject"]].eq("").any(axis=None)
    assert not sorted(path.name for path in (tmp_path / "out").glob(".*"))


def test_both_layouts_give_the_same_benchmark(published, packed):
    one = build_benchmark(read_source(published, relations=["P36"]))
    other = build_benchmark(read_source(packed))
    assert (one.facts, one.templates) == (other.facts, other.templates)


def test_mode_mlm_keeps_words_behind_the_answer(published, tmp_path):
    source = read_source(published)
    write_benchmark(build_benchmark(source, mode="mlm"), tmp_path)
    last, all_ = load_templates(tmp_path), load_templates(tmp_path, mode="mlm")
    assert set(all_["text"]) - set(last["text"]) == {"{S} has {O} as capital."}
    queries, _ = build_queries(load_facts(tmp_path), all_)
    inside = queries[queries["suffix"] == " as capital."]
    assert inside["prompt"].tolist() == ["France has", "Peru has", "South Africa has"]
    # "Capital" stands in front of the slot in three English templates, behind it in the fourth
    assert outcomes(build_benchmark(source, mode="mlm"), "queries", "P36")["en", "object_in_prompt"] == 4


def test_a_fact_may_lose_languages_down_to_a_number(published, tmp_path):
    benchmark = build_benchmark(read_source(published), min_languages=1)
    write_benchmark(benchmark, tmp_path)
    spoken = {row.fact: set(row.subject) for row in load_facts(tmp_path).itertuples()}
    assert spoken == {
        "P19:Q7": {"en"}, "P36:Q142": {"en", "fi"}, "P36:Q419": {"en", "fi"}, "P36:Q258": {"en", "fi"},
        "P36:Q657": {"en"}, "P36:Q230": {"fi"}, "P36:Q1428": {"fi"}, "P36:Q1": {"fi"},
    }  # fmt: skip
    alike = same_answer(benchmark)  # of France, Peru, South Africa: two answers are spelled alike
    assert alike.loc["en", "fi"] == alike.loc["fi", "en"] == pytest.approx(2 / 3) and alike.loc["en", "en"] == 1


def test_cap_keeps_the_first_facts_of_an_object(published):
    for code, names in (("en", ("Gaul", "Paris")), ("fi", ("Gallia", "Pariisi"))):
        path = published / "mlama" / code / "P36.jsonl"
        lines(path, [json.loads(line) for line in path.read_text("utf8").splitlines()]
              + [{"lineid": 99, "sub_uri": "Q38060", "obj_uri": "Q90", "sub_label": names[0], "obj_label": names[1]}])  # fmt: skip
    source = read_source(published, relations=["P36"])
    assert [row["fact"] for row in build_benchmark(source).facts][-1] == "P36:Q38060"
    capped = build_benchmark(source, cap=1)
    assert [row["fact"] for row in capped.facts] == ["P36:Q142", "P36:Q419", "P36:Q258"]
    assert outcomes(capped, "names", "P36") == NAMES | {("en", "cap"): 1, ("fi", "cap"): 1}


def test_answers_with_unknown_tokens_are_dropped_and_named(published):
    class Letters:
        unk_token_id = 0

        def __call__(self, text, add_special_tokens):
            assert add_special_tokens is False
            return {"input_ids": [0 if c == "L" else 1 for c in text]}

    benchmark = build_benchmark(read_source(published), tokenizer=Letters())
    assert outcomes(benchmark, "names", "P36")["en", "unknown_token"] == 1
    assert "P36:Q419" not in {row["fact"] for row in benchmark.facts}
    tokens = benchmark.tokens.set_index(["language", "object"])
    assert tokens.loc[("fi", "Pariisi")].tolist() == [7, False] and tokens.loc[("en", "Lima")].tolist() == [4, True]
    assert "2 of 11 answers have an unknown token: en Lima, fi Lima." in report_text(benchmark)


def test_every_second_template_is_held_out_from_four_on(published):
    def splits(n):
        patterns = read_source(published, relations=["P36"]).patterns.iloc[[0] * n].reset_index(drop=True)
        patterns["pattern"] = [f"{'very ' * i}[X]: [Y]" for i in range(n)]
        return [row["split"] for row in choose_templates("P36", patterns, mode="causal", at_least=2, drop=None)]

    assert splits(3) == ["train"] * 3
    assert splits(5) == ["train", "held_out"] * 2 + ["train"] and set(splits(4)) <= set(SPLITS)


@pytest.mark.parametrize(
    ("pattern", "language", "gate"),
    [
        ("[X] on [Y].", "fi", None), ("[X] ([Y])", "fi", None), ("[X] - pääkaupunki [Y]", "fi", None),
        ("[X]: [Y]ssa", "fi", "glued"), ("[X] [Y]-ban", "hu", "glued"), ("[X]'in başkenti [Y]", "tr", "glued"),
        ("[X] [Y] 'da", "tr", "glued"), ("vana[X] [Y]", "et", "glued"), ("[X]'s capital is [Y]", "en", None),
        ("[X]의 수도는 [Y]", "ko", None), ("[X]n] on [Y]", "fi", "slots"), ("[X] {S} [Y]", "en", "slots"),
        ("[X] [X] [Y]", "en", "slots"), ("[X] 。 [Y]", "ja", None), ("capital [X]: [Y]", "ru", "script"),
    ],
)  # fmt: skip
def test_templates_one_by_one(pattern, language, gate):
    assert template_gate(pattern, language, "causal") == gate


def test_text_is_tidied_and_slots_are_found():
    assert tidy("Mac\u2009OS\u00a0 X\u200e") == "Mac OS X" and tidy("A\u0308") == "Ä" and tidy("क्\u200dष") == "क्\u200dष"
    assert [slot_position(p) for p in ("[X] in [Y] .", "[X] [Y] a", "[Y]: [X]", "[X]")] == ["last", "inside", "first", "broken"]  # fmt: skip


def test_indonesian_does_not_take_the_place_of_the_id(packed, published, tmp_path):
    """Its code is `id`, which is the key of the entity's id in facts.jsonl: it becomes `ind`."""
    (packed / "labels" / "fi.tsv.xz").rename(packed / "labels" / "id.tsv.xz")
    for name in ("mlama_templates.jsonl", "mpararel_patterns_reviewed.jsonl"):
        (packed / name).write_text((packed / name).read_text("utf8").replace('"lang": "fi"', '"lang": "id"'), "utf8")
    for path in ("mlama", "mpararel/tuples", "mpararel/patterns"):
        (published / path / "fi").rename(published / path / "id")
    for folder in (packed, published):
        with pytest.raises(InputError, match="languages: found 'id', expected one of en ind"):
            read_source(folder, languages="en,id")
        benchmark = build_benchmark(read_source(folder, relations=["P36"]))
        write_benchmark(benchmark, tmp_path / folder.name / "out")
        facts = load_facts(tmp_path / folder.name / "out", languages=("en", "ind"))
        assert facts["object_id"].tolist() == ["Q90", "Q2868", "Q3926"]
        assert facts["object"][0] == {"en": ("Paris",), "ind": ("Pariisi",)}


def test_chinese_is_mpararels_simplified_first(packed):
    (packed / "labels" / "zh.tsv.xz").write_bytes(
        lzma.compress("h\nm\tP36\t0\t法國\t巴黎\nm\tP36\t1\t秘魯\t利馬".encode())
    )
    (packed / "labels" / "zh-hans.tsv.xz").write_bytes(lzma.compress("h\np\tP36\t0\t法国\t巴黎".encode()))
    names = read_source(packed, languages="zh").names
    assert names[["line", "source", "subject"]].values.tolist() == [
        [0, "mpararel", "法国"], [0, "mlama", "法國"], [1, "mlama", "秘魯"],
    ]  # fmt: skip
    lines(packed / "mpararel_patterns_reviewed.jsonl", [{"lang": "zh-hans", "relation": "P36", "pattern": "[X]: [Y]"}])
    assert read_source(packed, languages="zh,zh-hans").patterns["language"].tolist() == ["zh", "zh-hans"]


def test_loading_refuses_other_modes_and_counts(published, tmp_path):
    benchmark = build_benchmark(read_source(published))
    masked = [row | {"text": "{S} has {O} as capital", "mode": "mlm"} for row in benchmark.templates]
    for rows, message in (
        (masked, "templates.jsonl: found mode mlm in every row, expected a template for causal models"),
        ([masked[0] | {"mode": "causal"}], "line 1, field 'text': found .*, expected nothing but punctuation after"),
        ([masked[0] | {"mode": "bert"}], "line 1, field 'mode': found 'bert', expected causal or mlm"),
    ):
        lines(tmp_path / "templates.jsonl", rows)
        with pytest.raises(InputError, match=message):
            load_templates(tmp_path)
    lines(tmp_path / "facts.jsonl", [benchmark.facts[0] | {"n_objects": 0}])
    with pytest.raises(InputError, match="line 1, field 'n_objects': found 0, expected a whole number from 1"):
        load_facts(tmp_path)


def test_scripts_of_languages_beyond_the_twelve():
    assert in_script("Αθήνα", "el") and not in_script("Athens", "el") and in_script("תל אביב", "he")
    assert in_script("Београд", "sr") and in_script("Beograd", "sr")  # written in both: not checked


def test_atlas_has_no_empty_slot(facts, templates):
    names = [
        name for row in facts.itertuples() for side in (row.subject, row.object) for n in side.values() for name in n
    ]
    assert all(name.strip() for name in names)
    for text in templates["text"]:
        before, middle = text.split("{S}")[0], text.split("{S}")[1].split("{O}")[0]
        assert (before + middle).strip(), text


# With the data, if it is there


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    if not MLAMA.is_dir():
        pytest.skip(f"no folder {MLAMA}")
    source = read_source(MLAMA, languages=TWELVE)
    benchmark = build_benchmark(source)
    folder = tmp_path_factory.mktemp("twelve")
    write_benchmark(benchmark, folder)
    return source, benchmark, folder


@needs_mlama
def test_twelve_languages_and_thirty_relations_can_be_built(twelve):
    source, benchmark, folder = twelve
    facts, templates = load_facts(folder, languages=tuple(TWELVE.split(","))), load_templates(folder)
    cells = templates.groupby(["relation", "language"]).size()
    assert facts["relation"].nunique() >= 30 and len(cells) == 12 * facts["relation"].nunique()
    assert cells.min() >= 2 and not facts.duplicated(["relation", "subject_id"]).any()
    sums = benchmark.outcomes.groupby(["part", "relation", "language"])["rows"].sum()
    assert sums.drop("queries").to_dict() == input_counts(source)


@needs_mlama
def test_queries_of_the_data_are_those_reported(twelve):
    _, benchmark, folder = twelve
    relations = ["P36", "P1376", "P740"]
    facts, templates = load_facts(folder, relations=relations), load_templates(folder, relations=relations)
    queries, _ = build_queries(facts, templates)
    kept = benchmark.outcomes.query("part == 'queries' and outcome == 'kept' and relation in @relations")
    assert len(queries) == kept["rows"].sum()
    counts = queries.groupby(["fact", "language"]).size()
    assert counts.min() >= 2 and len(counts) == 12 * len(facts)
    prompts = queries["prompt"].str.casefold()
    assert not any(a.casefold() in p for a, p in zip(queries["answer"], prompts, strict=True))


@needs_mlama
def test_names_and_patterns_are_as_many_as_published():
    """Counts of mLAMA 1.1 and of the reviewed mParaRel patterns, from the card of the data."""
    source = read_source(MLAMA, languages="en,de")
    mlama = source.names[source.names["source"] != "mpararel"]
    assert mlama["language"].value_counts().to_dict() == {"en": 37_498, "de": 32_548}
    assert len(read_source(MLAMA, languages="en").patterns.query("source == 'mlama'")) == 49
    rows = (MLAMA / "mpararel_patterns_reviewed.jsonl").read_text("utf8").splitlines()
    assert len(rows) == 15_794 and sum('"checked_by_human": true' in row for row in rows) == 2_197


def test_counts_of_the_aligned_dataset():
    """Facts and queries of the six aligned files of the AMIG authors (heng840/Dataset), if you have them."""
    folder = DATASETS / "heng840_dataset" / "Aligned_my_MLAMA"
    paths = [folder / f"{code}.json" for code in ("en", "fr", "fi", "hu", "ja", "ko")]
    for path in paths:
        if not path.exists():
            pytest.skip(f"no file {path}")
    tables = [json.loads(path.read_text("utf8")) for path in paths]
    shared = set.intersection(*map(set, tables))
    empty = {key for key in shared if not any(table[key]["sentences"] for table in tables)}
    relations = {tables[0][key]["relation_name"] for key in shared}
    assert (len(shared), len(relations), len(empty)) == (10_091, 41, 3_460)
    assert len({tables[0][key]["relation_name"] for key in shared - empty}) == 32
    assert sum(len(table[key]["sentences"]) for table in tables for key in shared) == 192_701
