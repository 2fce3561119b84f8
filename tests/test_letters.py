"""query_relevant/letters.py: which tokens write a letter, and how likely each is."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from letter_models import PROMPTS, byte_level, sentence_piece
from tiny_models import CAUSAL, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from knlib.errors import InputError
from knlib.models import SHIPPED, Model, load_tokenizer, prepared
from knlib.query_relevant.letters import in_chat, letter_probabilities, letter_sets, with_letter_sets

WITH_BLANK = [("Ġ", letter) for letter in "ABCD"]


def model_with(tokenizer) -> Model:
    config = AutoConfig.for_model("llama", **(CAUSAL["llama"] | {"vocab_size": len(tokenizer)}))
    torch.manual_seed(0)
    return prepared("tiny", AutoModelForCausalLM.from_config(config), tokenizer, "causal")


def pieces(model, prompt, **options):
    return [set(model.tokenizer.convert_ids_to_tokens(list(s))) for s in letter_sets(model, prompt, **options)]


@pytest.mark.parametrize("prompt", ["Response:", "Q: x\nA: y\nThe right line is", "回答："])
def test_byte_level_has_a_letter_with_and_without_blank(prompt):
    model = model_with(byte_level(WITH_BLANK))
    assert pieces(model, prompt) == [{letter, "Ġ" + letter} for letter in "ABCD"]


@pytest.mark.parametrize("prompt", ["Response:", "回答："])
def test_sentencepiece_has_a_letter_with_and_without_blank(prompt):
    model = model_with(sentence_piece([*"ABCDRespon:"], [("▁", letter) for letter in "ABCD"]))
    assert pieces(model, prompt) == [{letter, "▁" + letter} for letter in "ABCD"]


def test_a_blank_token_that_all_letters_share_is_dropped():
    assert pieces(model_with(byte_level([])), "Response:") == [{letter} for letter in "ABCD"]
    assert pieces(tiny_model("llama"), "bada kilo") == [{letter} for letter in "ABCD"]


def test_a_form_that_changes_the_prompts_tokens_is_left_out():
    """ ":" and "A" merge: behind the prompt's own tokens only " A" can come."""
    model = model_with(byte_level([*WITH_BLANK, (":", "A")], regex=False))
    assert pieces(model, "Response:") == [{"ĠA"}, {"B", "ĠB"}, {"C", "ĠC"}, {"D", "ĠD"}]


@pytest.mark.parametrize("name", ["atlas-llama", "atlas-gpt2", "atlas-bert"])
def test_atlas_letters_in_all_languages(name):
    from knlib.multiple_choice import load_wordings

    model = Model(name, None, load_tokenizer(str(SHIPPED / name)), "causal")
    for cue in load_wordings()["cue"].unique():
        sets = letter_sets(model, f"A: x\n{cue}")
        assert all(sets) and len(set(sum(sets, ()))) == sum(map(len, sets)), cue
        written = [{model.tokenizer.decode([t]).strip() for t in s} for s in sets]
        assert written == [{letter} for letter in "ABCD"], cue


def test_no_letter_in_the_vocabulary_raises():
    model = model_with(sentence_piece([*"ABCx:"], [], fallback=False))
    with pytest.raises(InputError, match=r"letter D behind 'x:': found no token of its own, expected one in the vocab"):
        letter_sets(model, "x:")
    with pytest.raises(InputError, match="query q7: found letter D behind"):
        with_letter_sets(model, pd.DataFrame({"query": ["q7"], "prompt": ["x:"], "answer": ["A"]}))
    with pytest.raises(InputError, match="prompt: found ' ', expected text"):
        letter_sets(model, " ")


def test_legacy_takes_the_bare_token_unseen():
    model = model_with(byte_level(WITH_BLANK))
    assert pieces(model, "Response:", legacy=True) == [{letter} for letter in "ABCD"]
    with pytest.raises(InputError, match="letter D"):
        letter_sets(model_with(sentence_piece([*"ABCx:"], [], fallback=False)), "x:", legacy=True)


