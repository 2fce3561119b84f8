"""Second moments of a layer's neurons over text: which directions of the keys an edit had better leave alone."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch

from ..errors import InputError, Literal
from ..models import Model
from ..prediction import TOKENS_PER_BATCH
from ..sites import padded, uncached
from .memory import for_all_edits

# Of the mean of the diagonal: without it the moment of few tokens has no inverse.
RIDGE = 1e-3
# Moments of this many (model, text) pairs stay in memory, the last ones asked for: every edit makes another model.
REMEMBERED = 4

_moments: OrderedDict[tuple[str, str], dict[int, torch.Tensor]] = OrderedDict()
_eigen: OrderedDict[tuple[str, str, int], tuple[torch.Tensor, torch.Tensor]] = OrderedDict()


def second_moments(
    model: Model, layers: Iterable[int], texts: Sequence[str], *, ridge: float = RIDGE
) -> dict[int, torch.Tensor]:
    """C = E[k k^T] of the inputs k of each layer's down-projection over texts: layer -> [neurons, neurons].

    Uncentred, float64, on the CPU, with `ridge` tr(C) / neurons on the diagonal (Meng et al. 2022, arXiv 2202.05262,
    eq. 2: their C is of Wikipedia text). Every token counts once, special ones not; texts are cut at the model's
    context. Remembered by model hash, layer and text hash. Take many more tokens than neurons. Raises `InputError`
    without any token.

    Example
    -------
    >>> second_moments(model, [3], texts)[3].shape
    torch.Size([768, 768])
    """
    layers = list(layers)
    key = (model.hash, text_hash(texts))
    known = _moments.setdefault(key, {})
    _moments.move_to_end(key)
    missing = [layer for layer in layers if layer not in known]
    if missing:
        with for_all_edits():
            known.update(_computed(model, missing, texts))
    while len(_moments) > REMEMBERED:
        _moments.popitem(last=False)
    found = {layer: known[layer].clone() for layer in layers}
    for moment in found.values():
        moment.diagonal().add_(ridge * moment.diagonal().mean())
    return found


def eigen_moments(
    model: Model, layers: Iterable[int], texts: Sequence[str]
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Eigenvalues, ascending, and eigenvectors of `second_moments` without ridge: layer -> ([neurons], [neurons, neurons]).

    Remembered, as the moments are: to decompose one takes longer than many an edit.

    Example
    -------
    >>> values, directions = eigen_moments(model, [3], texts)[3]
    """
    found, moments = {}, second_moments(model, layers, texts, ridge=0.0)
    for layer, moment in moments.items():
        key = (model.hash, text_hash(texts), layer)
        if key not in _eigen:
            with for_all_edits():
                _eigen[key] = tuple(torch.linalg.eigh(moment))
        _eigen.move_to_end(key)
        found[layer] = _eigen[key]
    while len(_eigen) > REMEMBERED * len(moments):
        _eigen.popitem(last=False)
    return found


def text_hash(texts: Sequence[str]) -> str:
    """16 hex digits of the SHA-256 of texts in their order: what an edit's options say of them.

    Example
    -------
    >>> text_hash(["Paris is in France."])
    'a7b60506b7c4c385'
    """
    if isinstance(texts, str) or texts is None:
        raise InputError("texts", found=texts, expected="a list of texts")
    digest = hashlib.sha256()
    for text in texts:
        # With lengths: two texts are not the one text that they make together.
        digest.update(f"{len(text)}:{text}".encode())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _computed(model: Model, layers: list[int], texts: Sequence[str]) -> dict[int, torch.Tensor]:
    before, after = model.specials
    rows = [(*before, *model.pieces(text)[: model.context - len(before) - len(after)], *after) for text in texts]
    rows.sort(key=len)
    total = sum(len(row) - len(before) - len(after) for row in rows)
    if not total:
        raise InputError("texts", found=Literal(f"{len(texts)} texts without a token"), expected="sentences")
    sums = {layer: torch.zeros(model.n_neurons, model.n_neurons, dtype=torch.float64) for layer in layers}
    size = max(1, TOKENS_PER_BATCH // len(rows[-1]))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        ids, mask = padded(part, model.tokenizer.pad_token_id, "right", model.device)
        counted = torch.zeros_like(mask, dtype=torch.bool)
        for number, row in enumerate(part):
            counted[number, len(before) : len(row) - len(after)] = True

        def hook_of(layer, counted=counted):
            def hook(module, inputs, output):
                keys = inputs[0].reshape(*counted.shape, -1)[counted.to(inputs[0].device)].double()
                sums[layer] += (keys.T @ keys).cpu()

            return hook

        with model.hooks(*((model.down_projections[layer], hook_of(layer)) for layer in layers)):
            model.base(input_ids=ids, attention_mask=mask, **uncached(model))
    return {layer: found / total for layer, found in sums.items()}
