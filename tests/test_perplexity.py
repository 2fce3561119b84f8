"""Losses of text, against the model's own logits."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from knlib.editing import scale_columns
from knlib.errors import InputError
from knlib.perplexity import text_loss, text_rows

SENTENCES = ["kilo sipo ba pe.", "mira da"]


def test_causal_loss_is_that_of_every_token_behind_those_before():
    model, losses = tiny_model("llama"), []
    before, after = model.specials
    for text in SENTENCES:
        ids = torch.tensor([[*before, *model.pieces(text), *after]])
        with torch.no_grad():
            logits = model.network(input_ids=ids).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
    assert text_loss(model, SENTENCES) == pytest.approx(np.mean(losses), rel=1e-5)
    with scale_columns(model, [(0, 1), (1, 2)], 9.0):
        assert text_loss(model, SENTENCES) != pytest.approx(np.mean(losses), rel=1e-5)


def test_masked_models_are_asked_for_one_token_of_each_sentence():
    model = tiny_model("bert")
    rows = text_rows(model, SENTENCES, seed=3)
    for (ids, columns, targets), text in zip(rows, SENTENCES, strict=True):
        assert len(columns) == 1 and ids[columns[0]] == model.tokenizer.mask_token_id
        before, after = model.specials
        whole = [*before, *model.pieces(text), *after]
        assert whole[columns[0]] == targets[0] and sum(a != b for a, b in zip(ids, whole, strict=True)) == 1
        assert len(before) <= columns[0] < len(whole) - len(after)
    assert rows == text_rows(model, SENTENCES, seed=3)
    assert any(rows != text_rows(model, SENTENCES, seed=seed) for seed in range(4, 10))


def test_no_text_is_an_error():
    with pytest.raises(InputError, match="sentences: found none"):
        text_loss(tiny_model("gpt2"), [])
