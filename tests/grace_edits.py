"""Codebook edits of the requests of `edit_requests`, and what a model gives for prompts, padded on either side."""

import torch
from edit_requests import REQUESTS, naive_states

from knlib.editing import find_change
from knlib.prediction import AnswerRows
from knlib.sites import padded

PROMPTS = REQUESTS["prompt"].tolist()
STRANGE = ["mira da lati", "fo", "sipo gito ki ba"]


def change_of(model, requests=REQUESTS, **options):
    return find_change("grace", model, requests, **({"layer": 1, "eps": 0.1, "steps": 10} | options))


def logits(model, prompts, side="right"):
    """Of every prompt its own columns', [columns, vocabulary]."""
    before = AnswerRows(model).before
    ids, mask = padded([(*before, *model.pieces(p)) for p in prompts], model.tokenizer.pad_token_id, side, "cpu")
    with torch.no_grad():
        found = model.network(
            input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)
        ).logits
    return [row[own.bool()] for row, own in zip(found, mask, strict=True)]


def equal(one, other):
    return [a.equal(b) for a, b in zip(one, other, strict=True)]


def near(one, other):
    return all(torch.allclose(a, b, atol=1e-10) for a, b in zip(one, other, strict=True))


def last(model, prompt, layer=1):
    """What the layer gives at a prompt's last token, and its column."""
    column = len(AnswerRows(model).before) + len(model.pieces(prompt)) - 1
    return naive_states(model, prompt, column, layer)[2], column
