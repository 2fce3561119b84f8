"""Request tables are checked; subjects end where they end, in scripts without blanks and with endings."""

import pandas as pd
import pytest
from edit_requests import ENDS, ONE, REQUESTS
from tiny_models import tiny_model

from knlib.editing.requests import check_requests, prompt_rows, subject_position, with_prefixes
from knlib.errors import InputError
from knlib.models import load_model
from knlib.queries import build_queries


@pytest.fixture(scope="module")
def atlas():
    return load_model("atlas-gpt2")


def shown(model, prompt, position):
    """The text of the prompt's tokens up to a column, and of those before it."""
    ids = [*model.specials[0], *model.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    return [model.tokenizer.decode(ids[:end], skip_special_tokens=True) for end in (position + 1, position)]


@pytest.mark.parametrize("subject, prompt", [
    ("法国", "法国的首都是"), ("フランス", "フランスの首都は"), ("프랑스", "프랑스의 수도는"), ("فرنسا", "عاصمة فرنسا هي"),
    ("फ़्रांस", "फ़्रांस की राजधानी है"), ("Fransa", "Fransa'nın başkenti"), ("Türkiye", "TÜRKİYE'nin başkenti"),
])  # fmt: skip
def test_last_subject_token_by_hand(atlas, subject, prompt):
    position, place = subject_position(atlas, prompt, subject)
    mention = "TÜRKİYE" if "TÜRKİYE" in prompt else subject
    with_it, without = shown(atlas, prompt, position)
    assert place == "subject_last" and mention in with_it and mention not in without


@pytest.mark.parametrize("language", ["zh", "ja", "ko", "ar", "hi", "tr"])
def test_last_subject_token_of_atlas_queries(atlas, facts, templates, language):
    queries, _ = build_queries(facts[::40], templates)
    queries = queries[queries["language"] == language]
    queries = queries.groupby("template").sample(3, random_state=1, replace=True)
    assert len(queries) > 30
    for row in queries.itertuples():
        position, place = subject_position(atlas, row.prompt, row.subject)
        with_it, without = shown(atlas, row.prompt, position)
        # The last mention: there may be another one before.
        assert place == "subject_last" and with_it.count(row.subject) == without.count(row.subject) + 1


def test_a_token_that_holds_more_than_the_subject_is_its_last():
    model = tiny_model("gpt2")
    # "b ada": the subject "kib" ends inside the syllable "ba".
    position, place = subject_position(model, "lo kibada", "kib")
    ids = [1, *model.pieces("lo kibada")]
    assert place == "subject_last" and model.tokenizer.convert_ids_to_tokens(ids[position]) == "ba"


def test_rows_say_positions_and_fallbacks():
    model = tiny_model("llama")
    rows = prompt_rows(model, pd.concat([REQUESTS, ONE.assign(edit="C", subject="lulu")]))
    assert rows["position"].tolist() == [6, 5, 6, 5, len(model.pieces("kilo bada nupe"))]
    assert rows["place"].tolist() == ["subject_last"] * 4 + ["last_prompt"]
    assert [ENDS[r.edit][r.language] for r in rows.head(4).itertuples()] == rows["position"].head(4).tolist()
    assert subject_position(model, "kilo Bada nupe bada", "BADA") == (
        len(model.pieces("kilo Bada nupe bada")),
        place_of(rows),
    )


def place_of(rows):
    return rows["place"].iloc[0]


def test_contexts_are_more_prompts_of_the_same_requests():
    model = tiny_model("gpt2")
    contexts = with_prefixes(REQUESTS, {"en": ["mira. ", "so "], "fr": ["x"]})
    assert contexts["prompt"].tolist() == [
        "mira. kilo bada nupe", "so kilo bada nupe", "mira. kilo gota nupe", "so kilo gota nupe"
    ]  # fmt: skip
    rows = prompt_rows(model, REQUESTS, contexts)
    assert len(rows) == 8 and rows["prompt"].head(4).tolist() == REQUESTS["prompt"].tolist()
    assert rows["position"].iloc[4] > rows["position"].iloc[0]
    assert len(prompt_rows(model, REQUESTS, with_prefixes(REQUESTS, {}))) == 4
    with pytest.raises(InputError, match="contexts, edit A in en: found 'pepe', expected the new answer"):
        prompt_rows(model, REQUESTS, contexts.assign(new="pepe"))
    with pytest.raises(InputError, match="contexts, edit B in en"):
        prompt_rows(model, ONE, contexts)


def test_bad_input_is_named():
    check_requests(REQUESTS)
    cases = [
        (REQUESTS.drop(columns="new"), r"requests: found \['edit'.*expected a table with columns edit fact"),
        (REQUESTS.head(0), "no row"),
        ("requests", "found 'str'"),
        (REQUESTS.assign(subject=["bada", "", "gota", "gito"]), "edit A, subject: found ''"),
        (REQUESTS.assign(new=["mota", None, "x", "y"]), "edit A, new: found"),
        (REQUESTS.assign(new=REQUESTS["answer"]), "edit A, new: found 'pe', expected another"),
        (REQUESTS.assign(language="en"), "edit A: found two requests in en, expected one per language"),
        (REQUESTS.assign(edit="A", language=list("wxyz")), "edit A: found facts r:A, r:B, expected one fact"),
    ]
    for table, message in cases:
        with pytest.raises(InputError, match=message):
            check_requests(table)
    with pytest.raises(InputError, match="found a masked model, expected a causal one"):
        prompt_rows(tiny_model("bert"), REQUESTS)
