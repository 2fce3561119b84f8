"""multiple_choice.py: four options of one relation, a letter for an answer."""

import pytest
from conftest import FACTS

from knlib.errors import InputError
from knlib.facts import load_facts
from knlib.multiple_choice import LETTERS, OptionDrawer, answer_space, build_multiple_choice, load_wordings, prompt_text


@pytest.fixture(scope="module")
def prompts(facts):
    wordings = load_wordings()
    chosen = facts[facts["relation"].isin(["capital", "continent"])]
    return build_multiple_choice(chosen, wordings[wordings["language"].isin(["en", "ja"])])[0]


def test_prompt_text_is_instruction_question_options_cue(benchmark):
    wording = load_wordings(benchmark()).iloc[0]
    assert prompt_text(wording, "Peru", ["Bern", "Lima", "Paris", "Moscow"]) == (
        "Name the right line.\nWhat is the capital of Peru?\nA: Bern\nB: Lima\nC: Paris\nD: Moscow\nThe right line is"
    )


def test_the_letter_names_the_gold_option(prompts):
    for row in prompts.itertuples():
        assert row.options[LETTERS.index(row.answer)] == row.gold
        assert row.subject in row.prompt and all(option in row.prompt for option in row.options)
    assert prompts["query"].is_unique


def test_rotations_make_each_letter_gold_once_and_keep_the_cycle(prompts):
    for _, group in prompts.groupby(["fact", "wording"]):
        assert sorted(group["answer"]) == list(LETTERS)
        first = group["options"].iloc[0]
        assert group["options"].tolist() == [first[r:] + first[:r] for r in range(4)]


def test_one_rotation_is_the_first_of_four(facts, prompts):
    wordings = load_wordings()
    one, _ = build_multiple_choice(
        facts[facts["relation"] == "capital"], wordings[wordings["language"] == "en"], rotations=1
    )
    four = prompts[(prompts["relation"] == "capital") & (prompts["language"] == "en") & (prompts["rotation"] == 0)]
    assert one["prompt"].tolist() == four["prompt"].tolist()


def test_all_languages_and_wordings_of_a_fact_offer_the_same_objects(facts, prompts):
    ids = {
        (row.relation, code, row.object[code][0]): row.object_id for row in facts.itertuples() for code in ("en", "ja")
    }
    for (_, relation), group in prompts.groupby(["fact", "relation"]):
        offered = {
            frozenset(ids[relation, language, name] for name in options)
            for language, options in zip(group["language"], group["options"], strict=True)
        }
        assert len(offered) == 1


def test_no_option_contains_another(prompts):
    for options in set(prompts["options"]):
        folded = [option.casefold() for option in options]
        assert not any(a in b for i, a in enumerate(folded) for j, b in enumerate(folded) if i != j), options


def test_base_orders_are_the_same_every_time(facts):
    first, second = OptionDrawer(facts), OptionDrawer(facts)
    assert first.base_order("capital:FR", "en/0") == second.base_order("capital:FR", "en/0")
    orders = {tuple(names["en"] for names in first.base_order("capital:FR", f"en/{n}")) for n in range(8)}
    assert len(orders) > 1 and len({frozenset(order) for order in orders}) == 1


def test_distractors_follow_the_frequency_of_objects(facts):
    """Three distractors of a continent question: Africa (58 countries) comes far more often than South America (14)."""
    rows = facts[
        (facts["relation"] == "continent")
        & (facts["object_id"] == facts.set_index("fact").loc["continent:FR", "object_id"])
    ]
    drawer, counts = OptionDrawer(facts), {}
    for fact in rows["fact"]:
        for names in drawer.base_order(fact, "en/0"):
            counts[names["en"][0]] = counts.get(names["en"][0], 0) + 1
    assert counts["Africa"] > counts["South America"]


def test_report_counts_what_is_dropped(benchmark):
    folder = benchmark()
    prompts, report = build_multiple_choice(load_facts(folder), load_wordings(folder))
    assert report.to_dict("records") == [
        {
            "relation": "capital",
            "language": "en",
            "no_name": 0,
            "leak": 1,
            "ambiguous": 0,
            "too_few_options": 0,
            "prompts": 16,
        }
    ]
    assert len(prompts) == 16


def test_three_objects_are_too_few(benchmark):
    folder = benchmark(FACTS[:3])
    prompts, report = build_multiple_choice(load_facts(folder), load_wordings(folder))
    assert prompts.empty and report["too_few_options"].tolist() == [3]


@pytest.mark.parametrize("rotations", [0, 5])
def test_rotations_out_of_range(facts, rotations):
    with pytest.raises(InputError, match=f"rotations: found {rotations}, expected 1 to 4"):
        build_multiple_choice(facts, load_wordings(), rotations=rotations)


@pytest.mark.parametrize(
    ("cue", "space"), [("Answer:", " "), ("答案：", ""), ("答案是", ""), ("答えは", ""), ("정답은", " ")]
)
def test_no_blank_after_han_kana_and_full_width(cue, space):
    assert answer_space(cue) == space


def test_atlas_has_three_wordings_per_language_and_relation(facts):
    wordings = load_wordings()
    counts = wordings.groupby(["language", "relation"])["wording"].nunique()
    assert (counts == 3).all() and {"en", "fr", "ru", "ar", "ja", "zh"} <= set(wordings["language"])
    assert set(wordings["relation"]) == set(facts["relation"])


def test_some_facts_are_asked_with_options_of_all(facts, prompts):
    wordings = load_wordings()
    wordings = wordings[wordings["language"].isin(["en", "ja"])]
    chosen = facts[facts["relation"].isin(["capital", "continent"])]
    few = chosen["fact"].iloc[::50].tolist()
    some, report = build_multiple_choice(chosen, wordings, asked=few)
    expected = prompts[prompts["fact"].isin(few)]
    assert some.values.tolist() == expected.values.tolist()
    assert report["prompts"].sum() == len(some) > 0
    with pytest.raises(InputError, match="asked: found 'nobody'"):
        build_multiple_choice(chosen, wordings, asked=["nobody"])
