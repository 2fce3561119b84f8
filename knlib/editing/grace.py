"""GRACE: a codebook replaces what one layer gives where a prompt asks for an edited fact (arXiv 2211.11031)."""

import pandas as pd
import torch

from ..errors import InputError
from ..models import Model
from ..prediction import AnswerRows, answer_tokens
from .changes import option_record
from .codebook_change import CodebookChange, first_hits
from .registry import register
from .requests import REQUEST, prompt_rows
from .states import subject_outputs
from .values import ValueOptions, optimise_values

# A radius that is to hold a key is so many times its distance, which other batches round otherwise.
WIDER = 1.01


@register("grace")
def grace(
    model: Model, requests: pd.DataFrame, *, layer: int, eps: float = 1.0, lr: float = 1.0, steps: int = 50
) -> CodebookChange:
    """A codebook with one key per request, or fewer: requests with near keys and the same new answer share one.

    Key: what the unedited layer (the whole block) gives at the prompt's last token; published GRACE takes the layer's
    input. Value: what must stand there for the new answer, by `optimise_values` without bounds: `steps` steps of Adam
    with rate `lr`. Radii: `codebook`. `eps` is a distance in the units of the layer's output, which differ from model
    to model: choose it on edits of your own. A shared key has the value of its first request. Report: the `values`'
    log, how many keys were `widened` and `split`, and the requests that are `missed`: their prompt is another key's
    after all.

    Raises as `prompt_rows`, for an unknown layer, and for an `eps` that is not above 0.

    Example
    -------
    >>> change = grace(model, requests, layer=4, eps=2.0)
    >>> change.keys.shape, change.report["split"]
    (torch.Size([24, 192]), 3)
    """
    if not eps > 0:
        raise InputError("eps", found=eps, expected="a distance above 0")
    rows, before = prompt_rows(model, requests), len(AnswerRows(model).before)
    rows = rows.assign(position=[before + len(model.pieces(prompt)) - 1 for prompt in rows["prompt"]])
    keys = subject_outputs(model, rows, layer, "block")
    answers = [answer_tokens(model, row.prompt, row.space, row.new) for row in rows.itertuples()]
    served, radii, counts = codebook(keys, answers, eps)
    first = [own[0] for own in served]
    free = ValueOptions(steps=steps, lr=lr, kl_weight=0.0, weight_decay=0.0, clamp=1e9, stop=0.0)
    found = optimise_values(model, rows.iloc[first].reset_index(drop=True), layer, where="block", options=free)
    names = [(row.edit, row.language) for row in rows.itertuples()]
    hit, nearest = first_hits(keys[:, None], None, keys[first], radii)
    missed = [dict(zip(REQUEST, name, strict=True)) for number, name in enumerate(names)
              if not hit[number, 0] or answers[number] != answers[first[nearest[number, 0]]]]  # fmt: skip
    kept = torch.promote_types(model.down_projections[layer].weight.dtype, torch.float32)
    return CodebookChange("grace", option_record(layer=layer, eps=eps, lr=lr, steps=steps), model.name, model.hash,
                          layer, tuple(tuple(names[number] for number in own) for own in served),
                          keys[first].to(kept), (found.start + found.delta).to(kept), radii.to(kept),
                          {"values": found.log, **counts, "missed": missed})  # fmt: skip


def codebook(keys: torch.Tensor, answers: list[tuple], eps: float) -> tuple[list[list[int]], torch.Tensor, dict]:
    """Which requests each key serves (its own one first), the keys' radii, and how often one was widened or split.

    `keys` [requests, width], in order. A request whose key is more than eps + radius from its nearest key has a key of
    its own, with radius eps. Nearer, with the same answer, the old radius becomes large enough for it;
    with another answer both have keys, and radii of half their distance (0, so no hit at all, at the same place).

    Example
    -------
    >>> codebook(torch.tensor([[0.0], [1.5], [-1.2]]), ["a", "a", "b"], 1.0)
    ([[0, 1], [2]], tensor([0.6000, 0.6000]), {'widened': 1, 'split': 1})
    """
    served, radii, counts = [], [], {"widened": 0, "split": 0}
    for number, key in enumerate(keys):
        radius = eps
        if served:
            distances = (keys[[own[0] for own in served]] - key).norm(dim=1)
            nearest, distance = int(distances.argmin()), float(distances.min())
            if distance <= eps + radii[nearest]:
                if answers[number] == answers[served[nearest][0]]:
                    counts["widened"] += distance * WIDER > radii[nearest]
                    radii[nearest] = max(radii[nearest], distance * WIDER)
                    served[nearest].append(number)
                    continue
                counts["split"] += 1
                radii[nearest] = radius = distance / 2
        served.append([number])
        radii.append(radius)
    return served, keys.new_tensor(radii), counts
