"""Values: what must be added where a subject ends, so that the model gives new answers, by optimisation."""

from dataclasses import dataclass

import pandas as pd
import torch

from ..models import Model
from ..prediction import TOKENS_PER_BATCH, answer_rows, answer_tokens
from ..sites import padded
from .requests import REQUEST, subject_position
from .states import changed_output, group_means, group_numbers, output_module, subject_outputs


@dataclass(frozen=True)
class ValueOptions:
    """How a value is optimised: Adam with rate `lr` for at most `steps` steps, until the loss is below `stop` (nats).

    Loss: mean -log p of the new answers' tokens + `kl_weight` KL at the essence prompt + `weight_decay` |d| / |v0|^2;
    after each step |d| <= `clamp` |v0|. Upstream (rome, memit): `clamp` 4 for ROME and .75 for MEMIT, `weight_decay` .5
    for GPT models and 1e-3 for Llama.
    """

    steps: int = 25
    lr: float = 0.5
    kl_weight: float = 0.0625
    weight_decay: float = 1e-3
    clamp: float = 4.0
    stop: float = 0.05


@dataclass(frozen=True, eq=False)
class Values:
    """Of each group of rows the mean output that it has, `start` v0, and what is to be added, `delta` d.

    Both [groups, width], float64. `log`: per group, its key (`edit`, `language`, ...), the last `loss`, the `steps`
    made, and `p_new`: the new answers' tokens' geometric mean probability with d.
    """

    start: torch.Tensor
    delta: torch.Tensor
    log: list[dict]


def optimise_values(
    model: Model,
    rows: pd.DataFrame,
    layer: int,
    *,
    where: str,
    by: list[str] = REQUEST,
    essence: dict[str, str] | None = None,
    options: ValueOptions,
) -> Values:
    """One d per group of rows, added at every row's `position` to the output of a layer: the new answers get probable.

    `rows`: of `prompt_rows`; `by`: columns whose values make a group, in order of appearance (`REQUEST`: one d per edit
    and language; `["edit"]`: one for all its languages); `where`: `mlp` (the down-projection's output: Meng et al.
    2022, arXiv 2202.05262, eq. 4) or `block` (the layer's: Meng et al. 2023, arXiv 2210.07229). A group's loss
    is the mean over its rows; each row's is the mean -log p of the new answer's tokens, the ones before shown.
    `essence`: language -> a text with {S}, at whose subject's last token the next token's distribution is held (KL(new
    || old)); without one it is the bare subject. Groups are independent of each other, and run together. Deterministic.

    Raises `InputError` for an unknown layer or place, a new answer without tokens, a prompt longer than the context.

    Example
    -------
    >>> values = optimise_values(model, prompt_rows(model, requests), 3, where="mlp", options=ValueOptions())
    >>> [(entry["language"], round(entry["p_new"], 2)) for entry in values.log]
    """
    output_module(model, layer, where)
    number = group_numbers(rows, by)
    start = group_means(subject_outputs(model, rows, layer, where), number)
    prompts = _prompts(model, rows, number.tolist(), essence or {})
    delta, log = torch.zeros_like(start), [dict(zip(by, key, strict=True)) for key in rows[by].drop_duplicates().values]
    for groups in _chunks(prompts):
        search = _Search(model, layer, where, start[groups], options)
        own = {group: i for i, group in enumerate(groups)}
        search.run([prompt.of_group(own[prompt.group]) for prompt in prompts if prompt.group in own])
        delta[groups] = search.delta.double()
        for group, i in own.items():
            log[group] |= search.log[i]
    return Values(start, delta, log)


@dataclass(frozen=True)
class _Prompt:
    """A token row of a group: `position` is the subject's last token, `columns` are asked. No targets: an essence."""

    group: int
    ids: tuple[int, ...]
    position: int
    columns: tuple[int, ...]
    targets: tuple[int, ...]

    def of_group(self, group: int) -> "_Prompt":
        return _Prompt(group, self.ids, self.position, self.columns, self.targets)


def _prompts(model: Model, rows: pd.DataFrame, groups: list[int], essence: dict[str, str]) -> list[_Prompt]:
    table = list(rows.itertuples())
    items = [(r.prompt, answer_tokens(model, r.prompt, r.space, r.new), r.space, r.suffix) for r in table]
    found = [
        _Prompt(groups[owner], tuple(ids), table[owner].position, tuple(columns), tuple(targets))
        for ids, columns, targets, owner in zip(*answer_rows(model, items), strict=True)
    ]
    before, _ = model.specials
    # Contexts share their request's essence.
    for group, language, subject in dict.fromkeys(
        (group, row.language, row.subject) for group, row in zip(groups, table, strict=True)
    ):
        text = essence.get(language, "{S}").replace("{S}", subject)
        position, _ = subject_position(model, text, subject)
        found.append(_Prompt(group, (*before, *model.pieces(text)), position, (position,), ()))
    return found


