"""Answers while other neurons are dead in every row: thousands of neurons per condition, exactly."""

from collections.abc import Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import torch

from ..models import Model
from ..prediction import TOKENS_PER_BATCH, AnswerRows, answer_rows, answer_tokens
from ..probe import best_prefix
from ..shared_prefix import Prefix, suffix_logits
from ..sites import padded

Condition = tuple[tuple[int, int], ...]  # the (layer, neuron) pairs that are zero


def answer_scores(
    model: Model, queries: pd.DataFrame, asked: Sequence[tuple[int, int]], conditions: Sequence[Condition]
) -> np.ndarray:
    """Log-probability of the answer of query row q under condition c, for all (q, c) in `asked`, [asked].

    The condition's neurons are zero where the answer is predicted: at the positions that predict its tokens, in a masked model
    at every mask. `queries` of `build_queries`; natural logarithm, sum over the answer's tokens.

    Example
    -------
    >>> before, after = answer_scores(model, queries, [(0, 0), (0, 1)], [(), ((3, 5), (3, 9))])
    """
    dead = [_by_layer(pairs) for pairs in conditions]
    rows = list(queries.itertuples())
    whole = model.kind == "masked" or best_prefix(model) is None
    return (_whole_rows if whole else _suffixes)(model, rows, asked, dead)


def _by_layer(pairs: Condition) -> dict[int, torch.Tensor]:
    found: dict[int, list[int]] = {}
    for layer, neuron in pairs:
        found.setdefault(layer, []).append(neuron)
    return {layer: torch.tensor(own) for layer, own in found.items()}


@contextmanager
def _dead(model: Model, dead: list[dict], places: torch.Tensor | None):
    """Zero the neurons `dead[r]` in row r, in the columns where `places` [rows, columns] is True (None: all)."""
    layers = sorted({layer for own in dead for layer in own})

    def hook_of(layer):
        alive = torch.ones(len(dead), model.n_neurons)
        for row, own in enumerate(dead):
            if layer in own:
                alive[row, own[layer]] = 0

        def hook(module, inputs):
            hidden = inputs[0].reshape(len(dead), -1, inputs[0].shape[-1])
            kept = alive.to(hidden)[:, None]
            hidden = hidden * (kept if places is None else torch.where(places.to(hidden.device)[..., None], kept, 1))
            return (hidden.reshape(inputs[0].shape), *inputs[1:])

        return hook

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(model.down_projections[layer].register_forward_pre_hook(hook_of(layer)).remove)
        yield


@torch.no_grad()
def _suffixes(model: Model, rows: list, asked, dead: list[dict]) -> np.ndarray:
    """Causal models: the prompt runs once, a condition is a row of as many tokens as the answer has."""
    helper, scores, pad = AnswerRows(model), np.empty(len(asked)), model.tokenizer.pad_token_id
    targets = [answer_tokens(model, row.prompt, row.space, row.answer) for row in rows]
    prompts = [helper.row(row.prompt, (), 1, row.space, row.suffix) for row in rows]
    shared = best_prefix(model) == "shared"
    order = sorted(range(len(asked)), key=lambda i: (len(prompts[asked[i][0]]), asked[i]))
    while order:
        longest = max(len(targets[asked[i][0]]) for i in order[:TOKENS_PER_BATCH])
        now, order = order[: TOKENS_PER_BATCH // longest], order[TOKENS_PER_BATCH // longest :]
        owners = list(dict.fromkeys(asked[i][0] for i in now))
        ids, mask = padded([tuple(prompts[q][:-1]) for q in owners], pad, "left", model.device)
        if not ids.shape[1]:
            # Prompts of one token: a masked one before it, so that there is a prefix.
            ids, mask = ids.new_full((len(owners), 1), pad), mask.new_zeros(len(owners), 1)
        prefix = Prefix.of(model, ids, mask, shared)
        number = {q: k for k, q in enumerate(owners)}
        suffixes = [[prompts[q][-1], *targets[q][:-1]] for q in (asked[i][0] for i in now)]
        with _dead(model, [dead[asked[i][1]] for i in now], None):
            logits = suffix_logits(model, prefix, [number[asked[i][0]] for i in now], suffixes).float()
        wanted = torch.tensor([t for i in now for t in targets[asked[i][0]]], device=logits.device)
        found = (logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(-1)).cpu().numpy()
        ends = np.cumsum([len(suffix) for suffix in suffixes])
        scores[now] = [part.sum() for part in np.split(found, ends[:-1])]
    return scores


@torch.no_grad()
def _whole_rows(model: Model, rows: list, asked, dead: list[dict]) -> np.ndarray:
    """Any model: every site of an answer with all its tokens (in a causal model all sites are one row)."""
    items = [(r.prompt, answer_tokens(model, r.prompt, r.space, r.answer), r.space, r.suffix) for r in rows]
    ids, columns, targets, owners = answer_rows(model, items)
    sites: dict[int, list[int]] = {}
    for site, query in enumerate(owners):
        sites.setdefault(query, []).append(site)
    runs = [(site, i) for i, (query, _) in enumerate(asked) for site in sites[query]]
    scores = np.zeros(len(asked))

    class Rows(AnswerRows):
        def _batch(self, numbers, run_ids, run_columns, use):
            places = torch.zeros(len(numbers), max(len(run_ids[n]) for n in numbers), dtype=torch.bool)
            for k, n in enumerate(numbers):
                masked = [c for c, t in enumerate(run_ids[n]) if t == model.tokenizer.mask_token_id]
                places[k, masked if model.kind == "masked" else run_columns[n]] = True
            with _dead(model, [dead[asked[runs[n][1]][1]] for n in numbers], places):
                super()._batch(numbers, run_ids, run_columns, use)

    def use(n, found):
        site, i = runs[n]
        scores[i] += found[np.arange(len(targets[site])), list(targets[site])].sum()

    Rows(model).log_probabilities([ids[site] for site, _ in runs], [columns[site] for site, _ in runs], use)
    return scores
