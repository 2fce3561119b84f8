"""Scores of neurons for multiple-choice prompts, in one registry: what query-relevant neurons are compared with.

A scoring function is given a model and prompts and returns scores [prompts, layers, neurons], larger for neurons that
speak more for the right letter. A new one is one decorated function, in a file or a cell of a notebook:

    @register("negative")
    def negative(model, prompts):
        return -score("activation", model, prompts).values

All look at neurons at the last position (a masked model: at its mask). h is a neuron's value, v_i the column of the
down-projection by which it writes into the stream, P the probability of the right letter, over its tokens (`letter_sets`).
"""

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ..controls import generator
from ..errors import InputError, Literal
from ..models import Model, by_input
from ..sites import Site, adjoint, answer_values, make_sites
from .last_position import Readout, Record, gated, readout, record
from .letter_scores import letter_ablation, letter_scores
from .letters import with_letter_sets

Scoring = Callable[..., np.ndarray]
SCORES: dict[str, Scoring] = {}
# Neurons times vocabulary of one matrix of logits.
LOGITS = 2**24
# Facts that a scoreboard takes at most: of scores that cost more than the reference, and with a row per neuron.
FEW, EXACT = 50, 3


@dataclass(frozen=True)
class Traits:
    """What whoever runs a score must know of it.

    `most`: scoreboards take so many facts at most, because a prompt costs more than others; None: all. `whole`:
    a prompt's scores depend on the other prompts (classes are compared), so all are given at once. `selects`: only scores above
    0 mean a neuron that was found.
    """

    most: int | None = None
    whole: bool = False
    selects: bool = False


TRAITS: dict[str, Traits] = {}


def register(
    name: str, *, most: int | None = None, whole: bool = False, selects: bool = False
) -> Callable[[Scoring], Scoring]:
    """Decorator: makes `scoring(model, prompts, **options) -> [prompts, layers, neurons]` known under a name.

    `most`, `whole`, `selects`: see `Traits`. A function of the same module may register again (a notebook's cell runs twice); `InputError` where another module has
    the name.

    Example
    -------
    >>> register("none")(lambda model, prompts: ...)  # doctest: +SKIP
    """

    def add(scoring: Scoring) -> Scoring:
        old = SCORES.get(name)
        if old is not None and old.__module__ != scoring.__module__:
            raise InputError("register", found=name, expected=f"a new name: {old.__module__} has this one")
        SCORES[name], TRAITS[name] = scoring, Traits(most, whole, selects)
        return scoring

    return add


def score(name: str, model: Model, prompts: pd.DataFrame, **options) -> xr.DataArray:
    """The scores of a function of the registry, with axes `query`, `layer`, `neuron`; a row per prompt, in order.

    `prompts`: columns `query`, `prompt`, `answer`, as `build_multiple_choice` makes them. `options`: those of the function.
    Raises `InputError` for unknown names and options, another shape, scores that are not finite, and what the function does.

    Example
    -------
    >>> score("dla", model, prompts.head(2)).shape
    (2, 8, 512)
    """
    if name not in SCORES:
        raise InputError("score", found=name, expected=Literal("one of " + " ".join(SCORES)))
    known = list(inspect.signature(SCORES[name]).parameters)[2:]
    for option in options:
        if option not in known:
            raise InputError(f"score {name}, options", found=option, expected=Literal("one of " + " ".join(known)))
    values = np.asarray(SCORES[name](model, prompts, **options))
    shape = (len(prompts), model.n_layers, model.n_neurons)
    if values.shape != shape:
        raise InputError(f"score {name}", found=Literal(f"shape {values.shape}"), expected=f"{shape}")
    if not np.isfinite(values).all():
        raise InputError(f"score {name}", found=Literal("a score that is not finite"), expected="finite scores")
    coordinates = {
        "query": prompts["query"].tolist(),
        "layer": np.arange(shape[1]),
        "neuron": np.arange(shape[2]),
    }
    return xr.DataArray(values, dims=tuple(coordinates), coords=coordinates)


@register("knowledge_neurons")
def knowledge_neurons(
    model: Model, prompts: pd.DataFrame, *, objective: str = "prob", quadrature: str = "gauss", steps: int = 8,
    legacy_letter: bool = False,
) -> np.ndarray:  # fmt: skip
    """Integrated gradients, the scores from which `qrnca` starts: see `letter_scores` (Dai et al. 2022, arXiv 2104.08696)."""
    return letter_scores(model, prompts, objective=objective, quadrature=quadrature, steps=steps,
                         legacy_letter=legacy_letter).scores.values  # fmt: skip


@register("grad_x_act")
def grad_x_act(model: Model, prompts: pd.DataFrame, *, legacy_letter: bool = False) -> np.ndarray:
    """h dP/dh, from one gradient."""
    return letter_scores(model, prompts, method="gradient_x_activation", legacy_letter=legacy_letter).scores.values


@register("neg", most=FEW)
def neg(model: Model, prompts: pd.DataFrame, *, legacy_letter: bool = False) -> np.ndarray:
    """s dP/df, s = 1 where f > 0 and -1 elsewhere (neuron empirical gradient, github.com/xzhao-tkl/NEG).

    Gated FFNs: h = f g with the gate's output g, and dP/df = g dP/dh. Without a gate (GPT-2) f = h, its value behind the
    non-linearity, so s dP/dh. Raises `InputError` for a gate whose non-linearity is no module of its own.
    """

    def one(site: Site) -> list[torch.Tensor]:
        found = record(model, site)
        log_p = answer_values(found.logits[None], [site], torch.zeros(1, dtype=torch.long), "prob")[0]
        scores = []
        for i, (h, slope) in enumerate(zip(found.here, found.gradients(log_p.exp()), strict=True)):
            if gated(model, i) and i not in found.gates:
                raise InputError(f"model {model.name}, layer {i}", found=Literal("a gate that cannot be read"),
                                 expected="its non-linearity as a module")  # fmt: skip
            gate = found.gates[i] if gated(model, i) else torch.ones_like(h)
            scores.append(slope * gate * torch.where(h * gate > 0, 1.0, -1.0))
        return scores

    return _each(model, prompts, legacy_letter, one)


