"""Sites: where one answer token is predicted. Every attribution is computed site by site."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .errors import InputError, Literal
from .models import Model, n_inputs
from .prediction import AnswerRows, answer_tokens

OBJECTIVES = ("prob", "logprob", "margin")


@dataclass(frozen=True)
class Site:
    """A token sequence, the position whose output predicts the target, and the target.

    `query` is the row number of the query, `content` the positions of the prompt's own tokens (no special
    tokens, no masks, no answer), `alternatives` the tokens that the objective `margin` compares with. `sets`: where an
    answer may be written with any of several tokens, those of the answer (the target among them), then those of each
    alternative, in place of single tokens.
    """

    query: int
    ids: tuple[int, ...]
    position: int
    target: int
    content: tuple[int, ...]
    alternatives: tuple[int, ...] = ()
    sets: tuple[tuple[int, ...], ...] = ()


def make_sites(model: Model, queries: pd.DataFrame, *, sites: str = "mean", objective: str = "prob") -> list[Site]:
    """The sites of all queries, in order: k for an answer of k tokens, or only the first of each.

    The gold tokens before a site are shown (teacher forcing), in a masked model those after it are masks.
    `margin` needs the column `alternatives` (a list of answers for each query) and `sites="first"`, because the
    alternatives' later tokens do not follow the gold answer's first. A column `token_sets` (`Site.sets` of each query) takes
    the place of answer and alternatives: objectives sum the probabilities of a set.

    Raises `InputError` for an empty table, an empty prompt or answer, a prompt longer than the context.

    Example
    -------
    >>> [s.position for s in make_sites(model, queries.head(1))]
    [8]
    """
    if sites not in ("mean", "first"):
        raise InputError("sites", found=sites, expected=Literal("mean or first"))
    if objective not in OBJECTIVES:
        raise InputError("objective", found=objective, expected=Literal("one of " + " ".join(OBJECTIVES)))
    if not isinstance(queries, pd.DataFrame) or not {"prompt", "space", "answer", "suffix"} <= set(queries):
        found = list(queries) if isinstance(queries, pd.DataFrame) else type(queries).__name__
        raise InputError("queries", found=found, expected="a table of build_queries (prompt, space, answer, suffix)")
    if not len(queries):
        raise InputError("queries", found=Literal("no row"), expected="at least one query")
    if "token_sets" in queries:
        if sites != "first":
            raise InputError("sites", found=sites, expected="first with a column `token_sets`")
    elif objective == "margin" and ("alternatives" not in queries or sites != "first"):
        raise InputError("objective", found="margin", expected='a column `alternatives` and sites="first"')
    helper, found = AnswerRows(model), []
    for number, row in enumerate(queries.itertuples()):
        found += _sites_of(model, helper, number, row, sites, objective)
    if len({len(site.sets) for site in found}) > 1:
        raise InputError(
            "queries, token_sets", found=Literal("different numbers of sets"), expected="as many in every row"
        )
    return found


def _sites_of(model: Model, helper: AnswerRows, number: int, row, which: str, objective: str) -> list[Site]:
    if not row.prompt.strip():
        raise InputError(f"query {number}, prompt", found=row.prompt, expected="text before the answer")
    sets = _checked_sets(number, row.token_sets) if hasattr(row, "token_sets") else ()
    tokens = sets[0][:1] if sets else answer_tokens(model, row.prompt, row.space, row.answer)
    if not tokens:
        raise InputError(f"query {number}, answer", found=row.answer, expected="text of at least one token")
    vocabulary = model.network.get_output_embeddings().weight.shape[0]
    if max(tokens + sum(sets, ())) >= vocabulary:
        raise InputError(f"query {number}, answer", found=row.answer, expected=f"tokens below {vocabulary}")
    start = len(helper.before)
    content = tuple(range(start, start + len(model.pieces(row.prompt))))
    alternatives = ()
    if objective == "margin" and not sets:
        firsts = (answer_tokens(model, row.prompt, row.space, a)[0] for a in row.alternatives)
        alternatives = tuple(sorted({token for token in firsts if token != tokens[0]}))
        if not alternatives:
            raise InputError(f"query {number}, alternatives", found=row.alternatives,
                             expected="an answer whose first token is not the answer's")  # fmt: skip
    places, found = helper.positions(row.prompt, len(tokens)), []
    for i, token in enumerate(tokens[: 1 if which == "first" else None]):
        masks = len(tokens) - i if model.kind == "masked" else 0
        ids = helper.row(row.prompt, tokens[:i], masks, row.space, row.suffix)
        found.append(Site(number, tuple(ids), places[i], token, content, alternatives, sets))
    return found


def _checked_sets(number: int, sets) -> tuple[tuple[int, ...], ...]:
    sets = tuple(tuple(map(int, tokens)) for tokens in sets)
    every = sum(sets, ())
    if len(sets) < 2 or not all(sets) or len(set(every)) < len(every):
        raise InputError(f"query {number}, token_sets", found=sets, expected="two or more disjoint sets of tokens")
    return sets


def padded(sequences: list[tuple[int, ...]], pad: int, side: str, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both [sequences, longest], padded on the left or the right."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        where = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
        ids[row, where] = torch.tensor(sequence)
        mask[row, where] = 1
    return ids.to(device), mask.to(device)


@torch.no_grad()
def neuron_vectors(model: Model, sequences: list[tuple[int, ...]], positions: list[int]) -> torch.Tensor:
    """The neurons of every layer at one position of each sequence, [sequences, layers, neurons].

    Example
    -------
    >>> neuron_vectors(model, [site.ids], [site.position]).shape
    torch.Size([1, 8, 768])
    """
    ids, mask = padded(sequences, model.tokenizer.pad_token_id, "right", model.device)
    rows, columns = torch.arange(len(sequences)), torch.tensor(positions)
    found: dict[int, torch.Tensor] = {}

    def keep(layer):
        def hook(module, inputs):
            found[layer] = inputs[0].reshape(*ids.shape, -1)[rows, columns]

        return hook

    handles = [p.register_forward_pre_hook(keep(i)) for i, p in enumerate(model.down_projections)]
    try:
        model.base(input_ids=ids, attention_mask=mask, **uncached(model))
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([found[i].to(model.device) for i in range(model.n_layers)], dim=1)


def uncached(model: Model) -> dict:
    """Arguments of a forward pass that keeps no keys and values."""
    return {"use_cache": False} if model.kind == "causal" else {}


def answer_values(logits: torch.Tensor, sites: list[Site], rows: torch.Tensor, objective: str) -> torch.Tensor:
    """What gradients are taken of, from logits [rows, vocabulary]: log p(target), or for `margin`
    log p(target) - mean log p(alternatives). `rows` says which site each row belongs to.

    The probability is differentiated through its logarithm and multiplied by itself afterwards, so that small
    probabilities keep their gradient's digits.
    """
    targets = torch.tensor([s.target for s in sites], device=logits.device)[rows.to(logits.device)]
    if sites[0].sets:
        return set_values(lambda t: logits[:, t], lambda: logits.log_softmax(-1).gather(1, targets[:, None])[:, 0],
                          sites, rows.to(logits.device), objective)  # fmt: skip
    if objective != "margin":
        return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return (logits * alternative_weights(sites, logits)[rows.to(logits.device)]).sum(-1)


def set_values(logits_of, target_log_p, sites: list[Site], rows: torch.Tensor, objective: str) -> torch.Tensor:
    """`answer_values` where sites have `sets`: log P(first set), or for `margin` less the mean log P of the others.

    `logits_of(tokens)` [rows, tokens]; `target_log_p()` [rows], of the targets: the softmax over the vocabulary is taken
    once, by whoever knows how, and only the logits of a few tokens are added.
    """
    tokens = sorted({token for site in sites for own in site.sets for token in own})
    scores = logits_of(tokens)
    column = {token: k for k, token in enumerate(tokens)}
    outside = torch.ones(len(sites), len(sites[0].sets), len(tokens), dtype=torch.bool)
    for i, site in enumerate(sites):
        for k, own in enumerate(site.sets):
            outside[i, k, [column[token] for token in own]] = False
    outside = outside.to(scores.device)[rows]
    sums = scores[:, None].masked_fill(outside, -torch.inf).logsumexp(-1)
    if objective == "margin":
        return sums[:, 0] - sums[:, 1:].mean(1)
    targets = torch.tensor([column[site.target] for site in sites], device=scores.device)[rows]
    return target_log_p() + sums[:, 0] - scores.gather(1, targets[:, None])[:, 0]


def alternative_weights(sites: list[Site], like: torch.Tensor) -> torch.Tensor:
    """[sites, vocabulary]: 1 for the target, -1/m for each of m alternatives: the margin's linear form in the logits."""
    weights = like.new_zeros(len(sites), like.shape[-1])
    for row, site in enumerate(sites):
        weights[row, list(site.alternatives)] = -1 / len(site.alternatives)
        weights[row, site.target] = 1
    return weights


def adjoint(projection: nn.Module, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient at a down-projection's input, [..., neurons], from the one at its output."""
    if type(projection) is nn.Linear:
        return gradient @ projection.weight
    if type(projection) is Conv1D:
        return gradient @ projection.weight.T
    # Quantised or adapted layers: affine all the same, so any point has the same derivative.
    with torch.enable_grad():
        point = gradient.new_zeros(*gradient.shape[:-1], n_inputs(projection), requires_grad=True)
        return torch.autograd.grad(projection.forward(point), point, gradient)[0]
