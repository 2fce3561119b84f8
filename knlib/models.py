"""Load any Hugging Face causal or masked language model, and answer every question about architecture.

No other file of knlib knows one architecture from another.
"""

import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.pytorch_utils import Conv1D
from transformers.tokenization_utils_tokenizers import TokenizersBackend
from transformers.utils.logging import disable_progress_bar

from .errors import InputError, Literal

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "models"

# Names that FFN down-projections have in transformers. Attention has an output projection of its own, sometimes
# by the same name: what lies inside a module with "att" in its name is not meant.
DOWN_PROJECTION = re.compile(
    r"(^|\.)(down_proj|dense_4h_to_h|fc2|lin2|fc_out|w2|wo|mlp\.c_proj|mlp\.dense_out|output\.dense|mlp\.Wo)$"
)
# Without any of these, transformers makes an empty tokenizer for some architectures.
TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken", "tekken.json", "tokenization_*.py")
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
    # No field: what the `logits_at` that is running asks for, (rows, columns).
    asked = None

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @cached_property
    def base(self) -> nn.Module:
        """The network without its head: the innermost pretrained module that holds the layers.

        Not `base_model`, which in OPT wraps the decoder that the head reads, and is passed by.
        """
        first = self.layers[0]
        holders = [m for m in self.network.modules()
                   if isinstance(m, PreTrainedModel) and any(sub is first for sub in m.modules())]  # fmt: skip
        return min(holders, key=lambda m: sum(1 for _ in m.modules()))

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
    def up_projections(self) -> list[list[nn.Module]]:
        """Of each layer, the modules whose outputs make its neurons: one, or a gate beside it, or both in one."""
        pairs = zip(self.layers, self.down_projections, strict=True)
        return [find_up_projections(layer, down) for layer, down in pairs]

    def column(self, layer: int, neuron: int) -> torch.Tensor:
        """What a neuron adds to the stream per unit of it, [width]: a view of the down-projection's weight."""
        projection = self.down_projections[layer]
        return by_input(projection, projection.weight.detach())[neuron]

    def unembedding(self, token: int) -> torch.Tensor:
        """A token's row of the output embedding, [width]: the direction of the stream that raises its logit."""
        return self.network.get_output_embeddings().weight.detach()[token]

    def neuron_entries(self, neurons: Iterable[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """Which entries of the parameters belong to (layer, neuron) pairs: parameter name -> mask of its shape.

        A neuron's are its row of every up-projection (gate and up) with the biases, and its down-projection column.

        Example
        -------
        >>> {name: int(mask.sum()) for name, mask in load_model("atlas-gpt2").neuron_entries([(3, 5)]).items()}
        {'transformer.h.3.mlp.c_proj.weight': 192, 'transformer.h.3.mlp.c_fc.weight': 192, 'transformer.h.3.mlp.c_fc.bias': 1}
        """
        names, masks = {id(p): name for name, p in self.network.named_parameters()}, {}

        def mask_of(parameter):
            return masks.setdefault(names[id(parameter)], torch.zeros_like(parameter, dtype=torch.bool))

        by_layer: dict[int, list[int]] = {}
        for layer, neuron in neurons:
            by_layer.setdefault(layer, []).append(neuron)
        for layer, own in by_layer.items():
            down = self.down_projections[layer]
            by_input(down, mask_of(down.weight))[own] = True
            for up in self.up_projections[layer]:
                mask = by_input(up, mask_of(up.weight))
                # A gate and a value in one matrix: a neuron's rows are n_neurons apart.
                rows = [row for neuron in own for row in range(neuron, mask.shape[1], self.n_neurons)]
                mask[:, rows] = True
                if up.bias is not None:
                    mask_of(up.bias)[rows] = True
        return masks

    @cached_property
    def context(self) -> int:
        """The most tokens that fit in a row. XLM-R and its kin number positions from the padding token's id + 1."""
        limit = getattr(self.network.config.get_text_config(), "max_position_embeddings", None) or 10**9
        skipped = [m.padding_idx + 1 for name, m in self.network.named_modules()
                   if name.endswith("position_embeddings") and getattr(m, "padding_idx", None) is not None]  # fmt: skip
        return limit - max(skipped, default=0)

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
        return self.continuations(tail, [text])[0]

    def continuations(self, tail: str, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """`continuation` of each text, in one call of the tokenizer."""
        if not (tail and texts and self.tokenizer.is_fast):
            return [self.pieces(text) for text in texts]
        whole = self.tokenizer([tail + text for text in texts], add_special_tokens=False, return_offsets_mapping=True)
        found = []
        for text, ids, offsets in zip(texts, whole["input_ids"], whole["offset_mapping"], strict=True):
            first = next((i for i, (a, _) in enumerate(offsets) if a >= len(tail)), None)
            parted = first is not None and all(b <= len(tail) for _, b in offsets[:first])
            found.append(tuple(ids[first:]) if parted else self.pieces(text))
        return found

    def logits_at(self, ids: torch.Tensor, attention: torch.Tensor, rows, columns) -> torch.Tensor:
        """Logits [positions, vocabulary] at the given (row, column) positions of a right-padded batch.

        The model's own head (with its transforms, scaling and soft-capping) runs on these positions only. During the
        call `asked` holds (rows, columns), for hooks that must know where a question ends.
        """

        def pick(module, inputs, output):
            hidden = output[0][rows, columns][None]
            if isinstance(output, tuple):
                return (hidden, *output[1:])
            output.last_hidden_state = hidden
            return output

        before, handle = self.asked, self.base.register_forward_hook(pick)
        vars(self)["asked"] = (rows, columns)  # the dataclass is frozen
        try:
            options = {"use_cache": False} if self.kind == "causal" else {}
            return self.network(input_ids=ids, attention_mask=attention, **options).logits[0]
        finally:
            vars(self)["asked"] = before
            handle.remove()

    @contextmanager
    def attention_by(self, name: str):
        """Attention modules run the function that is registered in transformers under `name`, for the time of a `with` block.

        Only modules that ask transformers which function to run can be told so: see `open_attention`.
        """
        configs = {id(m.config): m.config for m in self.network.modules() if hasattr(m, "config")}.values()
        before = [(config, getattr(config, "_attn_implementation_internal", None)) for config in configs]
        try:
            for config, _ in before:
                config._attn_implementation_internal = name
            yield
        finally:
            for config, implementation in before:
                config._attn_implementation_internal = implementation

    @contextmanager
    def hooks(self, *pairs):
        """Forward hooks for the time of a `with` block, removed also after an exception."""
        handles = [module.register_forward_hook(hook) for module, hook in pairs]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def eager_attention(module: nn.Module):
    """An attention module's computation in plain operations, which returns the weights beside the output.

    Every architecture that transformers lets choose among kernels has it, with its scaling, capping and grouped heads, under
    one name beside the module's class. None where there is none.
    """
    return getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)


def n_inputs(projection: nn.Module) -> int:
    """Width of a projection's input, by the type of the module, never by the shape of its weight."""
    return projection.weight.shape[0] if isinstance(projection, Conv1D) else projection.weight.shape[1]


def by_input(projection: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Values shaped like a projection's weight as [inputs, outputs], a view; by the type of the module, too."""
    return values if isinstance(projection, Conv1D) else values.T


def find_up_projections(layer: nn.Module, down: nn.Module) -> list[nn.Module]:
    """The matrices of a layer outside attention that have one output per neuron, or a gate and a value one after the other."""
    n = n_inputs(down)
    found = {
        module: by_input(module, module.weight).shape[1] for path, module in layer.named_modules()
        if module is not down and not IN_ATTENTION.search(path) and getattr(module, "weight", None) is not None
        and module.weight.ndim == 2
    }  # fmt: skip
    widths = list(found.values())
    if widths not in ([n], [n, n], [2 * n]):
        raise InputError(f"layer {type(layer).__name__}", found=Literal(f"FFN matrices with {widths} outputs"),
                         expected=f"one or two with {n}, or one with {2 * n}, before the down-projection")  # fmt: skip
    return list(found)


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
        if not any(file for pattern in TOKENIZER_FILES for file in source.glob(pattern)):
            raise InputError(f"model folder {name}", found=Literal("no tokenizer"), expected="tokenizer.json")
    where = str(source) if source.is_dir() else str(name)
    disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(where)
        tokenizer = load_tokenizer(where)
        kind = model_kind(config, tokenizer, where=str(name))
        loader = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # both are refused below
        network, report = loader.from_pretrained(where, dtype=dtype, **options)
    except InputError:
        raise
    except Exception as error:  # files of a folder can be broken in the eyes of any of the libraries that read them
        shipped = " ".join(sorted(p.name for p in SHIPPED.glob("*") if p.is_dir()))
        # The folder is named already, and its path may be long.
        reason = " ".join(str(error).replace(f"{where}/", "").split())[:150]
        raise InputError(f"model {name}", found=Literal(f"nothing that loads ({reason})"),
                         expected=f"one of {shipped}, a model folder, or a Hugging Face id") from None  # fmt: skip
    lacking = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if lacking:
        raise InputError(f"model {name}", found=Literal(f"no fitting weights for {len(lacking)} parameters ({lacking[0]} ...)"),
                         expected=f"all that {type(network).__name__} has by its config.json")  # fmt: skip
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return prepared(source.name if source.is_dir() else str(name), network.to(device), tokenizer, kind)


def load_tokenizer(where: str):
    """The tokenizer that a checkpoint declares; for some types (Qwen2) AutoTokenizer would put another in its place."""
    declared = get_tokenizer_config(where).get("tokenizer_class")
    loader = TokenizersBackend if declared == "TokenizersBackend" else AutoTokenizer
    return loader.from_pretrained(where)


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
