"""The three Atlas models: standard transformers classes, small."""

from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

WIDTH, LAYERS, HEADS, CONTEXT = 192, 8, 6, 192
NAMES = ("atlas-llama", "atlas-gpt2", "atlas-bert")


def new_model(name: str, *, vocabulary: int, bos: int, eos: int, pad: int, layers: int = LAYERS, width: int = WIDTH):
    """An untrained model of the named architecture (or a stage of it); weights come from torch's global generator."""
    ids = {"vocab_size": vocabulary, "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    if name.startswith("atlas-llama"):
        return LlamaForCausalLM(LlamaConfig(
            **ids, hidden_size=width, intermediate_size=width * 8 // 3, num_hidden_layers=layers,
            num_attention_heads=HEADS, num_key_value_heads=2, max_position_embeddings=CONTEXT,
            rms_norm_eps=1e-6, tie_word_embeddings=True,
        ))  # fmt: skip
    if name.startswith("atlas-gpt2"):
        return GPT2LMHeadModel(GPT2Config(
            **ids, n_embd=width, n_inner=width * 4, n_layer=layers, n_head=HEADS, n_positions=CONTEXT,
            activation_function="gelu_pytorch_tanh", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        ))  # fmt: skip
    if name == "atlas-bert":
        return BertForMaskedLM(BertConfig(
            **ids, hidden_size=width, intermediate_size=width * 4, num_hidden_layers=layers,
            num_attention_heads=HEADS, max_position_embeddings=CONTEXT, type_vocab_size=1,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ))  # fmt: skip
    raise ValueError(f"model: found {name!r}, expected one of {' '.join(NAMES)}")


def down_projections(model) -> list:
    """The FFN down-projection of every layer, in order."""
    if hasattr(model, "transformer"):
        return [block.mlp.c_proj for block in model.transformer.h]
    if hasattr(model, "bert"):
        return [layer.output.dense for layer in model.bert.encoder.layer]
    return [layer.mlp.down_proj for layer in model.model.layers]
