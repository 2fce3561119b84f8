"""What is asked about an edit, and the four metrics, against answers scored one by one."""

import edit_tables
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.controls import generator
from knlib.errors import InputError
from knlib.prediction import score_answers
from knlib.query_localization.edit_metrics import EditTest
from knlib.query_localization.edit_questions import (
    held_out_text,
    inverse_queries,
    neighbour_queries,
    own_queries,
    sentences_for,
)
from knlib.query_localization.weight_edits import erase, update

PAIRS = [(0, 3), (1, 7), (2, 11), (2, 5), (1, 20)]
SENTENCES = ["kilo r ba pe.", "nupe r da lati.", "sipo s fa suda mira."]


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def queries(relation="r"):
    """Four templates: the first two are part A."""
    table = edit_tables.queries("locate", "request", "held0", "held1", relation=relation, languages=("en",))
    number = table["template"].str.split("/").str[-1]
    return table.assign(part=np.where(number.isin(["locate", "request"]), "A", "B"))


def everything():
    return pd.concat([queries("r"), queries("s")], ignore_index=True)


def edit_test(model, aim="answer"):
    own = own_queries(everything(), "r:B", aim=aim)
    neighbours = neighbour_queries(everything()[lambda t: t["part"] == "B"], "r:B", each=3)
    return own, neighbours, EditTest(model, own, neighbours, SENTENCES)


def whole(model, ids):
    """Log-probabilities [tokens, vocabulary] of one row, alone."""
    ids = torch.tensor([ids])
    return model.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(-1)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "roberta"])
def test_one_pass_gives_what_single_rows_give(kind):
    model = tiny_model(kind)
    own, neighbours, test = edit_test(model)
    found = test.ask()
    log_p = score_answers(model, own["prompt"], own["space"], own["aim"], own["suffix"])
    assert found.log_p == pytest.approx(log_p, abs=1e-9) and len(found.log_p) == 3
    before, after = model.specials
    for number, row in enumerate(neighbours.itertuples()):
        tokens = model.continuation(row.prompt[-4:], row.space + row.answer)
        ids = [*before, *model.pieces(row.prompt)]
        if model.kind == "masked":
            ids += [model.tokenizer.mask_token_id] * len(tokens) + list(model.continuation("a", row.suffix)) + after
            expected = whole(model, ids)[len(before) + len(model.pieces(row.prompt))]
        else:
            expected = whole(model, ids)[-1]
        assert torch.allclose(found.neighbours[number], expected, atol=1e-9)
    losses = []
    for text in SENTENCES:
        ids = [*before, *model.pieces(text), *after]
        if model.kind == "causal":
            rows = whole(model, ids)
            losses += [-float(rows[i, token]) for i, token in enumerate(ids[1:])]
        else:
            column = int(generator(0, text, "mask").integers(len(before), len(ids) - len(after)))
            masked = [*ids[:column], model.tokenizer.mask_token_id, *ids[column + 1 :]]
            losses.append(-float(whole(model, masked)[column, ids[column]]))
    assert sorted(found.losses) == pytest.approx(sorted(losses), abs=1e-9)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_margins_are_above_zero_where_the_answer_is_top_1_at_every_token(kind):
    model = tiny_model(kind)
    own = own_queries(everything(), "r:B")
    _, _, test = edit_test(model)
    margin = test.ask().margin
    for number in range(len(own)):
        row = own.iloc[number]
        tokens = model.continuation(row["prompt"][-4:], row["space"] + row["aim"])
        values = []
        for i, token in enumerate(tokens):
            ids = [*model.specials[0], *model.pieces(row["prompt"]), *tokens[:i]]
            column = len(ids) - 1
            if kind == "bert":
                ids += [model.tokenizer.mask_token_id] * (len(tokens) - i)
                ids += [*model.continuation("a", row["suffix"]), *model.specials[1]]
                column += 1
            at = whole(model, ids)[column]
            values.append(float(at[token] - at[torch.arange(len(at)) != token].max()))
        assert margin[number] == pytest.approx(min(values), abs=1e-9)


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_metrics_by_hand(kind):
    model = tiny_model(kind)
    own, neighbours, test = edit_test(model, aim="new")
    before = test.ask()
    nothing = test.compare(before, test.ask(), edit="update")
    assert nothing["locality"] == 1 and nothing["kl"] == pytest.approx(0, abs=1e-12) and nothing["dppl"] == 0
    assert nothing["reliability_dlogp"] == 0 and nothing["reliability"] == float(before.margin[0] > 0)
    with update(model, PAIRS, next(own.itertuples())):
        after = test.ask()
    for edit, sign in (("update", 1), ("erase", -1)):
        found = test.compare(before, after, edit=edit)
        assert found["reliability"] == float(sign * after.margin[0] > 0)
        assert found["generality"] == pytest.approx((sign * after.margin[1:] > 0).mean())
        assert found["generality_margin"] == pytest.approx(sign * after.margin[1:].mean())
        assert found["generality_dlogp"] == pytest.approx((after.log_p - before.log_p)[1:].mean())
        assert found["avg"] == pytest.approx((found["reliability"] + found["generality"] + found["locality"]) / 3)
        assert np.isnan(found["portability"])
    same = (before.neighbours.argmax(-1) == after.neighbours.argmax(-1)).numpy()
    assert found["locality"] == pytest.approx(same.mean())
    near = neighbours["near"].to_numpy()
    assert (found["locality_near"], found["locality_far"]) == (same[near].mean(), same[~near].mean())
    p, q = before.neighbours, after.neighbours
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="batchmean")
    assert found["kl"] == pytest.approx(float(expected)) and found["kl"] > 1e-3
    ratio = np.exp(after.losses.mean()) / np.exp(before.losses.mean())
    assert found["dppl"] == pytest.approx(ratio - 1) and abs(found["dppl"]) > 1e-3
    assert test.ask().log_p == pytest.approx(before.log_p, abs=0)


