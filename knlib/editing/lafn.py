"""LAFN: one change of the neurons that a fact's prompts share in all languages, cached (after Zhang et al., arXiv 2406.16416).

A reconstruction: the paper's code and settings are not public. What the change does without the cache: `bake`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ..controls import Pairs, generator, layer_matched
from ..errors import InputError, Literal
from ..models import Model
from .cache import SHARED, Entry, end_states
from .cached_change import CachedChange
from .changes import WeightChange, option_record
from .gate_calibration import LEAST_COSINE, RelationGate
from .lafn_locate import LocateOptions, language_sets, neuron_states, shared_neurons
from .lafn_values import ShiftOptions, optimise_shifts
from .memit import shares
from .moments import second_moments, text_hash
from .registry import register
from .requests import REQUEST, prompt_rows
from .rome import stored_part
from .states import output_module, subject_keys

LOCATE, VALUE = LocateOptions(), ShiftOptions()
NEURONS = ("located", "random", "per_language", "union", "all")


@register("lafn")
def lafn(
    model: Model,
    requests: pd.DataFrame,
    *,
    layers: Sequence[int],
    texts: Sequence[str],
    contexts: pd.DataFrame | None = None,
    gate: RelationGate | None = None,
    names: dict[str, dict[str, tuple[str, ...]]] | None = None,
    neurons: str = "located",
    semantic: bool = True,
    locate: LocateOptions = LOCATE,
    value: ShiftOptions = VALUE,
    seed: int = 0,
) -> CachedChange:
    """Locate the neurons, optimise what is added to them, and keep it in a cache with a gate.

    `texts`: neutral text, for the neurons' scale; `contexts`: paraphrases of the requests, as in `prompt_rows`; `gate`: what
    tells a prompt of the edit from another question about its subject (None: the cosine of the middle layer's state to those
    of the requests); `semantic`: whether there is such a test at all; `names`: fact -> language -> the subject's names (None:
    as the requests spell it). `neurons`: `located`, or a control: `random` (as many of each layer), `per_language` (each
    language its own neurons and change), `union` (of the languages' sets), `all` of the layers.

    Raises `InputError` as `prompt_rows`, for layers that the model lacks and other kinds of neurons, and for a gate without
    examples of a request's relation or language.

    Example
    -------
    >>> with lafn(model, requests, layers=[2, 3, 4], texts=texts, contexts=paraphrases).applied(model):
    ...     found = predict(model, queries, facts)
    """
    if neurons not in NEURONS:
        raise InputError("neurons", found=neurons, expected=Literal("one of " + " ".join(NEURONS)))
    for layer in layers:
        output_module(model, layer, "mlp")
    rows = prompt_rows(model, requests, contexts).reset_index(drop=True)
    scale = {i: moment.diagonal().sqrt() for i, moment in second_moments(model, layers, texts).items()}
    on, written = neuron_states(model, rows)
    gate_layer = model.n_layers // 2 if gate is None else gate.layer
    ends = end_states(model, rows["prompt"], gate_layer)
    chosen = {}
    for edit, own in rows.groupby("edit", sort=False):
        sets, score = language_sets(on[own.index], written[own.index], own["language"], locate)
        for code, pairs in _neurons(
            model, sets, score, own, list(layers), neurons, locate, generator(seed, edit, "lafn")
        ).items():
            chosen[edit, code] = pairs
    part = [(edit, code if (edit, code) in chosen else SHARED) for edit, code in rows[REQUEST].to_numpy()]
    found = optimise_shifts(model, rows.assign(part=part), chosen, scale, value)
    log = [{"edit": edit, "language": code, "neurons": len(chosen[edit, code]), "loss": shift.loss, "steps": shift.steps}
           for (edit, code), shift in found.items()]  # fmt: skip
    entries = []
    for number, (edit, own) in enumerate(rows.groupby("edit", sort=False)):
        values = {code: shift.values for (owner, code), shift in found.items() if owner == edit}
        entries.append(_entry(number, edit, own, values, ends[own.index], names or {}))
    if gate is not None:
        gate.check(entries)
    options = option_record(layers=list(layers), texts=text_hash(texts), neurons=neurons, locate=locate, value=value, seed=seed,
                            gate=None if gate is None else gate.options, contexts=0 if contexts is None else len(contexts))  # fmt: skip
    report = {"values": log, "last_prompt": int(rows["place"].eq("last_prompt").sum()), "gate": gate and gate.report}
    thresholds = dict.fromkeys(rows["language"], LEAST_COSINE) if gate is None else gate.thresholds
    return CachedChange("lafn", options, model.name, model.hash, tuple(entries), gate_layer, thresholds,
                        gate and gate.probe, semantic, report)  # fmt: skip


def _neurons(
    model: Model, sets: np.ndarray, score: np.ndarray, rows: pd.DataFrame, layers: list[int], kind: str,
    locate: LocateOptions, draw: np.random.Generator,
) -> dict[str, Pairs]:  # fmt: skip
    """Language (or `*`) -> neurons of one edit in the layers."""
    codes = list(dict.fromkeys(rows["language"]))
    if kind == "per_language":
        own = {code: shared_neurons(sets[i : i + 1], score[i : i + 1], locate) for i, code in enumerate(codes)}
        return {code: _pairs(table, layers) for code, table in own.items()}
    if kind == "union":
        found = [(layer, int(neuron)) for layer in layers for neuron in np.flatnonzero(sets[:, layer].any(0))]
    elif kind == "all":
        found = [(layer, neuron) for layer in layers for neuron in range(model.n_neurons)]
    else:
        found = _pairs(shared_neurons(sets, score, locate), layers)
        if kind == "random":
            found = layer_matched(found, model.n_neurons, draw)
    return {SHARED: tuple(found)}


def _pairs(table: pd.DataFrame, layers: list[int]) -> Pairs:
    table = table[table["layer"].isin(layers)]
    return tuple((int(layer), int(neuron)) for layer, neuron in zip(table["layer"], table["neuron"], strict=True))


def _entry(number: int, edit: str, rows: pd.DataFrame, values: dict, ends: torch.Tensor, names: dict) -> Entry:
    fact, relation = rows[["fact", "relation"]].iloc[0]
    unit = torch.nn.functional.normalize(ends.float(), dim=-1)
    spelled = {code: tuple(dict.fromkeys(own["subject"])) for code, own in rows.groupby("language", sort=False)}
    keys = {code: unit[(rows["language"] == code).to_numpy(copy=True)] for code in spelled}
    return Entry(edit, fact, relation, number, names.get(fact, spelled), keys, values)


def bake(
    model: Model, change: CachedChange, requests: pd.DataFrame, *, texts: Sequence[str] | None, lam: float = 15000.0
) -> WeightChange:
    """A cached change written into the weights: every key of a request gets what its neurons would have added to the output.

    In each layer D = R K^T (lam C + K K^T)^-1 (`knlib.editing.memit.shares`), K the requests' keys, R[:, r] = W[:, N] shift of
    their edit: without a gate, and so at other prompts too.

    Example
    -------
    >>> with bake(model, change, requests, texts=texts, lam=100.0).applied(model):
    ...     found = predict(model, queries, facts)
    """
    rows = prompt_rows(model, requests)
    entries = {entry.edit: entry for entry in change.entries}
    layers = sorted({layer for entry in change.entries for found in entry.values.values() for layer in found})
    moments = {} if texts is None else second_moments(model, layers, texts)
    parts = []
    for layer in layers:
        keys = subject_keys(model, rows, layer).T.cpu()
        written = []
        for row in rows.itertuples():
            neurons, shift = entries[row.edit].values_in(row.language).get(layer, ([], None))
            columns = [model.column(layer, neuron).double().cpu() for neuron in neurons]
            written.append(
                torch.stack(columns, 1) @ shift.double().cpu()
                if columns
                else keys.new_zeros(len(model.column(layer, 0)))
            )
        found, residuals = shares(keys, lam, moments.get(layer)), torch.stack(written, 1)
        for edit in entries:
            own = torch.tensor((rows["edit"] == edit).to_numpy())
            parts.append(stored_part(edit, layer, residuals[:, own], found[:, own], model.column(layer, 0).dtype))
    options = option_record(**change.options, lam=lam, moments=None if texts is None else text_hash(texts))
    return WeightChange("lafn_baked", options, model.name, model.hash, tuple(parts), change.report)
