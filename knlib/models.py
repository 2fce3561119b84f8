"""Load any Hugging Face causal or masked language model, and answer every question about architecture.

No other file of knlib knows one architecture from another.
"""

import hashlib
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D

from .errors import InputError, Literal

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "models"

# Names that FFN down-projections have in transformers. Attention has an output projection of its own, sometimes
# by the same name: what lies inside a module with "att" in its name is not meant.
DOWN_PROJECTION = re.compile(
    r"(^|\.)(down_proj|dense_4h_to_h|fc2|lin2|fc_out|w2|wo|mlp\.c_proj|mlp\.dense_out|output\.dense|mlp\.Wo)$"
)
IN_ATTENTION = re.compile(r"(^|\.)\w*(att|attn)\w*\.", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Model:
    """A language model ready to be asked: network, tokenizer, and where its neurons are.

    `kind` is `"causal"` or `"masked"`. `layers[l]` is a block, `down_projections[l]` the module whose *input* is the
    neuron vector of layer l. The network is in evaluation mode, float32 unless asked otherwise, without
    gradients on its parameters.
    """

    name: str
    network: nn.Module
    tokenizer: object
    kind: str

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def base(self) -> nn.Module:
        """The network without its head."""
        return self.network.base_model

    @cached_property
    def _blocks(self) -> tuple[list[nn.Module], list[nn.Module]]:
        return find_blocks(self.network)

    @property
    def layers(self) -> list[nn.Module]:
        return self._blocks[0]

    @property
    def down_projections(self) -> list[nn.Module]:
        return self._blocks[1]

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def n_neurons(self) -> int:
        """Neurons per layer: the width of the down-projection's input."""
        return n_inputs(self.down_projections[0])

    @cached_property
    def hash(self) -> str:
        """SHA-256 of all parameter names, shapes and values, 16 hex digits: the identity of the weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def specials(self) -> tuple[list[int], list[int]]:
        """Special tokens that the tokenizer puts before and after a text (none after it, in a causal model)."""
        ids = self.tokenizer("a")["input_ids"]
        plain = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        start = next(i for i in range(len(ids)) if ids[i : i + len(plain)] == plain)
        after = ids[start + len(plain) :] if self.kind == "masked" else []
        return ids[:start], after

    @lru_cache(maxsize=200_000)  # noqa: B019 (a model lives as long as the session)
    def pieces(self, text: str) -> tuple[int, ...]:
        """Token ids of a text at the start of a line, without special tokens."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @lru_cache(maxsize=200_000)  # noqa: B019
    def continuation(self, tail: str, text: str) -> tuple[int, ...]:
        """Token ids of `text` where it continues a line that ends in `tail`.

        The tokens are those that overlap `text` when both are tokenized as one. Where one token would
        straddle the border, or the tokenizer gives no offsets, `text` is tokenized alone.
        """
        if tail and self.tokenizer.is_fast:
            found = self.tokenizer(tail + text, add_special_tokens=False, return_offsets_mapping=True)
            first = len(tail) + len(text) - len(text.lstrip())
            overlap = [i for i, (a, b) in enumerate(found["offset_mapping"]) if b > first and b > a]
            if overlap and found["offset_mapping"][overlap[0]][0] >= len(tail):
                return tuple(found["input_ids"][overlap[0] :])
        return self.pieces(text)

    def logits_at(self, ids: torch.Tensor, attention: torch.Tensor, rows, columns) -> torch.Tensor:
        """Logits [positions, vocabulary] at the given (row, column) positions of a right-padded batch.

        The model's own head (with its transforms, scaling and soft-capping) runs on these positions only.
        """

        def pick(module, inputs, output):
            hidden = output[0][rows, columns][None]
            if isinstance(output, tuple):
                return (hidden, *output[1:])
            output.last_hidden_state = hidden
            return output

        handle = self.base.register_forward_hook(pick)
        try:
            options = {"use_cache": False} if self.kind == "causal" else {}
            return self.network(input_ids=ids, attention_mask=attention, **options).logits[0]
        finally:
            handle.remove()

    @contextmanager
    def hooks(self, *pairs):
        """Forward hooks for the time of a `with` block, removed also after an exception."""
        handles = [module.register_forward_hook(hook) for module, hook in pairs]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def n_inputs(projection: nn.Module) -> int:
    """Width of a projection's input, by the type of the module, never by the shape of its weight."""
    return projection.weight.shape[0] if isinstance(projection, Conv1D) else projection.weight.shape[1]


def find_blocks(network: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """The layers of a network and the FFN down-projection of each.

    The layers are the `ModuleList` of the configured length whose elements contain exactly one down-projection by
    module name. Raises `InputError` that names what was looked for.
    """
    config = network.config.get_text_config()
    wanted, seen = config.num_hidden_layers, []
    for name, module in network.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) != wanted:
            continue
        found = [
            [sub for path, sub in layer.named_modules()
             if DOWN_PROJECTION.search(path) and not IN_ATTENTION.search(path) and hasattr(sub, "weight")]
            for layer in module
        ]  # fmt: skip
        seen.append(f"{name} ({', '.join(str(len(f)) for f in found[:4])} found)")
        if all(len(subs) == 1 and subs[0].weight.ndim == 2 for subs in found):
            return list(module), [subs[0] for subs in found]
    raise InputError(
        f"architecture {type(network).__name__}",
        found=Literal("lists of layers: " + ("; ".join(seen) or "none")),
        expected=f"a list of {wanted} layers with exactly one FFN down-projection each "
        "(down_proj, mlp.c_proj, dense_4h_to_h, fc2, lin2, output.dense, ...); shared layers and "
        "mixtures of experts are not supported",
    )


def load_model(name: str | Path, *, device: str | None = None, dtype: torch.dtype = torch.float32) -> Model:
    """A shipped model (`"atlas-llama"`), a folder, or a Hugging Face id, ready for prediction and attribution.

    Raises `InputError` for a folder without config or weights, an unknown name, an architecture that is neither
    a causal nor a masked language model.

    Example
    -------
    >>> model = load_model("atlas-gpt2")
    >>> model.kind, model.n_layers, model.n_neurons
    ('causal', 8, 768)
    """
    source = Path(name)
    if not source.exists() and (SHIPPED / str(name)).is_dir():
        source = SHIPPED / str(name)
    if source.is_dir():
        if not (source / "config.json").is_file():
            raise InputError(f"model folder {name}", found=Literal("no config.json"), expected="a transformers folder")
        if not any(source.glob("*.safetensors")) and not any(source.glob("pytorch_model*.bin")):
            raise InputError(f"model folder {name}", found=Literal("no weights"),
                             expected="model.safetensors (or pytorch_model.bin)")  # fmt: skip
    where = str(source) if source.is_dir() else str(name)
    try:
        config = AutoConfig.from_pretrained(where)
        tokenizer = AutoTokenizer.from_pretrained(where)
        kind = model_kind(config, tokenizer, where=str(name))
        loader = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
        network = loader.from_pretrained(where, dtype=dtype)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        shipped = " ".join(sorted(p.name for p in SHIPPED.glob("*") if p.is_dir()))
        reason = str(error).strip().split("\n")[0][:120]
        raise InputError(f"model {name}", found=Literal(f"nothing that loads ({reason})"),
                         expected=f"one of {shipped}, a model folder, or a Hugging Face id") from None  # fmt: skip
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return prepared(source.name if source.is_dir() else str(name), network.to(device), tokenizer, kind)


def prepared(name: str, network: nn.Module, tokenizer, kind: str) -> Model:
    """A `Model` from a network in memory: evaluation mode, no gradients on parameters."""
    network.eval().requires_grad_(False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if kind == "masked" and tokenizer.mask_token_id is None:
        raise InputError(f"model {name}", found=Literal("a tokenizer without mask token"), expected="one with it")
    return Model(name, network, tokenizer, kind)


def model_kind(config, tokenizer, *, where: str) -> str:
    """`"causal"` or `"masked"`, from the class the checkpoint was saved with, else from its type."""
    for architecture in config.architectures or ():
        if architecture.endswith("ForMaskedLM"):
            return "masked"
        if architecture.endswith(("ForCausalLM", "LMHeadModel")):
            return "causal"
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and tokenizer.mask_token_id is not None
    if masked or config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "masked" if masked else "causal"
    raise InputError(f"model {where}", found=config.model_type, expected="a causal or masked language model")