def test_questions_keep_parts_apart_and_do_not_depend_on_other_facts():
    table = everything()
    own = own_queries(table, "r:B")
    assert own["part"].tolist() == ["reliability", "generality", "generality"]
    origin = table.set_index("query")["part"]
    assert origin[own["query"]].tolist() == ["A", "B", "B"]
    pilot = own_queries(table, "r:B", tested="A")
    assert origin[pilot["query"]].tolist() == ["A", "A"] and pilot["query"].is_unique
    assert (
        pilot["query"].iloc[0]
        == own["query"].iloc[0]
        == own_queries(table[table["fact"] == "r:B"], "r:B")["query"].iloc[0]
    )
    with pytest.raises(InputError, match="queries of r:B"):
        own_queries(table[table["part"] == "B"], "r:B")
    tested = table[table["part"] == "B"]
    found = neighbour_queries(tested, "r:B", new="suda", each=10)
    assert set(found.loc[found["near"], "fact"]) == {"r:A", "r:D"}
    assert set(found.loc[~found["near"], "fact"]) == {"s:A", "s:D"}
    assert set(found["part"]) == {"B"} and found["fact"].is_unique
    assert len(neighbour_queries(tested, "r:B", each=1)) == 2


def test_inverse_queries_ask_the_new_object_for_the_subject():
    facts = edit_tables.facts()[lambda t: t["relation"] == "r"].assign(leak=[()] * 4, ambiguous=[()] * 4)
    back = facts.assign(fact="b" + facts["fact"], relation="b", subject=facts["object"], object=facts["subject"])
    # Ids of subjects and objects are the same letters: told apart.
    facts = facts.assign(object_id="o" + facts["object_id"])
    back = back.assign(subject_id="o" + back["subject_id"])
    table = pd.concat([facts, back], ignore_index=True)
    templates = pd.DataFrame(
        [{"template": f"b/en/{i}", "relation": "b", "language": "en", "text": text, "split": "train", "held_out": None}
         for i, text in enumerate(["mira {S} kilo {O}.", "{S} sipo {O}."])]
    )  # fmt: skip
    edited = pd.Series({"fact": "r:A", "language": "en", "new_id": "oC"})
    found = inverse_queries(table, templates, edited)
    assert found["prompt"].tolist() == ["mira suda kilo", "suda sipo"] and set(found["aim"]) == {"ba"}
    assert set(found["part"]) == {"portability"}
    assert not len(inverse_queries(facts, templates, edited))


def test_held_out_text_is_of_held_out_phrasings_and_of_other_facts(facts, templates, tiny_model):
    model = tiny_model("gpt2")
    some, phrasings = facts[facts["relation"] == "capital"], templates[templates["language"] == "en"]
    text = held_out_text(model, some, phrasings, tokens=2000)
    lengths = [len(model.pieces(sentence)) for sentence in text["text"]]
    assert sum(lengths[:-1]) < 2000 <= sum(lengths)
    starts = [t.split("{S}")[0] for t in phrasings.loc[phrasings["split"] == "train", "text"]]
    assert not any(s and sentence.startswith(s) for s in starts for sentence in text["text"] if len(s) > 25)
    fact = text["fact"].iloc[0]
    own = sentences_for(model, text, fact, tokens=100)
    assert not set(own) & set(text.loc[text["fact"] == fact, "text"])
    assert 100 <= sum(len(model.pieces(sentence)) for sentence in own) < 160
    assert own == sentences_for(model, text, fact, tokens=100) != sentences_for(model, text, "other", tokens=100)
    with pytest.raises(InputError, match="none held out"):
        held_out_text(model, some, phrasings[phrasings["split"] == "train"])


def test_edits_leave_no_trace_in_what_is_asked_next():
    model = tiny_model("gpt2")
    _, _, test = edit_test(model)
    before = test.ask()
    with pytest.raises(KeyError), erase(model, PAIRS):
        assert not np.allclose(test.ask().log_p, before.log_p)
        raise KeyError
    assert (test.ask().log_p == before.log_p).all() and test.ask().neighbours.equal(before.neighbours)


def test_bad_input_is_named():
    model = tiny_model("gpt2")
    own, neighbours, test = edit_test(model)
    with pytest.raises(InputError, match="sentences: found no row"):
        EditTest(model, own, neighbours, [])
    with pytest.raises(InputError, match="own: found"):
        EditTest(model, own.assign(part="B"), neighbours, SENTENCES)
    with pytest.raises(InputError, match="edit: found 'scale'"):
        test.compare(test.ask(), test.ask(), edit="scale")