def _chunks(prompts: list[_Prompt]):
    """Group numbers that run together, within the budget of tokens (a group that is larger runs alone)."""
    sizes: dict[int, list[int]] = {}
    for prompt in prompts:
        sizes.setdefault(prompt.group, []).append(len(prompt.ids))
    groups, count, width = [], 0, 0
    for group in sorted(sizes):
        wide = max(width, *sizes[group])
        if groups and (count + len(sizes[group])) * wide > TOKENS_PER_BATCH:
            yield groups
            groups, count, wide = [], 0, max(sizes[group])
        groups.append(group)
        count, width = count + len(sizes[group]), wide
    if groups:
        yield groups


class _Search:
    """Adam on the deltas of some groups at once; a group that is done takes no part in later steps."""

    def __init__(self, model: Model, layer: int, where: str, start: torch.Tensor, options: ValueOptions):
        self.model, self.layer, self.where, self.options = model, layer, where, options
        precision = torch.promote_types(model.down_projections[layer].weight.dtype, torch.float32)
        # Steps in half precision would be lost.
        self.norm = start.norm(dim=1).to(model.device, precision)
        self.delta = torch.zeros_like(start, dtype=precision, device=model.device)
        self.log: list[dict] = [{} for _ in start]

    def run(self, prompts: list[_Prompt]) -> None:
        options, active = self.options, torch.ones(len(self.delta), dtype=torch.bool, device=self.delta.device)
        adam = torch.optim.Adam([self.delta], lr=options.lr)
        with torch.no_grad():
            old = dict(zip(prompts, self._log_probabilities(prompts), strict=True))
        for step in range(options.steps + 1):
            prompts = [prompt for prompt in prompts if active[prompt.group]]
            with torch.enable_grad():
                self.delta.requires_grad_(True)
                loss, answer = self._losses(prompts, old)
                (self.delta.grad,) = torch.autograd.grad(loss[active].sum(), self.delta)
                self.delta.requires_grad_(False)
            for group in active.nonzero()[:, 0].tolist():
                self.log[group] = {"loss": loss[group].item(), "steps": step, "p_new": (-answer[group]).exp().item()}
            active = active & (loss.detach() >= options.stop)
            if step == options.steps or not active.any():
                return
            before = self.delta.clone()
            adam.step()
            norm = self.delta.norm(dim=1)
            shrink = (options.clamp * self.norm / norm.clamp(min=1e-30)).clamp(max=1)
            # Adam's momentum would move a group that is done.
            self.delta.copy_(torch.where(active[:, None], self.delta * shrink[:, None], before))

    def _losses(self, prompts: list[_Prompt], old: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and its part of the new answers, both [groups]."""
        likelihood, divergence = [], []
        for prompt, found in zip(prompts, self._log_probabilities(prompts), strict=True):
            if prompt.targets:
                targets = torch.tensor(prompt.targets, device=found.device)[:, None]
                likelihood.append((prompt.group, -found.gather(1, targets).mean()))
            else:
                divergence.append((prompt.group, (found.exp() * (found - old[prompt])).sum()))
        answer, held = self._means(likelihood), self._means(divergence)
        # The norm has no gradient at 0, where every search starts.
        size = (self.delta.square().sum(1) + 1e-30).sqrt()
        return answer + self.options.kl_weight * held + self.options.weight_decay * size / self.norm**2, answer

    def _means(self, found: list[tuple[int, torch.Tensor]]) -> torch.Tensor:
        groups = torch.tensor([group for group, _ in found], device=self.delta.device)
        values = torch.stack([value for _, value in found]).to(self.delta)
        return self.delta.new_zeros(len(self.delta)).index_add(0, groups, values) / groups.bincount(
            minlength=len(self.delta)
        ).clamp(min=1)

    def _log_probabilities(self, prompts: list[_Prompt]) -> list[torch.Tensor]:
        """At each prompt's columns, [columns, vocabulary], with its group's delta at its position."""
        model = self.model
        ids, mask = padded([p.ids for p in prompts], model.tokenizer.pad_token_id, "right", model.device)
        places = [(row, column) for row, prompt in enumerate(prompts) for column in prompt.columns]
        at = torch.tensor(places, device=model.device).T
        own = self.delta[[prompt.group for prompt in prompts]]
        rows, columns = list(range(len(prompts))), [prompt.position for prompt in prompts]
        with changed_output(model, self.layer, self.where, ids.shape, rows, columns, own):
            logits = model.logits_at(ids, mask, at[0], at[1])
        return list(logits.float().log_softmax(-1).split([len(prompt.columns) for prompt in prompts]))
