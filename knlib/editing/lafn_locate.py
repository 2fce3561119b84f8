"""Language-agnostic factual neurons: those that a fact's prompts switch on in every language (after Zhang et al., arXiv 2406.16416).

The paper's thresholds are not public; the rule is this project's reconstruction. Activations alone count, no gradients.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import torch

from ..errors import InputError, Literal
from ..models import Model, by_input
from ..prediction import AnswerRows
from ..sites import padded, uncached

RHO = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
ROWS_PER_BATCH = 64


@dataclass(frozen=True)
class LocateOptions:
    """`tau`: least share of a language's prompts that switch a neuron on; `kappa`: share of a layer's neurons that are large;
    `fewest`: neurons of a layer below which a vote of fewer languages decides; `most`: at most this share of a layer."""

    tau: float = 0.8
    kappa: float = 0.10
    fewest: int = 8
    most: float = 0.02


@torch.no_grad()
def neuron_states(model: Model, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """At the `position` of every row of `prompt_rows`: whether a neuron is on, and how much it writes, both [rows, layers, neurons].

    On: what goes into the activation function is above 0 (in a gated FFN: the gate). Writes: |a| times the norm of the neuron's
    down-projection column, comparable across layers.

    Example
    -------
    >>> on, written = neuron_states(model, prompt_rows(model, requests, paraphrases))
    """
    helper, items, parts = AnswerRows(model), list(rows.itertuples()), []
    length = torch.stack([by_input(down, down.weight).float().norm(dim=1).cpu() for down in model.down_projections])
    for start in range(0, len(items), ROWS_PER_BATCH):
        part = items[start : start + ROWS_PER_BATCH]
        sequences = [tuple(helper.row(r.prompt, (), 0, r.space, r.suffix)[: r.position + 1]) for r in part]
        parts.append(_states(model, sequences, [r.position for r in part]))
    on, neurons = (torch.cat(found) for found in zip(*parts, strict=True))
    return on.numpy(), (neurons.abs() * length).numpy()


def _states(model: Model, sequences: list[tuple[int, ...]], positions: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = padded(sequences, model.tokenizer.pad_token_id, "right", model.device)
    at = (torch.arange(len(ids)), torch.tensor(positions))
    gates: dict[int, torch.Tensor] = {}
    neurons: dict[int, torch.Tensor] = {}

    def keep(found, layer, value):
        found[layer] = value.reshape(*ids.shape, -1)[at].float().cpu()

    # The gate is the first of two matrices, and the first half of one that holds both.
    hooks = [
        (up[0], lambda module, inputs, output, layer=layer: keep(gates, layer, output))
        for layer, up in enumerate(model.up_projections)
    ]
    hooks += [
        (down, lambda module, inputs, output, layer=layer: keep(neurons, layer, inputs[0]))
        for layer, down in enumerate(model.down_projections)
    ]
    with model.hooks(*hooks):
        model.base(input_ids=ids, attention_mask=mask, **uncached(model))
    order = range(model.n_layers)
    on = torch.stack([gates[i][:, : model.n_neurons] > 0 for i in order], dim=1)
    return on, torch.stack([neurons[i] for i in order], dim=1)


def language_sets(
    on: np.ndarray, written: np.ndarray, languages: pd.Series, options: LocateOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Of one fact's prompts: each language's neurons, bool, and their rank scores, both [languages, layers, neurons].

    A language has the neurons that at least `tau` of its prompts switch on and that are among the `kappa` of its layer that
    write most in the mean. Rank score: 1 for the neuron of a layer that writes most, 0 for the least. Languages in order of
    appearance.

    Example
    -------
    >>> members, score = language_sets(on, written, rows["language"], LocateOptions())
    """
    codes = languages.to_numpy()
    sets, scores = [], []
    for code in dict.fromkeys(codes):
        mean = written[codes == code].mean(0)
        rank = (-mean).argsort(-1, kind="stable").argsort(-1, kind="stable")
        large = rank < np.ceil(options.kappa * mean.shape[-1])
        sets.append(large & (on[codes == code].mean(0) >= options.tau))
        scores.append(1 - rank / max(1, mean.shape[-1] - 1))
    return np.stack(sets), np.stack(scores)


