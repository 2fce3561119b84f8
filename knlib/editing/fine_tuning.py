"""FT-L and FT-M: one layer's down-projection is fine-tuned on the requests, within a small box or without (the simple rivals)."""

from collections.abc import Sequence
from contextlib import nullcontext

import pandas as pd
import torch

from ..models import Model, by_input
from ..prediction import answer_rows, answer_tokens
from ..sites import padded
from .changes import Part, WeightChange, kept_weights, option_record
from .registry import register
from .requests import prompt_rows
from .rome import stored_part
from .states import output_module
from .suffix_pass import SuffixPass

STOP = 0.01  # nats: below it a step is not made
Rows = tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]


@register("ft_l")
def ft_l(
    model: Model,
    requests: pd.DataFrame,
    *,
    layer: int,
    contexts: pd.DataFrame | None = None,
    lr: float = 5e-4,
    steps: int = 25,
    box: float | None = 2e-3,
) -> WeightChange:
    """Adam on a layer's down-projection, no entry further than `box` from where it was; all answer tokens asked at one place.

    Loss: the mean over a request's prompts of -log p of each token of the new answer *where the first is predicted*, as in the
    published code (kmeng01/rome, `ft`): for answers of several tokens that is no likelihood of the answer, and `ft_m` is the fair
    rival. An edit's languages are pooled; a table of several edits is a sequence, each from the weights that the ones before
    left, in a box of its own. The default box is upstream's for gpt2-medium; small models may need another.

    `contexts`: as in `prompt_rows`. Raises as `prompt_rows`, and for a layer that the model lacks.

    Example
    -------
    >>> with ft_l(model, requests, layer=0).applied(model):
    ...     found = predict(model, queries, facts)
    """
    return _tuned("ft_l", model, requests, layer, contexts, lr, steps, box)


@register("ft_m")
def ft_m(
    model: Model,
    requests: pd.DataFrame,
    *,
    layer: int,
    contexts: pd.DataFrame | None = None,
    lr: float = 5e-4,
    steps: int = 25,
    box: float | None = None,
) -> WeightChange:
    """As `ft_l` with the ordinary loss: -log p of the new answer's tokens, each behind those before it (EasyEdit's `target_new`).

    Example
    -------
    >>> with ft_m(model, requests, layer=0).applied(model):
    ...     found = predict(model, queries, facts)
    """
    return _tuned("ft_m", model, requests, layer, contexts, lr, steps, box)


def _tuned(name, model, requests, layer, contexts, lr, steps, box) -> WeightChange:
    output_module(model, layer, "mlp")
    rows = prompt_rows(model, requests, contexts)
    options = option_record(layer=layer, contexts=0 if contexts is None else len(contexts), lr=lr, steps=steps, box=box)
    model_hash, parts, log = model.hash, [], []
    with kept_weights(model, [layer]):
        for edit, own in rows.groupby("edit", sort=False):
            examples = answer_examples(model, own, at_once=name == "ft_l")
            part, losses = _one_edit(model, edit, layer, examples, lr, steps, box)
            parts.append(part)
            log.append({"edit": edit, "loss": losses[-1], "steps": len(losses) - 1})
    return WeightChange(name, options, model.name, model_hash, tuple(parts), {"tuned": log})


def _one_edit(
    model: Model, edit: str, layer: int, examples: Rows, lr: float, steps: int, box: float | None
) -> tuple[Part, list[float]]:
    """What training adds, and the losses before each step and after the last; the weight keeps the change."""
    weight = model.down_projections[layer].weight
    start, tracked = weight.detach().clone(), weight.requires_grad
    where, targets, share = examples
    # The layers below stay as they are, so what they give is computed once.
    passes = SuffixPass(model, *where, [0] * len(where[0]), fixed=layer)
    model.__dict__.pop("hash", None)
    weight.requires_grad_(True)
    adam, losses = torch.optim.Adam([weight], lr=lr), []
    try:
        for step in range(steps + 1):
            with torch.enable_grad():
                found = passes.logits(lambda *_: nullcontext()).float().log_softmax(-1)
                loss = -(found.gather(1, targets[:, None])[:, 0] * share).sum()
                losses.append(loss.item())
                if losses[-1] < STOP or step == steps:
                    break
                (weight.grad,) = torch.autograd.grad(loss, weight)
            with torch.no_grad():
                adam.step()
                if box is not None:
                    weight.copy_(torch.minimum(torch.maximum(weight, start - box), start + box))
    finally:
        weight.grad = None
        weight.requires_grad_(tracked)
    change = by_input(model.down_projections[layer], weight.detach().double() - start.double())
    identity = torch.eye(change.shape[1], dtype=torch.float64)
    return stored_part(edit, layer, identity, change, weight.dtype), losses


def answer_examples(
    model: Model, rows: pd.DataFrame, *, at_once: bool = False, shares: Sequence[float] | None = None
) -> Rows:
    """Where the new answers' tokens are predicted: a padded batch with its places, targets [tokens], and each token's share of
    the loss [tokens].

    `at_once`: all tokens of an answer at the prompt's last token. `shares`: of the prompts, sum 1 (None: all alike); the
    tokens of a prompt share alike.
    """
    shares = [1 / len(rows)] * len(rows) if shares is None else shares
    items = [(r.prompt, answer_tokens(model, r.prompt, r.space, r.new), r.space, r.suffix) for r in rows.itertuples()]
    ids, columns, targets, _ = answer_rows(model, items)
    if at_once:
        columns = [[own[0]] * len(own) for own in columns]
        ids = [row[: own[0] + 1] for row, own in zip(ids, columns, strict=True)]
    places = [(row, column) for row, own in enumerate(columns) for column in own]
    at = torch.tensor(places, device=model.device).T
    batch = padded([tuple(row) for row in ids], model.tokenizer.pad_token_id, "right", model.device)
    share = [whole / len(own) for whole, own in zip(shares, targets, strict=True) for _ in own]
    wanted = [token for own in targets for token in own]
    return (*batch, at[0], at[1]), torch.tensor(wanted, device=model.device), torch.tensor(share, device=model.device)
