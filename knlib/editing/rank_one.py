"""A closed-form edit of whole layers that writes, at the edited prompt, what an edit of a few neurons writes there."""

from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch

from ..errors import InputError
from ..models import Model
from ..prediction import AnswerRows, answer_tokens
from ..sites import make_sites, neuron_vectors
from .neurons import add_to_columns, differing_tokens, value_changes

# Of the mean of the second moment's diagonal: keys are fewer than neurons, and their moment has no inverse without it.
RIDGE = 0.01


@contextmanager
def rank_one_edit(
    model: Model, edits: pd.DataFrame, neurons: pd.DataFrame, keys: np.ndarray, *, l1: float = 1.0, l2: float = 8.0
):
    """Within the `with` block each of the neurons' layers has W + d (C^-1 k)^T / (k^T C^-1 k) as its down-projection.

    k: the layer's neurons where the edited prompt predicts the first token in which the answers differ; d: what
    `value_edit` of the given neurons would add to the layer's output there; C: the second moment of `keys`, [prompts, layers,
    neurons], with a ridge (the least change of other keys that writes d: Meng et al. 2022, arXiv 2202.05262, eq. 2, with d given
    instead of optimised). The same write at the same place through all neurons, so that what differs from `value_edit` is the
    choice of neurons alone.

    `edits`: one row of one fact, as for `value_edit`; `neurons`: its neurons. Undone as `value_edit`. Raises `InputError` for several
    edits, keys of another shape, and as `value_edit`.

    Example
    -------
    >>> with rank_one_edit(model, edits.head(1), lakn, prompt_keys(model, located)):
    ...     found = predict(model, queries, facts)
    """
    if len(edits) != 1:
        raise InputError("edits", found=f"{len(edits)} rows", expected="one: a layer takes one edit at a time")
    if np.ndim(keys) != 3 or keys.shape[1:] != (model.n_layers, model.n_neurons):
        raise InputError("keys", found=np.shape(keys), expected=f"[prompts, {model.n_layers}, {model.n_neurons}]")
    written: dict[int, torch.Tensor] = {}
    here = _neurons_at_the_answer(model, next(edits.itertuples()))
    for (layer, neuron), change in value_changes(model, edits, neurons, l1=l1, l2=l2).items():
        written[layer] = written.get(layer, 0) + here[layer, neuron] * change
    changes = {}
    for layer, change in written.items():
        share = _direction(torch.as_tensor(keys[:, layer]).to(here), here[layer])
        changes |= {(layer, neuron): weight * change for neuron, weight in enumerate(share)}
    with add_to_columns(model, changes):
        yield model


def prompt_keys(model: Model, queries: pd.DataFrame) -> np.ndarray:
    """The neurons where each query's answer is predicted, [tokens of the answers, layers, neurons].

    Example
    -------
    >>> prompt_keys(model, located).shape
    (1208, 8, 768)
    """
    sites = make_sites(model, queries)
    parts = [sites[start : start + 64] for start in range(0, len(sites), 64)]
    found = [neuron_vectors(model, [s.ids for s in part], [s.position for s in part]) for part in parts]
    return torch.cat(found).cpu().numpy()


def _neurons_at_the_answer(model: Model, row) -> torch.Tensor:
    """[layers, neurons] where the first differing token is predicted, behind the tokens that both answers begin with."""
    tokens = answer_tokens(model, row.prompt, row.space, row.answer)
    shown = tokens.index(differing_tokens(model, row)[0])
    helper = AnswerRows(model)
    masks = len(tokens) - shown if model.kind == "masked" else 0
    ids = helper.row(row.prompt, tokens[:shown], masks, row.space, row.suffix)
    return neuron_vectors(model, [tuple(ids)], [helper.positions(row.prompt, shown + 1)[shown]])[0]


def _direction(keys: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """C^-1 k / (k^T C^-1 k), [neurons]."""
    keys, precise = keys.double(), key.double()
    moment = keys.T @ keys / len(keys)
    moment += RIDGE * moment.diagonal().mean() * torch.eye(len(precise), dtype=torch.float64, device=precise.device)
    found = torch.linalg.solve(moment, precise)
    return (found / (found @ precise)).to(key)
