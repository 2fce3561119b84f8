"""Scores that compare classes of prompts: a neuron's is the same for all prompts of a class.

They need the prompts of several classes at once, and say nothing of a single question.
"""

import numpy as np
import pandas as pd
import torch

from ..errors import InputError, Literal
from ..models import Model
from ..sites import Site, make_sites, neuron_vectors, padded, uncached
from .baselines import FEW, register
from .last_position import activations
from .letters import with_letter_sets

# Tokens of one plain forward pass.
TOKENS = 4096
# Of Tang et al. (2024): what counts as active, and how many neurons are language-specific.
ACTIVE, SPECIFIC = 0.95, 0.01
# The first layers read words, whatever the class.
FIRST_LAYER = 2


@register("cna", most=FEW, whole=True, selects=True)
def cna(model: Model, prompts: pd.DataFrame) -> np.ndarray:
    """|mean h(class) - mean h(rest)| at the last position, from layer 2 on (0 before): contrastive neuron attribution.

    The class is the relation (github.com/NousResearch/neural-steering; the absolute value is theirs: neurons against the class
    count too). `prompts`: with a column `relation`. Raises `InputError` for fewer than two relations, a model of two layers.
    """
    kinds, number = _classes(prompts, "relation", "cna")
    if model.n_layers <= FIRST_LAYER:
        raise InputError(f"model {model.name}", found=Literal(f"{model.n_layers} layers"), expected="three or more")
    total = np.zeros((len(kinds), model.n_layers, model.n_neurons))
    for numbers, sites in _batches(model, prompts):
        found = neuron_vectors(model, [s.ids for s in sites], [s.position for s in sites]).cpu().numpy()
        np.add.at(total, number[numbers], found.astype(float))
    counts = np.bincount(number)[:, None, None]
    change = np.abs(total / counts - (total.sum(0) - total) / (counts.sum() - counts))
    change[:, :FIRST_LAYER] = 0
    return change[number]


@register("lape", most=FEW, whole=True, selects=True)
def lape(model: Model, prompts: pd.DataFrame) -> np.ndarray:
    """ln(languages) - entropy for neurons specific to a prompt's language, else 0 (language activation probability entropy).

    p(n, k): share of language k's tokens at which the output of the FFN's non-linearity is above 0. Of the neurons with a p
    above the 95th percentile of all, those with the 1 % lowest entropies of p / sum_k p; each goes to every language in which its p is
    above that percentile (Tang et al. 2024, arXiv 2402.16438; github.com/RUCAIBox/Language-Specific-Neurons).

    `prompts`: with a column `language`. Raises `InputError` for fewer than two languages, a non-linearity that is no module.
    """
    languages, number = _classes(prompts, "language", "lape")
    active = np.zeros((len(languages), model.n_layers, model.n_neurons))
    tokens = np.zeros(len(languages))
    for numbers, sites in _batches(model, prompts):
        found = _active_tokens(model, sites)
        np.add.at(active, number[numbers], found)
        np.add.at(tokens, number[numbers], [len(site.content) for site in sites])
    p = (active / tokens[:, None, None]).reshape(len(languages), -1)
    bar = np.quantile(p, ACTIVE)
    share = p / np.maximum(p.sum(0), 1e-12)
    entropy = -(share * np.log(np.maximum(share, 1e-12))).sum(0)
    entropy[(p <= bar).all(0)] = np.inf
    lowest = np.argsort(entropy, kind="stable")[: max(1, round(SPECIFIC * len(entropy)))]
    scores = np.zeros_like(p)
    scores[:, lowest] = np.where(p[:, lowest] > bar, np.log(len(languages)) - entropy[lowest], 0)
    return np.maximum(scores, 0).reshape(active.shape)[number]


def _classes(prompts: pd.DataFrame, column: str, name: str) -> tuple[list[str], np.ndarray]:
    """The classes, and the number of each prompt's."""
    if column not in prompts:
        raise InputError("prompts", found=list(prompts), expected=f"a column {column}: {name} compares its classes")
    number, kinds = pd.factorize(prompts[column], sort=True)
    if len(kinds) < 2:
        raise InputError(f"prompts, {column}", found=Literal(f"{len(kinds)} class"),
                         expected=f"two or more: {name} compares them")  # fmt: skip
    return list(kinds), number


def _batches(model: Model, prompts: pd.DataFrame):
    """Row numbers and sites of prompts of like length."""
    blank = {name: "" for name in ("space", "suffix") if name not in prompts}
    sites = make_sites(model, with_letter_sets(model, prompts).assign(**blank), sites="first")
    order = sorted(range(len(sites)), key=lambda i: len(sites[i].ids))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * len(sites[order[end]].ids) <= TOKENS:
            end += 1
        yield np.array(order[start:end]), [sites[i] for i in order[start:end]]
        start = end


@torch.no_grad()
def _active_tokens(model: Model, sites: list[Site]) -> np.ndarray:
    """At how many of each prompt's own tokens every neuron's non-linearity gives more than 0, [sites, layers, neurons]."""
    ids, mask = padded([s.ids for s in sites], model.tokenizer.pad_token_id, "right", model.device)
    own = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
    for k, site in enumerate(sites):
        own[k, list(site.content)] = True
    found: dict[int, np.ndarray] = {}

    def keep(layer):
        def hook(module, inputs, output):
            if isinstance(output, torch.Tensor) and output.numel() == ids.numel() * model.n_neurons:
                above = (output.reshape(*ids.shape, -1) > 0) & own[..., None].to(output.device)
                found[layer] = above.sum(1).cpu().numpy()

        return hook

    handles = [m.register_forward_hook(keep(i)) for i, layer in enumerate(model.layers) for m in activations(layer)]
    try:
        model.base(input_ids=ids, attention_mask=mask, **uncached(model))
    finally:
        for handle in handles:
            handle.remove()
    if len(found) < model.n_layers:
        raise InputError(f"model {model.name}", found=Literal("a layer whose non-linearity is no module of its own"),
                         expected="a module, as SiLU or GELU, between the FFN's projections")  # fmt: skip
    return np.stack([found[i] for i in range(model.n_layers)], axis=1)
