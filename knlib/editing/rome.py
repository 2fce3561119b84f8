"""ROME: one layer gets a new value for one key, by a change of rank one (Meng et al. 2022, arXiv 2202.05262)."""

from collections.abc import Sequence

import pandas as pd
import torch

from ..models import Model
from .changes import Part, WeightChange, add_parts, kept_weights, option_record
from .moments import second_moments, text_hash
from .registry import register
from .requests import REQUEST, prompt_rows
from .states import output_module, subject_keys, subject_outputs
from .values import ValueOptions, optimise_values

VALUE = ValueOptions(clamp=4.0)


@register("rome")
def rome(
    model: Model,
    requests: pd.DataFrame,
    *,
    layer: int,
    texts: Sequence[str] | None,
    contexts: pd.DataFrame | None = None,
    essence: dict[str, str] | None = None,
    value: ValueOptions = VALUE,
    together: bool = False,
) -> WeightChange:
    """W' = W + d (C^-1 k)^T / (k^T C^-1 k) for every request, one after another: M-ROME (arXiv 2202.05262, eq. 2).

    k: the mean key over the request's prompts; d: `optimise_values` at the down-projection's output, so that W'k = Wk +
    d; C: `second_moments` of the unedited model over `texts` (None: C = I, as in EasyEdit's Llama settings). Requests
    follow each other in the table's order, each on the model that has the ones before: so do an edit's languages, and a
    table of several edits is a sequence. One k for direction and denominator, where the published code mixes two.
    `together`: all values are searched for on the unedited model, in one batch, which takes a fraction of the time; then the
    requests follow each other, d less what the ones before have already done to Wk.

    `contexts`, `essence`: as in `prompt_rows`, `optimise_values`. Raises as these, and as `second_moments`.

    Example
    -------
    >>> with rome(model, requests, layer=3, texts=texts).applied(model):
    ...     found = predict(model, queries, facts)
    """
    rows = prompt_rows(model, requests, contexts)
    output_module(model, layer, "mlp")
    options = option_record(layer=layer, texts=texts if texts is None else text_hash(texts), essence=essence,
                            contexts=0 if contexts is None else len(contexts), value=value, together=together)  # fmt: skip
    model_hash, moment = model.hash, None if texts is None else second_moments(model, [layer], texts)[layer]
    parts, log = [], []
    first = optimise_values(model, rows, layer, where="mlp", essence=essence, options=value) if together else None
    with kept_weights(model, [layer]):
        for number, ((edit, _), own) in enumerate(rows.groupby(REQUEST, sort=False)):
            if first is None:
                values = optimise_values(model, own, layer, where="mlp", essence=essence, options=value)
                delta = values.delta[0]
            else:
                done = subject_outputs(model, own, layer, "mlp").mean(0)
                delta = first.start[number] + first.delta[number] - done
            key = subject_keys(model, own, layer).mean(0)
            part = rank_one(edit, layer, key, delta, moment, model.column(layer, 0).dtype)
            add_parts(model, [part])
            parts.append(part)
            log += [] if first else values.log
    log = first.log if first else log
    report = {"values": log, "last_prompt": int(rows["place"].eq("last_prompt").sum())}
    return WeightChange("rome", options, model.name, model_hash, tuple(parts), report)


def rank_one(
    edit: str, layer: int, key: torch.Tensor, delta: torch.Tensor, moment: torch.Tensor | None, dtype: torch.dtype
) -> Part:
    """d (C^-1 k)^T / (k^T C^-1 k): of all changes that add d [width] at k [neurons], the least at keys with moment C.

    `moment` [neurons, neurons], None for the identity; `dtype`: the weight's, kept if it is wider than float32.

    Example
    -------
    >>> rank_one("capital:FR", 3, key, delta, moment, torch.float32).keys.shape
    torch.Size([768, 1])
    """
    key = key.double().cpu()
    direction = key if moment is None else torch.linalg.solve(moment, key)
    return stored_part(edit, layer, delta[:, None], (direction / (direction @ key))[:, None], dtype)


def stored_part(edit: str, layer: int, outputs: torch.Tensor, keys: torch.Tensor, dtype: torch.dtype) -> Part:
    """A part on the CPU in the weight's precision, at least float32."""
    precision = torch.promote_types(dtype, torch.float32)
    return Part(edit, layer, *(x.detach().to("cpu", precision).clone() for x in (outputs, keys)))
