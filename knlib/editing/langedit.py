"""LangEdit: AlphaEdit language by language, each in directions that the languages before hardly use either."""

from collections.abc import Sequence

import pandas as pd
import torch

from ..errors import InputError
from ..models import Model
from .alphaedit import VALUE, described, null_space, write
from .changes import WeightChange, option_record
from .memit import check_layers
from .moments import second_moments, text_hash
from .registry import register
from .requests import prompt_rows
from .values import ValueOptions

# What the published code adds to the tokens behind C with every batch.
TOKENS_PER_LANGUAGE = 100


@register("langedit")
def langedit(
    model: Model,
    requests: pd.DataFrame,
    *,
    layers: Sequence[int],
    texts: Sequence[str],
    tokens: int | None = None,
    rank_share: float = 0.7,
    trace_share: float | None = None,
    ridge: float = 10.0,
    contexts: pd.DataFrame | None = None,
    essence: dict[str, str] | None = None,
    value: ValueOptions = VALUE,
) -> WeightChange:
    """`alphaedit` with one batch per language, in order of appearance, and P anew before each of them.

    Before batch t = 0, 1, ... the second moment C, of `texts` at first, becomes N / (N + 100 t) C + 100 / (N + 100 t)
    K_p K_p^T, with the cache of all batches before, as in github.com/VRCMF/LangEdit (`AlphaEdit_main.py`). So a key of
    an edit counts as much as 100 tokens, and again with every batch. N: the tokens behind C (there 100000 whatever
    they are), `tokens` or those of `texts`. P: `null_space` of C. Each batch's rank and trace share of P, which is that
    of the C of its time, are in the report.

    Raises as `alphaedit`, and for `tokens` below 1.

    Example
    -------
    >>> change = langedit(model, requests, layers=[2, 3], texts=texts)
    >>> [(entry["language"], entry["layer"], entry["rank"]) for entry in change.report["null_space"]][:3]
    [('en', 2, 538), ('en', 3, 538), ('de', 2, 538)]
    """
    if tokens is not None and tokens < 1:
        raise InputError("tokens", found=tokens, expected="a number of tokens, or None")
    rows, layers = prompt_rows(model, requests, contexts), check_layers(model, layers)
    options = option_record(layers=layers, texts=text_hash(texts), tokens=tokens, rank_share=rank_share,
                            trace_share=trace_share, ridge=ridge, contexts=0 if contexts is None else len(contexts),
                            essence=essence, value=value)  # fmt: skip
    model_hash = model.hash
    moments = second_moments(model, layers, texts, ridge=0.0)
    behind = count_tokens(model, texts) if tokens is None else tokens
    groups = [(language, own.reset_index(drop=True)) for language, own in rows.groupby("language", sort=False)]
    spaces = []

    def bases_of(number: int, cache: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        bases = {}
        for layer in layers:
            if number:
                total = behind + TOKENS_PER_LANGUAGE * number
                moments[layer] = behind / total * moments[layer] + TOKENS_PER_LANGUAGE / total * cache[layer]
            bases[layer] = null_space(moments[layer], rank_share, trace_share)
            spaces.append({"language": groups[number][0], **described(layer, bases[layer], moments[layer])})
        return bases

    parts, log = write(model, [own for _, own in groups], layers, bases_of, ridge, essence=essence, value=value)
    report = {"values": log, "last_prompt": int(rows["place"].eq("last_prompt").sum()), "tokens": behind,
              "null_space": spaces}  # fmt: skip
    return WeightChange("langedit", options, model.name, model_hash, tuple(parts), report)


def count_tokens(model: Model, texts: Sequence[str]) -> int:
    """How many tokens `second_moments` takes of texts: all but the special ones, cut at the model's context.

    Example
    -------
    >>> count_tokens(model, ["Paris is in France."])
    5
    """
    most = model.context - sum(map(len, model.specials))
    return sum(len(model.pieces(text)[:most]) for text in texts)
