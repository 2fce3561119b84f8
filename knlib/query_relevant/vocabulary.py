"""What neurons write, read in the vocabulary: the tokens that a neuron's column of the down-projection promotes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from ..controls import neuron_pairs
from ..models import Model
from ..sites import make_sites, neuron_vectors
from .last_position import readout, record
from .letters import with_letter_sets

COLUMNS = ["layer", "neuron", "value", "promoted", "letters"]


def promoted_tokens(model: Model, prompts: pd.DataFrame, pairs: Sequence, *, k: int = 8, top: int = 20) -> pd.DataFrame:
    """The k tokens that each neuron makes more likely on these prompts, read through the final norm and the unembedding.

    A neuron adds its value times its column v; where its mean value over the prompts is negative, -v is read. Layers behind it are
    left out, so early neurons say less. Columns: `layer`, `neuron`, `value` (mean, at the last position), `promoted` (the tokens, best
    first, `▁` a blank), `letters` (which of A to D have a token among the best `top`).

    `pairs`: (layer, neuron), or a table with these columns. Raises `InputError` for neurons that the model lacks, and as `readout`.

    Example
    -------
    >>> promoted_tokens(model, prompts.head(12), common_neurons(scores, prompts))[["layer", "neuron", "promoted"]]
    """
    pairs = neuron_pairs(model, pairs)
    if not pairs:
        return pd.DataFrame(columns=COLUMNS)
    sites = make_sites(model, with_letter_sets(model, prompts), sites="first")
    layers, neurons = map(list, zip(*pairs, strict=True))
    values = np.zeros(len(pairs))
    for site in sites:
        values += neuron_vectors(model, [site.ids], [site.position])[0, layers, neurons].cpu().double().numpy()
    values /= len(sites)
    head = readout(record(model, sites[0]))
    with torch.no_grad():
        columns = torch.stack([model.column(layer, neuron) for layer, neuron in pairs])
        logits = (head.norm.directions(columns) @ head.unembedding.T).cpu().double().numpy()
    # In the order A to D, whatever the prompt's right letter.
    letters = {chr(65 + i): set(own) for i, own in enumerate(_sets(prompts.iloc[0], sites[0].sets))}
    rows = []
    for (layer, neuron), value, row in zip(pairs, values, logits, strict=True):
        best = np.argsort(-row * (-1 if value < 0 else 1), kind="stable")[: max(k, top)].tolist()
        names = model.tokenizer.convert_ids_to_tokens(best[:k])
        rows.append((layer, neuron, float(value), " ".join(names),
                     "".join(name for name, own in letters.items() if own & set(best[:top]))))  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def _sets(row, sets) -> list:
    """The letters' tokens from A to D; sites have those of the right letter first."""
    ordered = list(sets[1:])
    ordered.insert("ABCD".index(row["answer"]), sets[0])
    return ordered
