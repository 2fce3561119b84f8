"""queries.py: templates filled with facts, and what the gates drop."""

import json

import pytest
from conftest import FACTS, TEMPLATES, fact_row

from knlib.errors import InputError
from knlib.facts import load_facts
from knlib.languages import CODES, parse_languages
from knlib.queries import QUERY_COLUMNS, build_queries, check_template, languages_of, load_templates

GATES = ["no_name", "leak", "ambiguous", "object_in_prompt", "duplicate"]


def build(folder, **options):
    return build_queries(load_facts(folder), load_templates(folder), **options)


def test_query_rows_say_what_to_ask(benchmark):
    queries, _ = build(benchmark())
    assert list(queries.columns) == QUERY_COLUMNS
    first = queries.iloc[0]
    assert first["query"] == "capital:FR|capital/en/0"
    assert (first["prompt"], first["space"], first["answer"], first["suffix"]) == (
        "The capital of France is",
        " ",
        "Paris",
        ".",
    )
    assert first["aliases"] == ("Paname",)
    assert queries["query"].is_unique


def test_parts_join_to_the_filled_template(benchmark):
    folder = benchmark()
    texts = load_templates(folder).set_index("template")["text"]
    queries, _ = build(folder)
    for row in queries.itertuples():
        assert row.prompt + row.space + row.answer + row.suffix == texts[row.template].format(
            S=row.subject, O=row.answer
        )


def test_no_blank_where_the_template_has_none(benchmark):
    template = {"template": "t", "relation": "capital", "language": "en", "text": "{S}の首都は{O}。"}
    queries, _ = build(benchmark(templates=[template]))
    assert set(queries["space"]) == {""} and set(queries["suffix"]) == {"。"}


def test_each_gate_drops_its_own(benchmark):
    def capital(key, subject, object_, **more):
        return fact_row(f"capital:{key}", {"id": key, "en": subject}, {"id": f"city-{key}", "en": object_}, **more)

    nameless = fact_row("capital:X", {"id": "X", "de": "Xland"}, {"id": "city-X", "de": "Xstadt"})
    facts = [
        capital("A", "Aland", "Alpha"),
        capital("B", "Bland", "Beta", leak=["en"]),
        capital("C", "Cland", "Gamma", ambiguous=["en"]),
        capital("D", "Great Delta", ["Dtown", "delta"]),  # an alias stands in the prompt
        capital("E", "ALAND", "Epsilon"),  # the same prompt as A's but for capitals
        nameless,
    ]
    _, report = build(benchmark(facts, TEMPLATES[:1]))
    (row,) = report.to_dict("records")
    assert row == {"relation": "capital", "language": "en", "slots": 6, **dict.fromkeys(GATES, 1), "queries": 1}


def test_report_adds_up(facts, templates):
    few = facts[facts["relation"] == "script"]
    queries, report = build_queries(few, templates[templates["relation"] == "script"])
    assert (report["slots"] - report[GATES].sum(axis=1) == report["queries"]).all()
    assert report["queries"].sum() == len(queries) and (report["leak"] > 0).any()


def test_splits_choose_templates(benchmark):
    folder = benchmark()
    assert set(build(folder, splits=("held_out",))[0]["template"]) == {"capital/en/1"}
    assert build(folder, splits=("half",))[0].empty
    with pytest.raises(InputError, match="splits: found 'test', expected one of train half held_out"):
        build(folder, splits=("test",))


def test_templates_of_chosen_languages(benchmark):
    folder = benchmark()
    assert load_templates(folder, languages=("de",))["template"].tolist() == ["capital/de/0"]
    with pytest.raises(InputError, match="languages: found 'ja', expected one of en de"):
        load_templates(folder, languages=("ja",))


def test_languages_of_a_benchmark_are_atlas_first(tmp_path):
    assert languages_of() == CODES
    rows = [
        {"template": f"r/{code}", "relation": "r", "language": code, "text": "{S}: {O}."} for code in ("fi", "ja", "en")
    ]
    (tmp_path / "templates.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf8")
    assert languages_of(tmp_path) == ("en", "ja", "fi")
    assert parse_languages("fi,en", known=languages_of(tmp_path)) == ("fi", "en")
    with pytest.raises(InputError, match="languages: found 'de', expected one of en ja fi"):
        parse_languages("de", known=languages_of(tmp_path))


def test_a_relation_without_facts_gives_no_query(benchmark):
    other = TEMPLATES[0] | {"relation": "mayor"}
    queries, report = build(benchmark(templates=[other]))
    assert queries.empty and report["slots"].tolist() == [0]


@pytest.mark.parametrize("text", ["{S}: {O}", "{S} — {O}.", "«{S}» → «{O}».", "{S}の首都は{O}。"])
def test_fair_templates_pass(text):
    check_template(text, "here")


def test_flags_of_atlas_are_never_asked(facts, templates):
    queries, _ = build_queries(facts[facts["relation"] == "capital"], templates, splits=("train",))
    asked = set(zip(queries["fact"], queries["language"], strict=True))
    barred = {(row.fact, code) for row in facts.itertuples() for code in (*row.leak, *row.ambiguous)}
    assert asked and barred and not asked & barred
    assert len(FACTS) < len(asked)
