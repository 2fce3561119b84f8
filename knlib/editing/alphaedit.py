"""AlphaEdit: MEMIT's spread, only in directions that keys of other text hardly use (Fang et al., arXiv 2410.02355)."""

from collections.abc import Callable, Sequence

import pandas as pd
import torch

from ..errors import InputError
from ..models import Model
from .changes import Part, WeightChange, kept_weights, option_record
from .memit import batches, check_layers, spread
from .moments import eigen_moments, second_moments, text_hash
from .registry import register
from .requests import REQUEST, prompt_rows
from .states import group_means, group_numbers, subject_keys
from .values import ValueOptions

VALUE = ValueOptions(clamp=0.75)


@register("alphaedit")
def alphaedit(
    model: Model,
    requests: pd.DataFrame,
    *,
    layers: Sequence[int],
    texts: Sequence[str],
    rank_share: float = 0.7,
    trace_share: float | None = None,
    ridge: float = 10.0,
    batch: int | None = None,
    contexts: pd.DataFrame | None = None,
    essence: dict[str, str] | None = None,
    value: ValueOptions = VALUE,
) -> WeightChange:
    """D = R K^T P (K_p K_p^T P + K K^T P + ridge I)^-1 is added to each layer's down-projection (arXiv 2410.02355).

    P: the projection on the directions of least second moment over `texts` (`null_space`); K_p: keys of the batches
    before, as they are after their edit, a cache that begins empty with every call; R: as in `spread`. `batch`: edits
    per batch (None: one batch). Each layer's rank and trace share of P are in the change's report.

    Raises as `memit`, and for shares outside 0 to 1.

    Example
    -------
    >>> change = alphaedit(model, requests, layers=[2, 3], texts=texts, batch=1)
    >>> [entry["rank"] for entry in change.report["null_space"]]
    [538, 538]
    """
    rows, layers = prompt_rows(model, requests, contexts), check_layers(model, layers)
    options = option_record(layers=layers, texts=text_hash(texts), rank_share=rank_share, trace_share=trace_share,
                            ridge=ridge, batch=batch, contexts=0 if contexts is None else len(contexts),
                            essence=essence, value=value)  # fmt: skip
    model_hash = model.hash
    moments = second_moments(model, layers, texts, ridge=0.0)
    bases = {
        layer: low_directions(*parts, rank_share, trace_share)
        for layer, parts in eigen_moments(model, layers, texts).items()
    }
    parts, log = write(
        model, batches(rows, batch), layers, lambda number, cache: bases, ridge, essence=essence, value=value
    )
    report = {"values": log, "last_prompt": int(rows["place"].eq("last_prompt").sum()),
              "null_space": [described(layer, bases[layer], moments[layer]) for layer in layers]}  # fmt: skip
    return WeightChange("alphaedit", options, model.name, model_hash, tuple(parts), report)


def write(
    model: Model,
    groups: Sequence[pd.DataFrame],
    layers: list[int],
    bases_of: Callable[[int, dict[int, torch.Tensor]], dict[int, torch.Tensor]],
    ridge: float,
    *,
    essence: dict[str, str] | None,
    value: ValueOptions,
) -> tuple[list[Part], list[dict]]:
    """Find the parts of one group of rows after another; each later one knows the keys of those before.

    `bases_of(number, cache)`: U0 of every layer for a group, from its number and the cache of the groups before, layer
    -> [neurons, neurons]. Returns as `spread`; the model is left as it was.

    Example
    -------
    >>> parts, log = write(model, [rows], [2], lambda number, cache: bases, 10.0, essence=None, value=VALUE)
    """
    cache = {layer: torch.zeros(model.n_neurons, model.n_neurons, dtype=torch.float64) for layer in layers}
    parts, log = [], []
    with kept_weights(model, layers):
        for number, own in enumerate(groups):
            bases = bases_of(number, cache)
            found, entries = spread(
                model, own, layers, lambda layer, keys, bases=bases: shares(keys, bases[layer], cache[layer], ridge),
                essence, value,
            )  # fmt: skip
            parts += found
            log += entries
            requests = group_numbers(own, REQUEST)
            for layer in layers:
                keys = group_means(subject_keys(model, own, layer), requests).T.cpu()
                cache[layer] += keys @ keys.T
    return parts, log


def null_space(moment: torch.Tensor, rank_share: float, trace_share: float | None = None) -> torch.Tensor:
    """U0 [neurons, rank]: orthonormal directions of the least second moment C [neurons, neurons]; P = U0 U0^T.

    As many as `rank_share` of the neurons, or with `trace_share` the most with tr(P C) / tr(C) not above it. Unlike the
    published code's threshold on eigenvalues (2e-2), neither depends on the scale of the neurons.

    Example
    -------
    >>> null_space(torch.diag(torch.tensor([4.0, 1.0, 0.0, 2.0])), 0.5).shape
    torch.Size([4, 2])
    """
    return low_directions(*torch.linalg.eigh(moment), rank_share, trace_share)


def low_directions(
    values: torch.Tensor, directions: torch.Tensor, rank_share: float, trace_share: float | None
) -> torch.Tensor:
    """`null_space` of a moment with these eigenvalues, ascending, and eigenvectors.

    Example
    -------
    >>> low_directions(*torch.linalg.eigh(moment), 0.7, None).shape
    """
    for name, share in (("rank_share", rank_share), ("trace_share", trace_share)):
        if share is not None and not 0 <= share <= 1:
            raise InputError(name, found=share, expected="a share from 0 to 1")
    rank = round(rank_share * len(values))
    if trace_share is not None:
        # Rounding leaves tiny negative eigenvalues.
        values = values.clamp(min=0)
        rank = int((values.cumsum(0) <= trace_share * values.sum()).sum())
    return directions[:, :rank]


def shares(keys: torch.Tensor, basis: torch.Tensor, cache: torch.Tensor, ridge: float) -> torch.Tensor:
    """(P (K K^T + cache) P + ridge I)^-1 P K, [neurons, requests]: by how much of each neuron a residual is written.

    `keys` K [neurons, requests]; `basis` U0, with P = U0 U0^T; `cache` [neurons, neurons]. Solved in the coordinates of
    U0, so that nothing is written outside P whatever the rounding: the same as `alphaedit`'s
    formula, whose solution lies in P.

    Example
    -------
    >>> update = residuals @ shares(keys, basis, cache, 10.0).T
    """
    inner = basis.T @ (keys @ keys.T + cache) @ basis
    return basis @ torch.linalg.solve(inner + ridge * torch.eye(len(inner), dtype=inner.dtype), basis.T @ keys)


def described(layer: int, basis: torch.Tensor, moment: torch.Tensor) -> dict:
    """What a report says of a null space: its rank, and its share of the trace of the second moment."""
    share = float((basis * (moment @ basis)).sum() / moment.trace())
    return {"layer": layer, "rank": basis.shape[1], "trace_share": share}
