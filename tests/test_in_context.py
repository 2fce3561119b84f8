"""In-context editing: what stands before a query, and that the model is not touched."""

import edit_tables
import pytest
from tiny_models import tiny_model

from knlib.editing.in_context import ike
from knlib.editing.registry import edit
from knlib.errors import InputError

REQUESTS = edit_tables.queries("request").assign(edit=lambda t: t["fact"])
TWO = REQUESTS[REQUESTS["fact"].isin(["r:B", "r:C"])]
ASKED = edit_tables.queries("held0", new=False).assign(edit="r:B")


def prompts(change, table):
    return change.queries(table)["prompt"].tolist()


def test_the_new_fact_of_the_asked_edit_stands_before_every_query_in_its_language():
    model = tiny_model("gpt2")
    shown = {"ja": ["mira da pe.", "tebu."]}
    with edit("ike", model, TWO, demonstrations=shown) as edited:
        found = prompts(edited, ASKED)
    for row, prompt in zip(ASKED.itertuples(), found, strict=True):
        own = TWO[(TWO["fact"] == "r:B") & (TWO["language"] == row.language)].iloc[0]
        fact = own["prompt"] + own["space"] + own["new"] + own["suffix"]
        parts = ["mira da pe.", "tebu.", fact, row.prompt] if row.language == "ja" else [fact, row.prompt]
        assert prompt == ("" if row.language == "ja" else " ").join(parts)
    assert edited.queries(ASKED).drop(columns="prompt").equals(ASKED.drop(columns="prompt"))


def test_an_edit_in_one_language_is_shown_to_the_others_too_and_other_edits_see_nothing():
    model = tiny_model("gpt2")
    change = ike(model, TWO[TWO["language"] == "en"])
    japanese = ASKED[ASKED["language"] == "ja"]
    fact = TWO[(TWO["fact"] == "r:B") & (TWO["language"] == "en")].iloc[0]
    assert all(p.startswith(fact["prompt"] + fact["space"] + fact["new"]) for p in prompts(change, japanese))
    assert prompts(change, japanese.assign(edit="r:A")) == japanese["prompt"].tolist()
    assert change.edits == ["r:B", "r:C"]
    assert prompts(change.without("r:B"), japanese) == japanese["prompt"].tolist()
    with pytest.raises(InputError, match="edit: found 'r:A'"):
        change.without("r:A")
    with pytest.raises(InputError, match="a column edit"):
        change.queries(japanese.drop(columns="edit"))