def shared_neurons(members: np.ndarray, score: np.ndarray, options: LocateOptions) -> pd.DataFrame:
    """The neurons of one fact that its languages share: columns `layer`, `neuron`, `score`, `rho`, best of a layer first.

    Those in all languages' sets; in a layer with fewer than `fewest` of them, those in a share `rho` of the sets, the largest of
    .9, .8 ... .5 that gives enough (else what .5 gives). At most `most` of a layer's neurons, by the least rank score over
    languages. `members`, `score`: of `language_sets`.

    Example
    -------
    >>> shared_neurons(members, score, LocateOptions()).groupby("layer").size()
    """
    parts, worst = [], score.min(0)
    for layer in range(members.shape[1]):
        votes = members[:, layer].sum(0)
        for rho in RHO:
            found = np.flatnonzero(votes >= np.ceil(rho * len(members)))
            if len(found) >= options.fewest:
                break
        order = found[np.argsort(-worst[layer][found], kind="stable")]
        kept = order[: max(options.fewest, int(options.most * members.shape[2]))]
        parts.append(pd.DataFrame({"layer": layer, "neuron": kept, "score": worst[layer][kept], "rho": rho}))
    return pd.concat(parts, ignore_index=True)


def pairwise_lift(members: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """How many times more neurons two languages share than chance has it, mean over pairs of languages, [layers].

    Chance: |A| |B| / neurons. `others`: another fact's sets; then pairs are of different languages and facts, which share the
    position and neurons that are always on: the level that a fact's own lift has to exceed. NaN without a pair of sets
    that are not empty. Counts over all twelve languages say nothing: chance has none of them in common.

    Raises `InputError` where the shapes differ.

    Example
    -------
    >>> pairwise_lift(members), pairwise_lift(members, members_of_another_fact)
    """
    second = members if others is None else others
    if second.shape != members.shape:
        raise InputError("others", found=second.shape, expected=Literal(f"sets of shape {members.shape}"))
    found = []
    for a, b in combinations(range(len(members)), 2):
        for one, two in ((members[a], second[b]), (second[a], members[b])):
            chance = one.sum(-1) * two.sum(-1) / members.shape[-1]
            shared = (one & two).sum(-1)
            found.append(np.divide(shared, chance, out=np.full(len(chance), np.nan), where=chance > 0))
    table = np.array(found).reshape(-1, members.shape[1])
    counts = (~np.isnan(table)).sum(0)
    return np.where(counts > 0, np.nansum(table, 0) / np.maximum(counts, 1), np.nan)


def layer_lift(model: Model, rows: pd.DataFrame, options: LocateOptions = LocateOptions()) -> pd.DataFrame:
    """By layer: the edits' mean pairwise `lift`, and the band of mismatched edits `null`, `null_low`, `null_high`.

    `rows`: of `prompt_rows`, the same languages in every edit. Mismatched: edit e in one language, e' in another; mean and 2.5th and
    97.5th percentiles over all pairs of edits, NaN for a single one. They share the position and what is always on: the level that
    the lift has to exceed. Raises `InputError` for fewer than two languages and for edits in different ones.

    Example
    -------
    >>> layer_lift(model, prompt_rows(model, requests, paraphrases)).round(1)
    """
    # One order of languages in all edits: a pair of sets is then of two languages.
    rows = rows.sort_values(["edit", "language"], kind="stable", ignore_index=True)
    spoken = rows.groupby("edit")["language"].unique().map(tuple)
    if spoken.nunique() != 1 or len(spoken.iloc[0]) < 2:
        found = Literal(" or ".join(sorted(",".join(codes) for codes in set(spoken))) or "no row")
        raise InputError("rows, language", found=found, expected="the same two or more languages in every edit")
    on, written = neuron_states(model, rows)
    sets = [language_sets(on[own.index], written[own.index], own["language"], options)[0]
            for _, own in rows.groupby("edit")]  # fmt: skip
    lift = pd.DataFrame([pairwise_lift(own) for own in sets])
    null = pd.DataFrame([pairwise_lift(a, b) for a, b in combinations(sets, 2)], columns=lift.columns, dtype=float)
    return pd.DataFrame({
        "layer": lift.columns, "lift": lift.mean(), "null": null.mean(), "null_low": null.quantile(0.025),
        "null_high": null.quantile(0.975),
    })  # fmt: skip
