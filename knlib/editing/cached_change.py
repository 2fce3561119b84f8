"""A change that is kept beside the weights: hooks add it where the gate says so; without a hit not a bit differs."""

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

from ..errors import InputError, Literal
from ..files import atomically
from ..models import Model
from .cache import Entry, Gate, hidden_states
from .changes import read_change
from .lafn_values import shifted
from .relation_probe import RelationProbe

PROBE = ("weights", "bias", "words")  # tensors of a `RelationProbe`


@dataclass(frozen=True, eq=False)
class CachedChange:
    """Cached edits of a model: `entries`, and the gate's `layer`, `probe` and `thresholds` (`knlib.editing.cache.Gate`).

    `thresholds`: language -> the least margin of the probe, or the least cosine where there is none. The other fields are
    those of `WeightChange`. Entries of one fact: the newest acts.

    Example
    -------
    >>> change = find_change("lafn", model, requests, layers=[2, 3, 4], texts=texts)
    >>> with change.applied(model):
    ...     found = predict(model, queries, facts)
    """

    editor: str
    options: dict
    model: str
    model_hash: str
    entries: tuple[Entry, ...]
    layer: int
    thresholds: dict[str, float]
    probe: RelationProbe | None = None
    semantic: bool = True
    report: dict = field(default_factory=dict)

    @property
    def edits(self) -> list[str]:
        """Ids of the edits, in the order in which they came."""
        return [entry.edit for entry in sorted(self.entries, key=lambda entry: entry.created)]

    def without(self, edit: str) -> "CachedChange":
        """The change without one edit; what it superseded acts again. `InputError` for an unknown id."""
        if edit not in self.edits:
            raise InputError("edit", found=edit, expected=Literal("one of " + " ".join(self.edits)))
        return replace(self, entries=tuple(entry for entry in self.entries if entry.edit != edit))

    def queries(self, table: pd.DataFrame) -> pd.DataFrame:
        """The queries as the edited model is to be asked: as they are."""
        return table

    @contextmanager
    def applied(self, model: Model):
        """Hits get their entry's values within the `with` block, which gives the change; other rows keep their bits.

        A row's tokens decide, so calls that bring only the tokens behind a cache are not touched: the prefix has been. What
        is asked is known within `Model.logits_at`; in other calls a row's last token is taken for it.
        """
        gate = Gate(model, self.entries, self.layer, self.thresholds, probe=self.probe, semantic=self.semantic)

        def before(module, args, kwargs):
            ids, past = kwargs.get("input_ids", args[0] if args else None), kwargs.get("past_key_values")
            if ids is None or (past is not None and past.get_seq_length() > 0):
                return
            mask = kwargs.get("attention_mask")
            mask = torch.ones_like(ids) if mask is None else mask
            together: dict[int, tuple[dict, list, list]] = {}  # the values of some hits, and where they come in
            for hit in gate.hits(ids, mask, model.asked, lambda: hidden_states(model, self.layer, ids, mask)):
                values = self.entries[hit.entry].values_in(hit.language)
                _, rows, columns = together.setdefault(id(values), (values, [], []))
                rows.append(hit.row)
                columns.append(hit.column)
            for values, rows, columns in together.values():
                acting.enter_context(shifted(model, values, ids.shape, rows, columns))

        def after(module, args, output):
            acting.close()

        with ExitStack() as stack:
            acting = stack.enter_context(ExitStack())
            handles = [model.base.register_forward_pre_hook(before, with_kwargs=True),
                       model.base.register_forward_hook(after, always_call=True)]  # fmt: skip
            for handle in handles:
                stack.callback(handle.remove)
            yield self

    def save(self, path: str | Path) -> None:
        """One safetensors file, whole or not at all: keys, values and the probe, and all else as JSON in its metadata."""
        tensors, described = {}, []
        for number, entry in enumerate(self.entries):
            values = {
                code: {str(layer): neurons for layer, (neurons, _) in found.items()}
                for code, found in entry.values.items()
            }
            described.append({"edit": entry.edit, "fact": entry.fact, "relation": entry.relation,
                              "created": entry.created, "names": entry.names, "keys": list(entry.keys), "values": values})  # fmt: skip
            tensors |= {f"{number}.key.{code}": key.cpu().contiguous().clone() for code, key in entry.keys.items()}
            tensors |= {
                f"{number}.value.{code}.{layer}": shift.cpu().contiguous().clone()
                for code, found in entry.values.items() for layer, (_, shift) in found.items()
            }  # fmt: skip
        if self.probe is not None:
            tensors |= {f"probe.{part}": getattr(self.probe, part) for part in PROBE}
        relations = None if self.probe is None else self.probe.names
        names = ("editor", "options", "model", "model_hash", "layer", "thresholds", "semantic", "report")
        metadata = {"cached": json.dumps({name: getattr(self, name) for name in names} | {"entries": described, "relations": relations},
                                         ensure_ascii=False, sort_keys=True)}  # fmt: skip
        atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata))


def load_cached(path: str | Path, model: Model) -> CachedChange:
    """A saved cached change, for the model that it was found on.

    Raises `InputError` for a file that is none, and where the model's hash is another, naming both.

    Example
    -------
    >>> with load_cached("lafn.safetensors", model).applied(model):
    ...     found = predict(model, queries, facts)
    """

    def read(file, described: dict) -> CachedChange:
        entries = tuple(_entry(file, number, own) for number, own in enumerate(described.pop("entries")))
        relations, parts = described.pop("relations"), (f"probe.{part}" for part in PROBE)
        probe = None if relations is None else RelationProbe(tuple(relations), *map(file.get_tensor, parts))
        return CachedChange(**described, entries=entries, probe=probe)

    return read_change(path, model, "cached", read, expected="a file of CachedChange.save")


def _entry(file, number: int, own: dict) -> Entry:
    values = {
        code: {
            int(layer): (neurons, file.get_tensor(f"{number}.value.{code}.{layer}")) for layer, neurons in found.items()
        }
        for code, found in own["values"].items()
    }
    keys = {code: file.get_tensor(f"{number}.key.{code}") for code in own["keys"]}
    names = {code: tuple(found) for code, found in own["names"].items()}
    return Entry(own["edit"], own["fact"], own["relation"], own["created"], names, keys, values)
