"""A found edit as data, apart from its application: what is added to the down-projections, and for which edit."""

import json
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import InputError, Literal
from ..files import atomically
from ..models import Model, by_input


@dataclass(frozen=True, eq=False)
class Part:
    """What one edit adds to one layer's down-projection: `outputs` @ `keys`.T, [width, neurons].

    `outputs` [width, rank]: what is added to the projection's output; `keys` [neurons, rank]: by how much of each
    neuron. The stored weight is [width, neurons] in a `Linear`, [neurons, width] in a `Conv1D`.
    """

    edit: str
    layer: int
    outputs: torch.Tensor
    keys: torch.Tensor


@dataclass(frozen=True, eq=False)
class WeightChange:
    """Changes of a model's down-projections that an editor found: parts, each of one edit and one layer.

    `options`: the editor's, as JSON has them; `model`, `model_hash`: those that it was found on; `report`: what the
    editor says of its search (losses, steps, ranks), as JSON has it.

    Example
    -------
    >>> change = find_change("rome", model, requests, layer=3, texts=texts)
    >>> with change.applied(model):
    ...     found = predict(model, queries, facts)
    >>> change.without("capital:FR").save("rome.safetensors")
    """

    editor: str
    options: dict
    model: str
    model_hash: str
    parts: tuple[Part, ...]
    report: dict = field(default_factory=dict)

    @property
    def edits(self) -> list[str]:
        """Ids of the edits, in the order in which they were found."""
        return list(dict.fromkeys(part.edit for part in self.parts))

    def without(self, edit: str) -> "WeightChange":
        """The change without one edit; the others stay as they were found, beside it. `InputError` for another id."""
        if edit not in self.edits:
            raise InputError("edit", found=edit, expected=Literal("one of " + " ".join(self.edits)))
        return replace(self, parts=tuple(part for part in self.parts if part.edit != edit))

    def queries(self, table: pd.DataFrame) -> pd.DataFrame:
        """The queries as the edited model is to be asked: as they are."""
        return table

    @contextmanager
    def applied(self, model: Model):
        """The model has the change within the `with` block, which gives the change.

        The weights are bit for bit what they were after the block, also after an exception; blocks nest, and add.
        Raises `InputError` for a model of other shapes, before anything is touched.
        """
        self._check_shapes(model)
        with kept_weights(model, {part.layer for part in self.parts}):
            add_parts(model, self.parts)
            yield self

    def save(self, path: str | Path) -> None:
        """One safetensors file, whole or not at all: the parts, and all else as JSON in its metadata."""
        tensors = {}
        for number, part in enumerate(self.parts):
            for name in ("outputs", "keys"):
                # A copy each: safetensors refuses tensors that share memory.
                tensors[f"{number}.{name}"] = getattr(part, name).detach().cpu().contiguous().clone()
        described = {name: getattr(self, name) for name in ("editor", "options", "model", "model_hash", "report")}
        described["parts"] = [{"edit": part.edit, "layer": part.layer} for part in self.parts]
        metadata = {"change": json.dumps(described, ensure_ascii=False, sort_keys=True)}
        atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata))

    def _check_shapes(self, model: Model) -> None:
        for part in self.parts:
            found = (part.layer, len(part.outputs), len(part.keys))
            if not 0 <= part.layer < model.n_layers or found[1:] != (len(model.column(part.layer, 0)), model.n_neurons):
                raise InputError(f"change of edit {part.edit}",
                                 found=Literal("layer {}, width {}, {} neurons".format(*found)),
                                 expected=f"one for {model.name}: {model.n_layers} layers, width "
                                 f"{len(model.column(0, 0))}, {model.n_neurons} neurons")  # fmt: skip


def load_change(path: str | Path, model: Model) -> WeightChange:
    """A saved change, for the model that it was found on: to the weights' last bit.

    Raises `InputError` for a file that is none, and where the model's hash is another, naming both.

    Example
    -------
    >>> with load_change("rome.safetensors", model).applied(model):
    ...     found = predict(model, queries, facts)
    """

    def read(file, described: dict) -> WeightChange:
        parts = tuple(
            Part(**part, **{name: file.get_tensor(f"{number}.{name}") for name in ("outputs", "keys")})
            for number, part in enumerate(described.pop("parts"))
        )
        return WeightChange(**described, parts=parts)

    return read_change(path, model, "change", read, expected="a file of WeightChange.save")


def read_change(path: str | Path, model: Model, key: str, read: Callable, *, expected: str):
    """A saved change of any kind, for the model that it was found on: `read(file, described)` builds it.

    `described`: the JSON that the file's metadata hold under `key`. Raises `InputError` for a file that is none, and where
    the model's hash is another, naming both.

    Example
    -------
    >>> read_change("rome.safetensors", model, "change", read, expected="a file of WeightChange.save")
    """
    try:
        with safe_open(path, framework="pt") as file:
            change = read(file, json.loads((file.metadata() or {})[key]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(path, found=Literal(f"{type(error).__name__}: {error}"), expected=expected) from None
    if change.model_hash != model.hash:
        raise InputError(path, found=Literal(f"an edit of {change.model} with hash {change.model_hash}"),
                         expected=f"one of {model.name} with hash {model.hash}")  # fmt: skip
    return change


@torch.no_grad()
def add_parts(model: Model, parts: Iterable[Part]) -> None:
    """Add parts to the model's weights, for good: within `kept_weights`. Each layer's sum is rounded once."""
    parts = list(parts)
    model.__dict__.pop("hash", None)
    for layer in sorted({part.layer for part in parts}):
        projection, own = model.down_projections[layer], [part for part in parts if part.layer == layer]
        weight = by_input(projection, projection.weight.detach())
        outputs, keys = (torch.cat([getattr(part, name) for part in own], dim=1).to(weight.device, torch.float64)
                         for name in ("outputs", "keys"))  # fmt: skip
        weight.copy_(weight.double() + keys @ outputs.T)


@contextmanager
def kept_weights(model: Model, layers: Iterable[int]):
    """The down-projections of the layers have their bits back after the block: copied back, since undoing a sum rounds.

    Example
    -------
    >>> with kept_weights(model, [3]):
    ...     add_parts(model, parts)
    """
    weights = [model.down_projections[layer].weight.detach() for layer in sorted(set(layers))]
    kept = [weight.clone() for weight in weights]
    # The hash is remembered: it would be that of other weights, inside the block or after it.
    model.__dict__.pop("hash", None)
    try:
        yield
    finally:
        for weight, values in zip(weights, kept, strict=True):
            weight.copy_(values)
        model.__dict__.pop("hash", None)


def option_record(**options) -> dict:
    """An editor's options as JSON has them; what `texts`, tables and the like are is up to the editor."""
    return json.loads(json.dumps(options, default=asdict))