@register("activation")
def activation(model: Model, prompts: pd.DataFrame, *, legacy_letter: bool = False) -> np.ndarray:
    """|h|, whatever the letter (Chen et al. 2025, arXiv 2406.10868: "high activated values"; the absolute value is ours)."""
    return np.abs(letter_scores(model, prompts, method="activation", legacy_letter=legacy_letter).scores.values)


@register("nlka", most=EXACT)
def nlka(model: Model, prompts: pd.DataFrame, *, legacy_letter: bool = False) -> np.ndarray:
    """log p(w; x + h v_i) - log p(w; x): what a neuron alone adds to the letter's log-probability (Yu & Ananiadou 2024).

    x is the stream behind the layer's attention (where attention and FFN run side by side: input and attention), read by the
    final norm with the scale it has at the model's end (github.com/zepingyu0512/neuron-attribution). One row of logits
    per neuron. Raises `InputError` as `readout`.
    """

    heads = _Readouts()

    def one(site: Site) -> list[torch.Tensor]:
        found = record(model, site)
        head, scores = heads.of(found), []
        letter = list(site.sets[0])
        with torch.no_grad():
            for i, (h, down) in enumerate(zip(found.here, model.down_projections, strict=True)):
                start = head.logits(found.streams[i] - found.ffn[i])
                columns = by_input(down, down.weight)
                change = []
                for part in torch.arange(len(h), device=h.device).split(max(1, LOGITS // len(start))):
                    logits = start + head.change(h[part, None] * columns[part])
                    change.append(logits[:, letter].logsumexp(-1) - logits.logsumexp(-1))
                scores.append(torch.cat(change) - start[letter].logsumexp(-1) + start.logsumexp(-1))
        return scores

    return _each(model, prompts, legacy_letter, one)


@register("dla", most=FEW)
def dla(model: Model, prompts: pd.DataFrame, *, legacy_letter: bool = False) -> np.ndarray:
    """h (gamma/sigma v_i) (U_right - mean U_others): direct logit attribution, what a neuron adds to the letters' margin.

    gamma, sigma: the final norm's gain and scale at the model's end; a LayerNorm centres v_i first. U: the mean unembedding
    row of a letter's tokens. Raises `InputError` as `readout`.
    """

    heads = _Readouts()

    def one(site: Site) -> list[torch.Tensor]:
        found = record(model, site)
        head = heads.of(found)
        right, *others = (head.unembedding[list(own)].mean(0) for own in site.sets)
        direction = head.norm.gain * head.scale * (right - torch.stack(others).mean(0))
        if head.norm.centres:
            # Centring is symmetric: the same whether v_i or the direction is centred.
            direction = direction - direction.mean()
        return [h * adjoint(p, direction) for h, p in zip(found.here, model.down_projections, strict=True)]

    return _each(model, prompts, legacy_letter, one)


@register("relp", most=FEW)
def relp(model: Model, prompts: pd.DataFrame, *, legacy_letter: bool = False) -> np.ndarray:
    """h d(logit)/dh with a backward pass in which much is constant (relevance propagation, github.com/TransluceAI/circuits).

    Constant are every norm's scale (a LayerNorm's mean is not) and the second factor of the non-linearity, z sigmoid(z) for
    SiLU (GELU: its distribution function; ReLU: the step); a product of gate and value passes half of its gradient to each.
    Attention keeps its gradient; an FFN without a gate (GPT-2) has no product to halve. The logit is the mean over the right
    letter's tokens. Raises `InputError` for a non-linearity that is no module of its own.
    """

    def one(site: Site) -> list[torch.Tensor]:
        found = record(model, site, linear=True)
        slopes = found.gradients(found.logits[list(site.sets[0])].mean())
        return [h * slope for h, slope in zip(found.here, slopes, strict=True)]

    return _each(model, prompts, legacy_letter, one)


@register("oracle", most=EXACT)
def oracle(model: Model, prompts: pd.DataFrame, *, legacy_letter: bool = False) -> np.ndarray:
    """P less what it is with that neuron at 0, exactly: see `letter_ablation`. One row of a pass per neuron."""
    return letter_ablation(model, prompts, legacy_letter=legacy_letter).scores.values


@register("random")
def random(model: Model, prompts: pd.DataFrame, *, seed: int = 0) -> np.ndarray:
    """Normal numbers, drawn by seed and prompt (not by its place in the table)."""
    shape = (model.n_layers, model.n_neurons)
    return np.stack([generator(seed, prompt).normal(size=shape) for prompt in prompts["prompt"]])


class _Readouts:
    """`readout` of one pass after another: whether the model's head is linear is checked in the first."""

    def __init__(self):
        self.checked = False

    def of(self, found: Record) -> Readout:
        head = readout(found, check=not self.checked)
        self.checked = True
        return head


def _each(model: Model, prompts: pd.DataFrame, legacy: bool, one: Callable[[Site], list[torch.Tensor]]) -> np.ndarray:
    """`one(site)`, scores [neurons] of every layer, for all prompts."""
    return np.stack(
        [torch.stack([s.detach().cpu() for s in one(site)]).numpy() for site in _sites(model, prompts, legacy)]
    )


def _sites(model: Model, prompts: pd.DataFrame, legacy: bool) -> Iterator[Site]:
    yield from make_sites(model, with_letter_sets(model, prompts, legacy=legacy), sites="first")