def test_bad_prompts_are_named():
    model = tiny_model("llama")
    with pytest.raises(InputError, match="query b, answer: found 'E', expected one of A B C D"):
        with_letter_sets(model, PROMPTS.assign(answer=list("BEDC")))
    with pytest.raises(InputError, match="expected a column answer"):
        with_letter_sets(model, PROMPTS[["query", "prompt"]])


def test_the_right_letters_set_comes_first():
    table = with_letter_sets(tiny_model("llama"), PROMPTS)
    a, b, c, d = letter_sets(tiny_model("llama"), "nu")
    assert table["token_sets"].tolist() == [(b, a, c, d), (a, b, c, d), (d, a, b, c), (c, a, b, d)]
    assert (table["suffix"] == "").all() and (table["space"] == "").all()


@pytest.mark.filterwarnings("ignore:.*the four letters")
def test_a_letters_probability_is_the_sum_over_its_tokens():
    model = model_with(byte_level(WITH_BLANK))
    table = letter_probabilities(model, PROMPTS)
    for row, prompt in zip(table.itertuples(), PROMPTS["prompt"], strict=True):
        ids = torch.tensor([[*model.specials[0], *model.pieces(prompt)]])
        p = model.network(input_ids=ids).logits[0, -1].softmax(-1)
        four = [float(p[list(s)].sum()) for s in letter_sets(model, prompt)]
        gold = "ABCD".index(PROMPTS.set_index("query").loc[row.query, "answer"])
        assert np.allclose([row.A, row.B, row.C, row.D], four, rtol=1e-5)
        assert row.mass == pytest.approx(sum(four), rel=1e-5)
        assert row.probability == pytest.approx(four[gold], rel=1e-5)
        assert row.among_four == pytest.approx(four[gold] / sum(four), rel=1e-5)
        assert row.correct == (gold == np.argmax(four)) and row.prediction == "ABCD"[np.argmax(four)]


def test_little_mass_on_the_letters_warns():
    """R4: a model that does not answer by letter is not silently scored."""
    with pytest.warns(UserWarning, match=r"4 of 4 prompts: the four letters have less than 0.5 .* for [abcd]"):
        letter_probabilities(tiny_model("llama"), PROMPTS)


def test_enough_mass_does_not_warn():
    model = tiny_model("gpt2")
    wanted = [t for s in letter_sets(model, "nu") for t in s]

    def raise_letters(module, inputs, output):
        output.logits[..., wanted] += 50

    handle = model.network.register_forward_hook(raise_letters)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert (letter_probabilities(model, PROMPTS)["mass"] > 0.99).all()
    finally:
        handle.remove()


@pytest.mark.filterwarnings("ignore:.*the four letters")
def test_a_masked_model_answers_at_its_mask():
    model = tiny_model("bert")
    ids = torch.tensor([[*model.specials[0], *model.pieces("nu"), model.tokenizer.mask_token_id, *model.specials[1]]])
    p = model.network(input_ids=ids).logits[0, -2].softmax(-1)
    assert letter_probabilities(model, PROMPTS)["A"][1] == pytest.approx(
        float(p[list(letter_sets(model, "nu")[0])].sum())
    )


def test_a_chat_template_wraps_the_prompt_and_begins_once():
    model = model_with(byte_level(WITH_BLANK))
    with pytest.raises(InputError, match="model tiny: found a tokenizer without a chat template"):
        in_chat(model, PROMPTS)
    model.tokenizer.chat_template = "{% for m in messages %}<s>[{{ m.role }}] {{ m.content }}\n{% endfor %}[reply]"
    assert in_chat(model, PROMPTS)["prompt"][1] == "<s>[user] nu\n[reply]"  # this tokenizer adds no marker itself
    llama = tiny_model("llama")
    llama.tokenizer.chat_template = model.tokenizer.chat_template
    table = in_chat(llama, PROMPTS)
    assert table["prompt"][1] == "[user] nu\n[reply]" and table["answer"].equals(PROMPTS["answer"])
