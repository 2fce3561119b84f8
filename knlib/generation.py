"""Greedy generation: what a causal model says behind a prompt, as it is now (edited or not)."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig

from .errors import InputError, Literal
from .models import Model
from .sites import padded

ROWS_PER_BATCH = 128


@torch.no_grad()
def generate(model: Model, prompts: Sequence[str], tokens: int, *, batch: int = ROWS_PER_BATCH) -> list[str]:
    """The `tokens` most probable next tokens of every prompt, one after another, as text; an end-of-text token ends it.

    Raises `InputError` for a masked model, an empty prompt, and prompts that leave no room in the context.

    Example
    -------
    >>> generate(load_model("atlas-gpt2"), ["The capital of the country France is"], 2)
    [' Paris.']
    """
    if model.kind != "causal":
        raise InputError(f"model {model.name}", found=Literal(f"a {model.kind} model"), expected="a causal one")
    before, _ = model.specials
    rows = [(*before, *model.pieces(prompt)) for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if not row or len(row) + tokens > model.context:
            raise InputError("prompt", found=Literal(f"{len(row)} tokens, {prompt[:40]!r}"),
                             expected=f"1 to {model.context - tokens}, with {tokens} to come")  # fmt: skip
    pad = model.tokenizer.pad_token_id
    # All given here: a checkpoint's own settings may sample.
    config = GenerationConfig(max_new_tokens=tokens, do_sample=False, num_beams=1, pad_token_id=pad,
                              eos_token_id=model.tokenizer.eos_token_id)  # fmt: skip
    found: list[str] = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        ids, mask = padded([rows[i] for i in part], pad, "left", model.device)
        out = model.network.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        texts = model.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        for i, text in zip(part, texts, strict=True):
            found[i] = text
    return found
