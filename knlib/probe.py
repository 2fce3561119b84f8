"""Finds, for a loaded model, the fastest form of the staircase that is exact for it."""

import random
import weakref
from dataclasses import replace

import numpy as np
import torch

from .models import Model
from .reference import ReferenceBatch
from .shared_prefix import Prefix, suffix_logits
from .sites import Site, padded, uncached
from .staircase import Plan, StaircaseBatch

# Per network in memory: options of a config (windows, biases, capping) decide as much as the class does.
_known: "weakref.WeakKeyDictionary" = weakref.WeakKeyDictionary()
_known_prefixes: "weakref.WeakKeyDictionary" = weakref.WeakKeyDictionary()


def best_plan(model: Model) -> Plan | None:
    """The first exact rung, fastest first; None where only the reference is exact. Remembered per network.

    Every rung is compared with the reference on two random sequences of different lengths, in the first, a middle
    and the last layer, at a random point of the path and at its end. Rungs: shared prefix, concatenated
    cache, no cache; broadcast injection, copies; linear head, the model's own logits.

    Example
    -------
    >>> str(best_plan(load_model("atlas-llama")))
    'staircase (prefix shared, injection broadcast, head linear)'
    """
    if model.network not in _known:
        _known[model.network] = _find(model)
    return _known[model.network]


def best_prefix(model: Model) -> str | None:
    """How suffixes of several tokens may share their prompts' prefixes: `"shared"`, `"concatenated"`, None where neither
    gives the logits of whole rows. Remembered per network.

    Example
    -------
    >>> best_prefix(load_model("atlas-gpt2")), best_prefix(load_model("atlas-bert"))
    ('shared', None)
    """
    if model.network not in _known_prefixes:
        _known_prefixes[model.network] = _find_prefix(model)
    return _known_prefixes[model.network]


@torch.no_grad()
def _find_prefix(model: Model) -> str | None:
    if model.kind == "masked" or len({p.device for p in model.network.parameters()}) > 1:
        return None
    short, long = (list(site.ids) for site in _random_sites(model))
    # Prefixes of 3 and 8 tokens; two rows continue the second, and suffixes differ in length.
    starts, owner, suffixes = [short[:3], long[:8]], [1, 0, 1], [long[8:], short[3:], short[1:3]]
    whole = [starts[o] + suffix for o, suffix in zip(owner, suffixes, strict=True)]
    ids, mask = padded(whole, model.tokenizer.pad_token_id, "right", model.device)
    logits = model.network(input_ids=ids, attention_mask=mask, **uncached(model)).logits
    expected = torch.cat(
        [logits[r, len(starts[o]) : len(row)] for r, (o, row) in enumerate(zip(owner, whole, strict=True))]
    )
    for kind in ("shared", "concatenated"):
        try:
            prefix = Prefix.of(
                model, *padded(starts, model.tokenizer.pad_token_id, "left", model.device), kind == "shared"
            )
            found = suffix_logits(model, prefix, owner, suffixes)
        except Exception as error:
            if out_of_memory(error):
                raise
            continue
        if float((found - expected).abs().max()) <= _tolerance(model) * float(expected.abs().max()):
            return kind
    return None


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ended: CUDA's own class, or what MPS, cuBLAS and the CPU's allocator write."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in text for sign in ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
    )


def _tolerance(model: Model) -> float:
    return 1e-6 if next(model.network.parameters()).dtype == torch.float64 else 1e-4


def _find(model: Model) -> Plan | None:
    if len({p.device for p in model.network.parameters()}) > 1:
        return None
    sites, layers = _random_sites(model), sorted({0, model.n_layers // 2, model.n_layers - 1})
    truth = ReferenceBatch(model, sites, layers, "logprob")
    points = _random_points(len(layers))
    expected = _neuron_gradients(truth, *points)
    prefixes = ("none",) if model.kind == "masked" else ("shared", "concatenated", "none")
    linear = has_linear_head(model)
    for prefix in prefixes:
        for broadcast in (True, False):
            plan = Plan(prefix, broadcast, linear)
            if _exact(model, plan, sites, layers, points, expected):
                return plan
            if linear and _exact(model, replace(plan, linear_head=False), sites, layers, points, expected):
                return replace(plan, linear_head=False)
    return None


def _random_sites(model: Model) -> list[Site]:
    draw = random.Random(0)
    config = model.network.config.get_text_config()
    forbidden = set(model.tokenizer.all_special_ids) | {getattr(config, "pad_token_id", None)}
    allowed = [t for t in range(min(config.vocab_size, 50_000)) if t not in forbidden]
    sites = []
    for length in (6, 9):
        ids = tuple(draw.choice(allowed) for _ in range(length))
        position = length - 1 if model.kind == "causal" else length // 2
        if model.kind == "masked":
            ids = (*ids[:position], model.tokenizer.mask_token_id, *ids[position + 1 :])
        sites.append(Site(0, ids, position, draw.choice(allowed), ()))
    return sites


def _random_points(layers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = random.Random(1)
    points = [(p, k, a) for p in (0, 1) for k in range(layers) for a in (draw.random(), 1.0)]
    return tuple(np.array(column) for column in zip(*points, strict=True))


def _neuron_gradients(batch, path, layer, alpha) -> tuple[np.ndarray, list[torch.Tensor]]:
    values, gradients = batch.measure(path, layer, alpha)
    return values, [batch.project(int(k), gradients[i]) for i, k in enumerate(layer)]


def _exact(model: Model, plan: Plan, sites, layers, points, expected) -> bool:
    try:
        values, gradients = _neuron_gradients(StaircaseBatch(model, sites, layers, "logprob", plan), *points)
    except Exception as error:
        if out_of_memory(error):
            raise
        # A rung that an architecture's code cannot run: whatever it raises, the next one is tried.
        return False
    tolerance = _tolerance(model)
    if not np.allclose(values, expected[0], rtol=tolerance, atol=tolerance):
        return False
    pairs = zip(gradients, expected[1], strict=True)
    return all(float((a - b).abs().max()) <= tolerance * float(b.abs().max()) for a, b in pairs)


@torch.no_grad()
def has_linear_head(model: Model) -> bool:
    """Whether the logits are bit for bit what the output embeddings give: no scaling or capping after them."""
    module, seen = model.network.get_output_embeddings(), []
    if type(module) is not torch.nn.Linear:
        return False
    handle = module.register_forward_hook(lambda m, inputs, output: seen.append(output.clone()))
    try:
        ids = torch.tensor([_random_sites(model)[0].ids], device=model.device)
        logits = model.network(input_ids=ids, attention_mask=torch.ones_like(ids), **uncached(model)).logits
    finally:
        handle.remove()
    return len(seen) == 1 and seen[0].shape == logits.shape and torch.equal(seen[0], logits)
