"""Tokenizers of three families, prompts for them, a planted neuron: for tests of multiple-choice letters."""

import pandas as pd
import torch
from tiny_models import tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from knlib.models import Model
from knlib.query_relevant.letters import letter_sets
from knlib.sites import neuron_vectors

PROMPTS = pd.DataFrame({
    "query": ["a", "b", "c", "d"], "prompt": ["bada kilo", "nu", "sipo ta mira lenu do", "go Ba"], "answer": list("BADC"),
})  # fmt: skip
PLANTED = (2, 7)  # layer and neuron of `planted_model`
A_PROMPT = PROMPTS.iloc[[1]]  # its right letter is A
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def byte_level(merges: list[tuple[str, str]], *, regex: bool = True) -> PreTrainedTokenizerFast:
    """As GPT-2's, Llama 3's, Qwen's: bytes, and the merges given (a blank is written Ġ)."""
    pieces = [*SPECIAL.values(), *sorted(ByteLevel.alphabet()), *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=regex)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def sentence_piece(pieces: list[str], merges: list[tuple[str, str]], *, fallback=True) -> PreTrainedTokenizerFast:
    """As Llama 2's: characters, merges, bytes for the rest (a blank is written ▁, one before the text)."""
    rest = [f"<0x{b:02X}>" for b in range(256)] if fallback else []
    pieces = [*SPECIAL.values(), *rest, "▁", *pieces, *(a + b for a, b in merges)]
    vocabulary = {p: i for i, p in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def planted_model() -> Model:
    """One neuron of the last layer writes the letter A behind `A_PROMPT`."""
    model, (layer, neuron) = tiny_model("llama", seed=3), PLANTED
    ids = (*model.specials[0], *model.pieces("nu"))
    value = neuron_vectors(model, [ids], [len(ids) - 1])[0, layer, neuron]
    with torch.no_grad():
        row = model.unembedding(letter_sets(model, "nu")[0][0])
        model.down_projections[layer].weight[:, neuron] = 6 * value.sign() / value.abs() * row
    return model
