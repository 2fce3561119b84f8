"""An edit outside all neurons: one layer's down-projection is fine-tuned on one query (Zhu et al. 2020, arXiv 2012.00363)."""

from contextlib import contextmanager

import torch

from ..errors import InputError, Literal
from ..models import Model
from ..prediction import answer_rows, answer_tokens
from ..sites import padded


@contextmanager
def fine_tuned(
    model: Model, query, *, edit: str, layer: int | None = None, steps: int = 25, step: float = 0.02, ahead: float = 1.0
):
    """Gradient steps on a layer's down-projection until `query`'s `aim` is top-1 (`update`) or no longer (`erase`).

    `query`: a row with `prompt`, `space`, `suffix`, `aim`. What moves is the least margin of the answer's tokens to the best other
    token, in nats, by `ahead` beyond 0 or for at most `steps` steps of `step` times the matrix's norm: unlike a
    probability's, its gradient does not vanish where the model is certain. `layer`: default the middle one. The weights
    are bit for bit what they were after the block, also after an exception. Raises `InputError` for another edit or layer.

    Example
    -------
    >>> with fine_tuned(model, request, edit="erase"):
    ...     after = test.ask()
    """
    if edit not in ("erase", "update"):
        raise InputError("edit", found=edit, expected=Literal("erase or update"))
    layer = model.n_layers // 2 if layer is None else layer
    if not 0 <= layer < model.n_layers:
        raise InputError("layer", found=layer, expected=f"a number from 0 to {model.n_layers - 1}")
    weight, sign = model.down_projections[layer].weight, 1.0 if edit == "update" else -1.0
    kept, tracked = weight.detach().clone(), weight.requires_grad
    model.__dict__.pop("hash", None)
    try:
        weight.requires_grad_(True)
        for _ in range(steps):
            with torch.enable_grad():
                value = sign * _margin(model, query)
                if value.item() >= ahead:
                    break
                (gradient,) = torch.autograd.grad(value, weight)
            with torch.no_grad():
                weight.add_(gradient, alpha=step * float(kept.norm() / gradient.norm().clamp(min=1e-30)))
        weight.requires_grad_(tracked)
        yield model
    finally:
        with torch.no_grad():
            weight.copy_(kept)
        weight.requires_grad_(tracked)
        model.__dict__.pop("hash", None)


def _margin(model: Model, query) -> torch.Tensor:
    tokens = answer_tokens(model, query.prompt, query.space, query.aim)
    rows, columns, targets, _ = answer_rows(model, [(query.prompt, tokens, query.space, query.suffix)])
    ids, mask = padded([tuple(row) for row in rows], model.tokenizer.pad_token_id, "right", model.device)
    places = [(row, column) for row, own in enumerate(columns) for column in own]
    at = torch.tensor(places, device=model.device).T
    logits = model.logits_at(ids, mask, at[0], at[1])
    wanted = torch.tensor([token for own in targets for token in own], device=model.device)[:, None]
    return (logits.gather(1, wanted)[:, 0] - logits.scatter(1, wanted, -torch.inf).amax(-1)).min()
