"""prediction.py: scores against hand loops that run one unpadded row at a time."""

import numpy as np
import pytest
import torch

import knlib.prediction
from knlib.errors import InputError
from knlib.facts import candidates
from knlib.prediction import answer_tokens, candidate_tokens, predict, score_answers

KINDS = pytest.mark.parametrize("name", ["llama", "bert"])


def log_probabilities(model, ids):
    with torch.no_grad():
        return model.network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def hand_score(model, prompt, space, answer, suffix):
    """The definition, word for word: whole texts are tokenized, every row is run alone, every token added."""
    text, border = prompt + space + answer, len(prompt)
    found = model.tokenizer(text + suffix, return_offsets_mapping=True)
    ids = found["input_ids"]
    of_answer = [i for i, (a, b) in enumerate(found["offset_mapping"]) if border <= a < b <= len(text)]
    start, end = of_answer[0], of_answer[-1] + 1
    if model.kind == "causal":
        found = log_probabilities(model, ids)
        return sum(found[i - 1, ids[i]].item() for i in range(start, end)), end - start
    total, filled = 0.0, ids[:start] + [model.tokenizer.mask_token_id] * (end - start) + ids[end:]
    for i in range(start, end):
        total += log_probabilities(model, filled)[i, ids[i]].item()
        filled[i] = ids[i]
    return total, end - start


@KINDS
def test_scores_equal_the_hand_loop(tiny_model, some_queries, name):
    model = tiny_model(name)
    columns = [some_queries[c].tolist() for c in ("prompt", "space", "answer", "suffix")]
    wanted, lengths = zip(*(hand_score(model, *row) for row in zip(*columns, strict=True)), strict=True)
    found = score_answers(model, *columns)
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert {1, 2, 3} <= set(lengths)  # one token and several
    assert np.std(found) > 1


@KINDS
def test_typed_prediction_equals_a_loop_over_all_candidates(tiny_model, some_queries, facts, name):
    model, queries = tiny_model(name), some_queries.iloc[::8]
    few = facts[facts["subject_id"].isin(sorted(facts["subject_id"])[::12]) | facts["fact"].isin(queries["fact"])]
    found = predict(model, queries, few)
    for row, answer in zip(queries.itertuples(), found.itertuples(), strict=True):
        names = candidates(few, row.relation, row.language)
        scores = {n: hand_score(model, row.prompt, row.space, n, row.suffix)[0] for n in names}
        best = max(scores, key=scores.get)
        assert answer.prediction == best and answer.correct == (best == row.answer)
        assert np.log(answer.p_prediction) == pytest.approx(scores[best], abs=1e-3)
        assert np.log(answer.p_answer) == pytest.approx(scores[row.answer], abs=1e-3)


@KINDS
def test_a_valid_object_beside_the_answer_is_right_too(tiny_model, some_queries, facts, name):
    model = tiny_model(name)
    found = predict(model, some_queries, facts)
    wrong = np.flatnonzero(~found["correct"])[0]
    names = [()] * len(some_queries)
    names[wrong] = ("none of these", found["prediction"][wrong])
    again = predict(model, some_queries.assign(aliases=names), facts)
    assert again["correct"][wrong] and again.drop(index=wrong).equals(found.drop(index=wrong))
    assert again["p_answer"].equals(found["p_answer"])


@KINDS
def test_padding_and_company_change_nothing(tiny_model, some_queries, name, monkeypatch):
    model = tiny_model(name)
    table = [some_queries[c].tolist() for c in ("prompt", "space", "answer", "suffix")]
    table[0][0] = "A much longer prompt than all of the others, so that they are padded: " * 2 + table[0][0]
    together = score_answers(model, *table)
    monkeypatch.setattr(knlib.prediction, "TOKENS_PER_BATCH", 1)  # every row alone
    np.testing.assert_allclose(score_answers(model, *table), together, atol=2e-4)


@KINDS
def test_chunks_change_nothing(tiny_model, some_queries, facts, name):
    model, queries = tiny_model(name), some_queries.iloc[::5]
    whole, parts = predict(model, queries, facts), predict(model, queries, facts, chunk=3)
    assert whole["prediction"].tolist() == parts["prediction"].tolist()
    np.testing.assert_allclose(whole["p_answer"], parts["p_answer"], rtol=1e-3)


@KINDS
def test_probabilities_of_one_token_answers_sum_to_at_most_one(tiny_model, name):
    model = tiny_model(name)
    tokens = {answer_tokens(model, "It is", " ", piece[1:]) for piece in model.tokenizer.get_vocab() if piece[0] == "▁"}
    words = [model.tokenizer.convert_ids_to_tokens(ids)[0][1:] for ids in tokens if len(ids) == 1]
    n = len(words := sorted(set(words) - {""}))
    p = np.exp(score_answers(model, ["It is"] * n, [" "] * n, words, ["."] * n))
    assert n > 500 and 0 < p.sum() < 1


def test_the_suffix_matters_to_masked_models_only(tiny_model):
    def scores(name, suffix):
        return score_answers(tiny_model(name), ["It is"], [" "], ["Lima"], [suffix])[0]

    assert scores("llama", ".") == scores("llama", "")
    assert scores("bert", ".") != scores("bert", "")


def test_answer_tokens_are_those_of_the_whole_text(tiny_model, some_queries):
    model = tiny_model("gpt2")
    for row in some_queries.itertuples():
        whole = model.pieces(row.prompt + row.space + row.answer)
        assert model.pieces(row.prompt) + answer_tokens(model, row.prompt, row.space, row.answer) == whole


def test_candidates_together_are_tokenized_as_each_alone(tiny_model, some_queries):
    model = tiny_model("gpt2")
    for row in some_queries.itertuples():
        names = (row.answer, f"{row.answer} {row.answer}", "x", "été")
        # Where a token straddles the border and where none does.
        for prompt, space in ((row.prompt, row.space), (row.prompt + row.answer[0], ""), ("", "")):
            alone = [answer_tokens(model, prompt, space, name) for name in names]
            assert candidate_tokens(model, prompt, space, names) == alone


@KINDS
def test_no_queries_give_an_empty_table(tiny_model, some_queries, facts, name):
    found = predict(tiny_model(name), some_queries[:0], facts)
    assert found.empty and list(found) == ["query", "prediction", "correct", "p_answer", "p_prediction"]


@KINDS
def test_a_prompt_beyond_the_context_is_an_error(tiny_model, name):
    with pytest.raises(InputError, match=r"prompt: found \d+ tokens, expected at most 9[68], the context of"):
        score_answers(tiny_model(name), ["word " * 200], [" "], ["Lima"], ["."])


def test_a_prompt_of_exactly_the_context_runs(tiny_model):
    for name, context in (("llama", 96), ("bert", 98), ("xlm-r", 97)):  # XLM-R starts at the padding token's id + 1
        model = tiny_model(name)
        room = context - len(model.pieces("1")) - (2 if model.kind == "masked" else 0)
        assert np.isfinite(score_answers(model, ["1" * room], [""], ["7"], [""])).all()
        with pytest.raises(InputError, match=f"found {context + 1} tokens, expected at most {context}"):
            score_answers(model, ["1" * (room + 1)], [""], ["7"], [""])


def test_an_answer_without_text_is_an_error(tiny_model):
    with pytest.raises(InputError, match="query 0, answer: found no token, expected text"):
        score_answers(tiny_model("llama"), ["It is"], [""], [""], ["."])
