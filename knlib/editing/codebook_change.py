"""A codebook beside the weights: near a key, its value is what a layer gives; without a hit not a bit differs."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

from ..errors import InputError, Literal
from ..files import atomically
from ..models import Model
from .changes import read_change

FIELDS = ("editor", "options", "model", "model_hash", "layer", "report")
TENSORS = ("keys", "values", "radii")


@dataclass(frozen=True, eq=False)
class CodebookChange:
    """A codebook for the output of a layer: `keys` and `values` [keys, width], `radii` [keys].

    Where the layer's output is nearer (Euclidean) to its nearest key than that key's radius, the key's value takes its
    place. `owners`: of every key the requests (edit, language) that it serves. The other fields are those of
    `WeightChange`.

    Example
    -------
    >>> change = find_change("grace", model, requests, layer=4, eps=2.0)
    >>> with change.applied(model):
    ...     found = predict(model, queries, facts)
    """

    editor: str
    options: dict
    model: str
    model_hash: str
    layer: int
    owners: tuple[tuple[tuple[str, str], ...], ...]
    keys: torch.Tensor
    values: torch.Tensor
    radii: torch.Tensor
    report: dict = field(default_factory=dict)

    @property
    def edits(self) -> list[str]:
        """Ids of the edits, in the order of their keys."""
        return list(dict.fromkeys(edit for own in self.owners for edit, _ in own))

    def without(self, edit: str) -> "CodebookChange":
        """The change without the keys that serve this edit alone. `InputError` for an unknown id.

        All else stays as it was found: radii that this edit's keys have narrowed or widened, and a key that it shares
        with another edit.
        """
        if edit not in self.edits:
            raise InputError("edit", found=edit, expected=Literal("one of " + " ".join(self.edits)))
        owners = [tuple(owner for owner in own if owner[0] != edit) for own in self.owners]
        kept = [number for number, own in enumerate(owners) if own]
        tensors = {name: getattr(self, name)[kept] for name in TENSORS}
        return replace(self, owners=tuple(owners[number] for number in kept), **tensors)

    def queries(self, table: pd.DataFrame) -> pd.DataFrame:
        """The queries as the edited model is to be asked: as they are."""
        return table

    @contextmanager
    def applied(self, model: Model):
        """The codebook acts within the `with` block, which gives the change; rows without a hit keep their bits.

        Tokens do not tell where a prompt ends, so every column of a call is looked up, from the left to the row's first
        hit (padding is not): nothing behind it, as the answer's own tokens. A call that brings only the tokens
        behind a cache is looked up in the same way. Raises `InputError` for a model of other shapes.
        """
        width = len(model.column(0, 0))
        if not 0 <= self.layer < model.n_layers or self.keys.shape[1] != width:
            raise InputError("codebook", found=Literal(f"layer {self.layer}, width {self.keys.shape[1]}"),
                             expected=f"one for {model.name}: {model.n_layers} layers, width {width}")  # fmt: skip
        device, asked = model.down_projections[self.layer].weight.device, {}
        keys, values, radii = (getattr(self, name).to(device) for name in TENSORS)

        def before(module, args, kwargs):
            asked["mask"] = kwargs.get("attention_mask")

        def after(module, args, output):
            asked.clear()

        def look_up(module, inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output  # [rows, columns, width]
            hit, nearest = first_hits(hidden, asked.get("mask"), keys, radii)
            if not hit.any():
                return None
            changed = hidden.clone()
            changed[hit] = values[nearest[hit]].to(hidden)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handles = [model.base.register_forward_pre_hook(before, with_kwargs=True),
                   model.base.register_forward_hook(after, always_call=True)]  # fmt: skip
        try:
            with model.hooks(*[(model.layers[self.layer], look_up)] * bool(self.owners)):
                yield self
        finally:
            for handle in handles:
                handle.remove()

    def save(self, path: str | Path) -> None:
        """One safetensors file, whole or not at all: the tensors, and all else as JSON in its metadata."""
        tensors = {name: getattr(self, name).cpu().contiguous().clone() for name in TENSORS}
        described = {name: getattr(self, name) for name in (*FIELDS, "owners")}
        metadata = {"codebook": json.dumps(described, ensure_ascii=False, sort_keys=True)}
        atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata))


def load_codebook(path: str | Path, model: Model) -> CodebookChange:
    """A saved codebook, for the model that it was found on.

    Raises `InputError` for a file that is none, and where the model's hash is another, naming both.

    Example
    -------
    >>> with load_codebook("grace.safetensors", model).applied(model):
    ...     found = predict(model, queries, facts)
    """

    def read(file, described: dict) -> CodebookChange:
        owners = tuple(tuple(map(tuple, own)) for own in described.pop("owners"))
        return CodebookChange(**described, owners=owners, **{name: file.get_tensor(name) for name in TENSORS})

    return read_change(path, model, "codebook", read, expected="a file of CodebookChange.save")


def first_hits(hidden: torch.Tensor, mask: torch.Tensor | None, keys: torch.Tensor, radii: torch.Tensor):
    """Which columns hit, at most one of a row: [rows, columns] booleans; and every column's nearest key.

    `hidden` [rows, columns, width]; `mask` [rows, at least columns]: its last columns say which are no padding.
    """
    states = hidden.flatten(0, 1).to(keys)
    # By matrix products, ten times as fast as exact ones: their rounding may confuse two keys that are nearly the same,
    # but not be taken for the distance of a state to its own key.
    nearest = torch.cdist(states, keys).argmin(dim=1)
    least = (states - keys[nearest]).norm(dim=1)
    hit = (least < radii[nearest]).reshape(hidden.shape[:2])
    if mask is not None:
        hit &= mask[:, -hit.shape[1] :].to(hit)
    return hit & (hit.cumsum(dim=1) == 1), nearest.reshape(hit.shape)
