"""The Atlas models: standard transformers classes, small."""

from transformers import (
    EuroBertConfig,
    EuroBertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

WIDTH, LAYERS, HEADS, CONTEXT = 192, 8, 6, 192
# The last answers multiple-choice questions by letter.
NAMES = ("atlas-llama", "atlas-gpt2", "atlas-bert", "atlas-llama-choice")


def new_model(name: str, tokenizer, *, layers: int = LAYERS, width: int = WIDTH):
    """An untrained model of the named architecture (or a stage of it); weights come from torch's global generator."""
    ids = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
           "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    if name.startswith(("atlas-llama", "atlas-bert")):
        options = ids | {
            "hidden_size": width, "intermediate_size": width * 8 // 3, "num_hidden_layers": layers,
            "num_attention_heads": HEADS, "num_key_value_heads": 2, "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
        }  # fmt: skip
        if name.startswith("atlas-llama"):
            return LlamaForCausalLM(LlamaConfig(**options))
        # The same network, seeing both ways: so the encoder can begin from the decoder's weights.
        return EuroBertForMaskedLM(EuroBertConfig(**options, mask_token_id=tokenizer.mask_token_id))
    if name.startswith("atlas-gpt2"):
        return GPT2LMHeadModel(GPT2Config(
            **ids, n_embd=width, n_inner=width * 4, n_layer=layers, n_head=HEADS, n_positions=CONTEXT,
            activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        ))  # fmt: skip
    raise ValueError(f"model: found {name!r}, expected one of {' '.join(NAMES)}")


def down_projections(model) -> list:
    """The FFN down-projection of every layer, in order."""
    if hasattr(model, "transformer"):
        return [block.mlp.c_proj for block in model.transformer.h]
    return [layer.mlp.down_proj for layer in model.model.layers]
