"""Where the path of integrated gradients begins: zero, a multiple of the neurons, those of masked prompts, or a mean."""

import numpy as np
import torch

from .models import Model
from .sites import Site, neuron_vectors

BASELINES = ("zero", "mask_words", "mask_words_mean", "dataset_mean")
# Sequences times tokens of one plain forward pass.
TOKENS = 4096


def masked_prompts(model: Model, site: Site) -> list[tuple[int, ...]]:
    """The site's sequence with one token of its prompt replaced, for each: by the mask token, or by the end of text in
    a causal model (which has no mask).

    Special tokens, the answer's masks and its shown tokens stay.
    """
    tokenizer = model.tokenizer
    blank = tokenizer.mask_token_id if model.kind == "masked" else tokenizer.eos_token_id
    return [(*site.ids[:i], blank, *site.ids[i + 1 :]) for i in site.content]


def shared_start(
    model: Model, sites: list[Site], baseline: str | float | np.ndarray, layers: list[int]
) -> torch.Tensor | None:
    """A start that all paths share, [layers, neurons]: the data set's mean or the given array; else None."""
    if np.ndim(baseline) == 0 and baseline != "dataset_mean":
        return None
    if not isinstance(baseline, str):
        return torch.as_tensor(np.asarray(baseline)[layers], dtype=_dtype(model), device=model.device)
    total = torch.zeros(model.n_layers, model.n_neurons, dtype=torch.float64)
    # The same sequence may hold several sites; each counts.
    for vectors in _in_chunks(model, [s.ids for s in sites], [s.position for s in sites]):
        total += vectors.cpu().double().sum(0)
    return (total / len(sites))[layers].to(device=model.device, dtype=_dtype(model))


def path_starts(model: Model, sites: list[Site], neurons, baseline, start, layers: list[int]):
    """The site of each path (a list) and where it starts, [paths, layers, neurons] (None: all at zero)."""
    each = list(range(len(sites)))
    if start is not None:
        return each, start.expand(len(sites), *start.shape)
    if not isinstance(baseline, str):
        return each, baseline * neurons
    if baseline == "zero":
        return each, None
    owner, begin = [], []
    for number, site in enumerate(sites):
        prompts = masked_prompts(model, site)
        vectors = torch.cat(list(_in_chunks(model, prompts, [site.position] * len(prompts))))[:, layers]
        if baseline == "mask_words_mean":
            vectors = vectors.mean(0, keepdim=True)
        owner += [number] * len(vectors)
        begin.append(vectors.to(neurons))
    return owner, torch.cat(begin)


def _in_chunks(model: Model, sequences: list[tuple[int, ...]], positions: list[int]):
    size = max(1, TOKENS // max(map(len, sequences)))
    for start in range(0, len(sequences), size):
        yield neuron_vectors(model, sequences[start : start + size], positions[start : start + size])


def _dtype(model: Model) -> torch.dtype:
    return next(model.network.parameters()).dtype
