"""Prompts that pass through the model once give what whole rows give."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

import knlib.next_token
from knlib.next_token import NextToken
from knlib.probe import best_prefix

ROWS = [
    SimpleNamespace(prompt=p, space="", suffix=".") for p in ("kilo", "sipo ta mo", "ki", "sipo ta", "bada nu kilo pe")
]
ASKED = [(0, (), 1), (1, (9, 12), 1), (3, (11,), 2), (4, (), 1), (2, (20, 21, 22), 1), (1, (), 3), (0, (7,), 1)]


def asked_of(model, asked):
    found = {}
    NextToken(model, ROWS).ask(asked, lambda number, log_p: found.update({number: log_p}))
    return found


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "bert"])
@pytest.mark.parametrize("budget", [4096, 12])
def test_log_probabilities_are_those_of_whole_rows(kind, budget, monkeypatch):
    monkeypatch.setattr(knlib.next_token, "TOKENS_PER_BATCH", budget)
    model = tiny_model(kind)
    assert (best_prefix(model) is None) == (kind == "bert")
    found = asked_of(model, ASKED)
    assert sorted(found) == list(range(len(ASKED)))
    mask = model.tokenizer.mask_token_id
    for number, (i, shown, masks) in enumerate(ASKED):
        ids = [1, *model.pieces(ROWS[i].prompt), *shown]
        column = len(ids) - 1
        if kind == "bert":
            ids, column = [*ids, *[mask] * masks, *model.continuation("a", "."), 2], len(ids)
        with torch.no_grad():
            expected = model.network(input_ids=torch.tensor([ids])).logits[0, column].log_softmax(-1)
        assert found[number] == pytest.approx(expected.numpy(), abs=1e-5)
        assert np.exp(found[number]).sum() == pytest.approx(1, abs=1e-5)


def test_nothing_asked_is_nothing_used():
    assert asked_of(tiny_model("gpt2"), []) == {}
