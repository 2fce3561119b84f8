"""MEMIT: many edits at once, each spread over several layers (Meng et al. 2023, arXiv 2210.07229)."""

from collections.abc import Callable, Sequence

import pandas as pd
import torch

from ..errors import InputError, Literal
from ..models import Model
from .changes import Part, WeightChange, add_parts, kept_weights, option_record
from .moments import second_moments, text_hash
from .registry import register
from .requests import REQUEST, prompt_rows
from .rome import stored_part
from .states import group_means, group_numbers, output_module, subject_keys, subject_outputs
from .values import ValueOptions, optimise_values

VALUE = ValueOptions(clamp=0.75)


@register("memit")
def memit(
    model: Model,
    requests: pd.DataFrame,
    *,
    layers: Sequence[int],
    texts: Sequence[str] | None,
    lam: float = 15000.0,
    batch: int | None = None,
    contexts: pd.DataFrame | None = None,
    essence: dict[str, str] | None = None,
    value: ValueOptions = VALUE,
) -> WeightChange:
    """D = R K^T (lam C + K K^T)^-1 is added to each layer's down-projection, for all requests of a batch: M-MEMIT.

    As `spread` (arXiv 2210.07229): every (edit, language) is a column of K and R. C:
    `second_moments` of the unedited model over `texts` (None: C = I); `lam`: how many times the tokens behind C count
    as much as an edit's (upstream 15000 for Llama and GPT-J, 20000 for GPT-2 XL). `batch`:
    edits per batch, batches one after another (None: one).

    Raises as `rome`, and for no layer, layers that do not rise, `batch` below 1.

    Example
    -------
    >>> with memit(model, requests, layers=[2, 3], texts=texts, lam=100.0).applied(model):
    ...     found = predict(model, queries, facts)
    """
    rows, layers = prompt_rows(model, requests, contexts), check_layers(model, layers)
    options = option_record(layers=layers, texts=texts if texts is None else text_hash(texts), lam=lam, batch=batch,
                            contexts=0 if contexts is None else len(contexts), essence=essence,
                            value=value)  # fmt: skip
    model_hash = model.hash
    moments = {} if texts is None else second_moments(model, layers, texts)
    parts, log = [], []
    with kept_weights(model, layers):
        for own in batches(rows, batch):
            found, entries = spread(
                model, own, layers, lambda layer, keys: shares(keys, lam, moments.get(layer)), essence, value
            )
            parts += found
            log += entries
    report = {"values": log, "last_prompt": int(rows["place"].eq("last_prompt").sum())}
    return WeightChange("memit", options, model.name, model_hash, tuple(parts), report)


def shares(keys: torch.Tensor, lam: float, moment: torch.Tensor | None) -> torch.Tensor:
    """(lam C + K K^T)^-1 K, [neurons, requests]: by how much of each neuron a request's residual is written.

    `keys` K [neurons, requests], float64; `moment` C, None for the identity. D = R shares^T.

    Example
    -------
    >>> update = residuals @ shares(keys, 100.0, moment).T
    """
    directions = keys if moment is None else torch.linalg.solve(moment, keys)
    # As C^-1 K (lam + K^T C^-1 K)^-1, the same: a small lam would leave the sum of the two moments without digits.
    small = keys.T @ directions + lam * torch.eye(keys.shape[1], dtype=keys.dtype)
    return torch.linalg.solve(small, directions, left=False)


def spread(
    model: Model,
    rows: pd.DataFrame,
    layers: list[int],
    solve: Callable[[int, torch.Tensor], torch.Tensor],
    essence: dict[str, str] | None,
    value: ValueOptions,
) -> tuple[list[Part], list[dict]]:
    """Write every request's residual into the layers, lowest first; the model has the parts then (use `kept_weights`).

    z = h + d, with `optimise_values` at the last layer's output h; then for each layer: keys K and outputs h of the
    model as it now is, R = (z - h) / layers left, and D = R solve(layer, K)^T, with `solve`: K [neurons, requests] ->
    [neurons, requests]. A request's residual and key are means over its prompts. Returns the parts, one per edit and
    layer, and the values' log.

    Example
    -------
    >>> parts, log = spread(model, rows, [2, 3], solve, None, ValueOptions())
    """
    values = optimise_values(model, rows, layers[-1], where="block", essence=essence, options=value)
    aim, number = values.start + values.delta, group_numbers(rows, REQUEST)
    owners, parts = [entry["edit"] for entry in values.log], []
    for left, layer in zip(range(len(layers), 0, -1), layers, strict=True):
        keys = group_means(subject_keys(model, rows, layer), number).T.cpu()
        now = group_means(subject_outputs(model, rows, layers[-1], "block"), number)
        residuals, weights = ((aim - now) / left).T, solve(layer, keys)
        found = []
        for edit in dict.fromkeys(owners):
            at = [column for column, owner in enumerate(owners) if owner == edit]
            found.append(stored_part(edit, layer, residuals[:, at], weights[:, at], model.column(layer, 0).dtype))
        add_parts(model, found)
        parts += found
    return parts, values.log


def batches(rows: pd.DataFrame, size: int | None) -> list[pd.DataFrame]:
    """The rows of `size` edits at a time (None: of all), in order of appearance. `InputError` for a size below 1.

    Example
    -------
    >>> [part["edit"].nunique() for part in batches(rows, 2)]
    [2, 2, 1]
    """
    if size is not None and size < 1:
        raise InputError("batch", found=size, expected="at least 1 edit, or None")
    if size is None:
        return [rows]
    number = rows.groupby("edit", sort=False).ngroup() // size
    return [own.reset_index(drop=True) for _, own in rows.groupby(number)]


def check_layers(model: Model, layers: Sequence[int]) -> list[int]:
    """Layers as a list; `InputError` where there is none, one that the model lacks, or they do not rise."""
    layers = [int(layer) for layer in layers]
    if not layers or layers != sorted(set(layers)):
        raise InputError("layers", found=layers, expected=Literal("one or more layers, each above the one before"))
    for layer in layers:
        output_module(model, layer, "block")
    return layers
