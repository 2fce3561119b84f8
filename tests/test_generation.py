"""Greedy generation: the most probable tokens one after another, whatever the padding."""

import pytest
import torch
from tiny_models import tiny_model

from knlib.errors import InputError
from knlib.generation import generate

PROMPTS = ["kilo ba", "sipo bada nupe gota", "mira"]


def greedy(model, prompt: str, tokens: int) -> str:
    """Whole rows, no cache, no padding."""
    before, _ = model.specials
    ids = [*before, *model.pieces(prompt)]
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(model.network(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == model.tokenizer.eos_token_id:
            break
    return model.tokenizer.decode(ids[start:], skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_texts_are_the_greedy_ones(kind):
    model = tiny_model(kind)
    expected = [greedy(model, prompt, 5) for prompt in PROMPTS]
    assert generate(model, PROMPTS, 5) == expected and any(expected)
    assert generate(model, PROMPTS, 5, batch=1) == expected


def test_bad_input_is_named():
    with pytest.raises(InputError, match="a causal one"):
        generate(tiny_model("bert"), PROMPTS, 2)
    model = tiny_model("gpt2")
    with pytest.raises(InputError, match="1 to "):
        generate(model, ["kilo " * 200], 2)
