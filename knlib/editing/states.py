"""What a model computes where a prompt's subject ends: an edit's keys, and the outputs that it is to change."""

from contextlib import contextmanager

import pandas as pd
import torch
from torch import nn

from ..errors import InputError, Literal
from ..models import Model
from ..prediction import AnswerRows
from ..sites import neuron_vectors, padded, uncached

WHERE = ("mlp", "block")
ROWS_PER_BATCH = 64


def output_module(model: Model, layer: int, where: str) -> nn.Module:
    """The module whose output is meant: `mlp`, the layer's down-projection; `block`, the layer itself."""
    if where not in WHERE:
        raise InputError("where", found=where, expected=Literal(" or ".join(WHERE)))
    if not 0 <= layer < model.n_layers:
        raise InputError("layer", found=layer, expected=f"a number from 0 to {model.n_layers - 1}")
    return (model.down_projections if where == "mlp" else model.layers)[layer]


def subject_keys(model: Model, rows: pd.DataFrame, layer: int) -> torch.Tensor:
    """The neurons of a layer at the `position` of every row of `prompt_rows`, [rows, neurons], float64.

    Example
    -------
    >>> subject_keys(model, prompt_rows(model, requests), 3).shape
    torch.Size([12, 768])
    """
    parts = [neuron_vectors(model, ids, positions)[:, layer] for ids, positions in _prompts(model, rows)]
    return torch.cat(parts).double()


@torch.no_grad()
def subject_outputs(model: Model, rows: pd.DataFrame, layer: int, where: str) -> torch.Tensor:
    """The output of `output_module` at the `position` of every row of `prompt_rows`, [rows, width], float64.

    Example
    -------
    >>> subject_outputs(model, prompt_rows(model, requests), 3, "block").shape
    torch.Size([12, 192])
    """
    parts = []
    for sequences, positions in _prompts(model, rows):
        ids, mask = padded(sequences, model.tokenizer.pad_token_id, "right", model.device)
        with changed_output(model, layer, where, ids.shape, list(range(len(ids))), positions) as seen:
            model.base(input_ids=ids, attention_mask=mask, **uncached(model))
        parts.append(seen[0])
    return torch.cat(parts).double()


@contextmanager
def changed_output(model: Model, layer: int, where: str, shape, rows: list[int], columns: list[int], added=None):
    """`added` [positions, width] is added to the output at (row, column) within the `with` block.

    Gives a list that the outputs there, before the sum, are put in, [positions, width]: once per call of the network.
    Of `output_module`; without `added` nothing changes. `shape`: rows and columns of the calls.
    """
    module, seen = output_module(model, layer, where), []

    def hook(module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        at = (torch.tensor(rows, device=hidden.device), torch.tensor(columns, device=hidden.device))
        grid = hidden.reshape(*shape, -1)
        seen.append(grid[at])
        if added is None:
            return None
        changed = grid.index_put(at, added.to(grid), accumulate=True).reshape(hidden.shape)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    with model.hooks((module, hook)):
        yield seen


def group_numbers(rows: pd.DataFrame, by: list[str]) -> torch.Tensor:
    """The number of each row's group, [rows], in order of appearance: rows with the same values in the columns `by`.

    Example
    -------
    >>> group_numbers(pd.DataFrame({"edit": ["b", "a", "b"]}), ["edit"])
    tensor([0, 1, 0])
    """
    return torch.tensor(rows.groupby(by, sort=False).ngroup().tolist())


def group_means(values: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Means over the rows of each group, [groups, n]; `groups` [rows]: numbers from 0 on.

    Example
    -------
    >>> group_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
    tensor([[2.],
            [5.]])
    """
    groups = groups.to(values.device)
    sums = values.new_zeros(int(groups.max()) + 1, values.shape[1]).index_add(0, groups, values)
    return sums / groups.bincount()[:, None]


def _prompts(model: Model, rows: pd.DataFrame):
    """Batches of token rows up to the subject's last token (what is behind cannot change it), and its columns."""
    helper, items = AnswerRows(model), list(rows.itertuples())
    for start in range(0, len(items), ROWS_PER_BATCH):
        part = items[start : start + ROWS_PER_BATCH]
        ids = [tuple(helper.row(row.prompt, (), 0, row.space, row.suffix)[: row.position + 1]) for row in part]
        yield ids, [row.position for row in part]
