"""Edit requests and texts for tests of the editors, on models of `tiny_models` (syllables)."""

import pandas as pd
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from knlib.editing.requests import REQUEST_COLUMNS

# Subjects of two tokens inside the prompt, answers of one to three.
REQUESTS = pd.DataFrame(
    [("A", "r:A", "r", "en", "bada", "kilo bada nupe", " ", "pe", "mota", "."),
     ("A", "r:A", "r", "ja", "boda", "sipobodanu", "", "suda", "ki", "。"),
     ("B", "r:B", "r", "en", "gota", "kilo gota nupe", " ", "lati", "rurofe", "."),
     ("B", "r:B", "r", "ja", "gito", "sipogitonu", "", "nike", "mo", "。")],
    columns=list(REQUEST_COLUMNS),
)  # fmt: skip
ONE = REQUESTS.head(1)
TEXTS = [
    "kilo sipo ba pe.",
    "mira da go tu",
    "Nupe bilaro si.",
    "fo",
    "da do ga bo si tu la me no ri",
    "gatepu mila kiso",
]


def weights(model) -> dict[str, torch.Tensor]:
    """Copies of all that the network's state holds."""
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def same(model, before: dict[str, torch.Tensor]) -> bool:
    """Whether the network's state is that one, bit for bit."""
    return all(tensor.equal(before[name]) for name, tensor in model.network.state_dict().items())


def down(model, layer: int) -> torch.Tensor:
    """A copy of a down-projection's weight as [width, neurons]."""
    projection = model.down_projections[layer]
    weight = projection.weight.detach().clone()
    return weight.T if type(projection) is Conv1D else weight


def naive_states(model, prompt: str, tokens: int, layer: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Key, down-projection's and block's output at the last of the first `tokens` tokens of a prompt (after the specials)."""
    found = {}
    handles = [
        model.down_projections[layer].register_forward_hook(lambda m, i, o: found.update(key=i[0], mlp=o)),
        model.layers[layer].register_forward_hook(lambda m, i, o: found.update(block=o[0] if type(o) is tuple else o)),
    ]
    ids = [model.tokenizer.bos_token_id, *model.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        model.network(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return tuple(found[name].reshape(len(ids), -1)[tokens] for name in ("key", "mlp", "block"))


# Tokens of the prompts of REQUESTS up to the subject's end: "▁ ki lo ▁ ba da", "▁ si po bo da".
ENDS = {"A": {"en": 6, "ja": 5}, "B": {"en": 6, "ja": 5}}


def naive_moment(model, layer: int, ridge: float) -> torch.Tensor:
    """C over TEXTS, one text and one token at a time."""
    total, count = 0, 0
    for text in TEXTS:
        for end in range(1, len(model.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1):
            key = naive_states(model, text, end, layer)[0].double()
            total, count = total + torch.outer(key, key), count + 1
    moment = total / count
    return moment + ridge * moment.trace() / len(moment) * torch.eye(len(moment), dtype=torch.float64)


def as_linear(model) -> None:
    """Every `Conv1D` down-projection becomes the `nn.Linear` that computes the same."""
    for block in model.network.transformer.h:
        old = block.mlp.c_proj
        new = nn.Linear(old.weight.shape[0], old.weight.shape[1], dtype=old.weight.dtype).requires_grad_(False)
        new.weight.copy_(old.weight.T)
        new.bias.copy_(old.bias)
        block.mlp.c_proj = new
    model.__dict__.pop("_blocks", None)
