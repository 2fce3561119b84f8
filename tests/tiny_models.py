"""Seeded random models of many architectures, a few thousand parameters each, and float64 without downcasts."""

import string

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedTokenizerFast

from knlib.models import Model, prepared

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
VOCABULARY = [*SPECIAL.values(), *string.ascii_lowercase, *string.ascii_uppercase, *SYLLABLES, ".", "▁"]

_rope = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_gqa = _rope | {"num_key_value_heads": 2}
_encoder = _rope | {"type_vocab_size": 1}
_gpt2 = {"n_embd": 16, "n_inner": 24, "n_layer": 3, "n_head": 4, "n_positions": 64}

# model type -> what makes it tiny (and what makes it interesting: grouped heads, windows, capping).
CAUSAL = {
    "gpt2": _gpt2,
    "gpt_neox": _rope | {"rotary_pct": 0.5},
    "bloom": {"hidden_size": 16, "n_layer": 3, "n_head": 4},
    "opt": {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "word_embed_proj_dim": 16,
            "max_position_embeddings": 64},
    "llama": _gqa,
    "mistral": _gqa | {"sliding_window": 5},
    "qwen2": _gqa,
    "qwen3": _gqa | {"head_dim": 8},
    "gemma": _gqa | {"head_dim": 8},
    "gemma2": _gqa | {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8},
    "gemma3_text": _gqa | {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8},
    "phi": _rope,
    "phi3": _gqa | {"sliding_window": None},
    "olmo2": _gqa,
    "falcon": {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_hidden_size": 24},
    "stablelm": _gqa,
    "starcoder2": _gqa | {"sliding_window": None},
    "cohere": _gqa,
    "granite": _gqa | {"logits_scaling": 3.0, "residual_multiplier": 0.7, "attention_multiplier": 0.4},
    "gpt_neo": {"hidden_size": 16, "intermediate_size": 24, "num_layers": 3, "num_heads": 4, "max_position_embeddings": 64,
                "attention_types": [[["global", "local", "global"], 1]], "window_size": 5},
    "gptj": _gpt2 | {"rotary_dim": 4},
    "codegen": _gpt2 | {"rotary_dim": 4},
    "xglm": {"d_model": 16, "ffn_dim": 24, "num_layers": 3, "attention_heads": 4, "max_position_embeddings": 64},
    "mpt": {"d_model": 16, "n_layers": 3, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 64},
}  # fmt: skip
MASKED = {
    "bert": _encoder,
    "roberta": _encoder | {"max_position_embeddings": 70},
    "xlm-roberta": _encoder | {"max_position_embeddings": 70},
    "camembert": _encoder | {"max_position_embeddings": 70},
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 64},
    "electra": _encoder | {"embedding_size": 16},
    "deberta-v2": _encoder
    | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False},
    "mpnet": _encoder | {"max_position_embeddings": 70},
    "eurobert": _gqa | {"mask_token_id": 4},
    "modernbert": _rope | {"local_attention": 4, "global_attn_every_n_layers": 2},
}


def tiny_tokenizer(*, masked: bool) -> PreTrainedTokenizerFast:
    """Pieces are syllables and letters; `<s> text` for causal models, `<s> text </s>` for masked ones."""
    ids = {token: i for i, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[(s[0], s[1]) for s in SYLLABLES], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if masked else "<s> $A",
        special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])],
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def tiny_model(kind: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **options) -> Model:
    """A random model of an architecture, with weights large enough that attention and norms matter."""
    masked = kind in MASKED
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(VOCABULARY)}
    config = AutoConfig.for_model(kind, **((MASKED if masked else CAUSAL)[kind] | special | options))
    torch.manual_seed(seed)
    network = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # Matrices: about unit gain. Norm weights and biases: near their values, but not at them.
            parameter.copy_(noise / parameter.shape[-1] ** 0.5 if parameter.ndim == 2 else parameter + 0.2 * noise)
    return prepared(f"tiny-{kind}", network.to(dtype), tiny_tokenizer(masked=masked), "masked" if masked else "causal")


class KeepFloat64(TorchFunctionMode):
    """Norms and softmaxes that compute in float32 whatever they are given stay in float64: rounding to float32
    differs between two orders of the same sum, and would hide errors below 1e-7."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.full and abs(args[1]) > 1e300:
            # XGLM fills a default (float32) tensor with float64's least number.
            kwargs.setdefault("dtype", torch.float64)
        first = args[0] if args else None
        if isinstance(first, torch.Tensor) and first.dtype == torch.float64:
            if function is torch.Tensor.float:
                return first
            if function in (torch.Tensor.to, torch.Tensor.type):
                args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return function(*args, **kwargs)
