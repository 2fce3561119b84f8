"""Tokenizers of three families and prompts for them, for tests of multiple-choice letters."""

import pandas as pd
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

PROMPTS = pd.DataFrame({
    "query": ["a", "b", "c", "d"], "prompt": ["bada kilo", "nu", "sipo ta mira lenu do", "go Ba"], "answer": list("BADC"),
})  # fmt: skip
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
