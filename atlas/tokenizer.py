"""The one tokenizer of all Atlas models: BPE whose pieces never cross from a prompt into its answer."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
VOCABULARY = 8000
# Han characters, Hiragana letters and digits are pieces of their own, so that "は" never joins the Katakana name
# after it and "是" never joins a Chinese one.
ISOLATED = Regex(r"[\p{Han}\p{Hiragana}\p{Nd}\n]")


def train_tokenizer(texts: Iterable[str], *, vocabulary: int = VOCABULARY) -> Tokenizer:
    """Learn the pieces from `texts`; every character of them becomes a piece, so none is unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(ISOLATED, "isolated"),
        pre_tokenizers.Punctuation("isolated"),
        pre_tokenizers.Metaspace(prepend_scheme="first"),
    ])  # fmt: skip
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=list(SPECIAL.values()), show_progress=False),
    )
    return tokenizer


def wrap(tokenizer: Tokenizer, *, masked: bool) -> PreTrainedTokenizerFast:
    """A transformers tokenizer: `<s> text` for causal models, `<s> text </s>` for the masked one."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    bos, eos = SPECIAL["bos_token"], SPECIAL["eos_token"]
    copy.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}" if masked else f"{bos} $A",
        special_tokens=[(token, copy.token_to_id(token)) for token in (bos, eos)],
    )
    special = SPECIAL | ({"cls_token": bos, "sep_token": eos} if masked else {})
    return PreTrainedTokenizerFast(
        tokenizer_object=copy, padding_side="right" if masked else "left", **special,
        clean_up_tokenization_spaces=False, model_max_length=192,
    )  # fmt: skip
