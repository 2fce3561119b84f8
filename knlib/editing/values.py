"""Values: what must be added where a subject ends, so that the model gives new answers, by optimisation."""

import time
from collections import Counter
from dataclasses import dataclass

import pandas as pd
import torch

from ..models import Model
from ..prediction import TOKENS_PER_BATCH, answer_rows, answer_tokens
from ..sites import padded
from .memory import keep, recall, remembers, seconds_alone, spared_seconds
from .requests import REQUEST, subject_position
from .states import changed_output, group_means, group_numbers, output_module, subject_outputs
from .suffix_pass import SuffixPass


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
    if not remembers():
        return _searched(model, rows, layer, where, by, essence, options)
    numbers = group_numbers(rows, by)
    asked = rows[["prompt", "space", "new", "suffix", "subject", "language", "position"]]
    head = (model.hash, layer, where, tuple(by), str(essence), options)
    keys = [
        (head, tuple(own.itertuples(index=False, name=None))) for _, own in asked.groupby(numbers.numpy(), sort=False)
    ]
    known = [recall(key) for key in keys]
    missing = [group for group, value in enumerate(known) if value is None]
    if missing:
        part = rows[torch.isin(numbers, torch.tensor(missing)).numpy()].reset_index(drop=True)
        started, spared = time.perf_counter(), spared_seconds()
        found = _searched(model, part, layer, where, by, essence, options)
        seconds = seconds_alone(started, spared) / len(missing)
        for i, group in enumerate(missing):
            known[group] = (found.start[i], found.delta[i], found.log[i])
            keep(keys[group], known[group], seconds)
    start, delta, log = zip(*known, strict=True)
    names = [dict(zip(by, key, strict=True)) for key in rows[by].drop_duplicates().values]
    return Values(torch.stack(start), torch.stack(delta), [own | name for own, name in zip(log, names, strict=True)])


def _searched(model, rows, layer, where, by, essence, options) -> Values:
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
        asked = _Asked(self.model, prompts, self.layer + (self.where == "block"))
        with torch.no_grad():
            # A copy: the answers' distributions need not be kept.
            old = self._log_probabilities(asked, active)[len(asked.targets) :].clone()
        for step in range(options.steps + 1):
            with torch.enable_grad():
                self.delta.requires_grad_(True)
                loss, answer = self._losses(asked, active, old)
                for group in active.nonzero()[:, 0].tolist():
                    found = {"loss": loss[group].item(), "steps": step, "p_new": (-answer[group]).exp().item()}
                    self.log[group] = found
                going = active & (loss.detach() >= options.stop)
                done = step == options.steps or not going.any()
                if not done:
                    (self.delta.grad,) = torch.autograd.grad(loss[going].sum(), self.delta)
                self.delta.requires_grad_(False)
            if done:
                return
            active, before = going, self.delta.clone()
            adam.step()
            norm = self.delta.norm(dim=1)
            shrink = (options.clamp * self.norm / norm.clamp(min=1e-30)).clamp(max=1)
            # Adam's momentum would move a group that is done.
            self.delta.copy_(torch.where(active[:, None], self.delta * shrink[:, None], before))

    def _losses(self, asked: "_Asked", active: torch.Tensor, old: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss and its part of the new answers, both [groups]; of groups that are active."""
        now, answers = active[asked.groups], len(asked.targets)
        targets, old = asked.targets[now[:answers]], old[now[answers:]]
        found = self._log_probabilities(asked, active)
        likelihood, new = -found[: len(targets)].gather(1, targets[:, None])[:, 0], found[len(targets) :]
        divergence = (new.exp() * (new - old)).sum(-1)
        parts = torch.cat([likelihood, divergence]).to(self.delta) * asked.shares[now].to(self.delta)
        groups, nothing = asked.groups[now], torch.zeros_like(self.norm)
        answer = nothing.index_add(0, groups[: len(targets)], parts[: len(targets)])
        held = nothing.index_add(0, groups[len(targets) :], parts[len(targets) :])
        # The norm has no gradient at 0, where every search starts.
        size = (self.delta.square().sum(1) + 1e-30).sqrt()
        return answer + self.options.kl_weight * held + self.options.weight_decay * size / self.norm**2, answer

    def _log_probabilities(self, asked: "_Asked", active: torch.Tensor) -> torch.Tensor:
        """At the places of the active groups, [places, vocabulary], with each group's delta at its prompts' positions."""

        def change(shape, rows, columns):
            own = self.delta[[asked.prompts[row].group for row in rows]]
            return changed_output(self.model, self.layer, self.where, shape, list(range(len(rows))), columns, own)

        going = active.tolist()
        kept = {row for row, prompt in enumerate(asked.prompts) if going[prompt.group]}
        return asked.passes.logits(change, kept).float().log_softmax(-1)


class _Asked:
    """The places that are asked at, first those of answers, then those of essences: groups, shares of the mean, targets.

    Equal prompts of a group run once. `fixed`: layers below the change.
    """

    def __init__(self, model: Model, prompts: list[_Prompt], fixed: int):
        counts, device = Counter(sorted(prompts, key=lambda prompt: not prompt.targets)), model.device
        sizes = Counter((prompt.group, bool(prompt.targets)) for prompt in prompts)
        self.prompts = list(counts)
        places = [(row, prompt, column) for row, prompt in enumerate(self.prompts) for column in prompt.columns]
        shares = [counts[p] / len(p.columns) / sizes[p.group, bool(p.targets)] for _, p, _ in places]
        self.shares = torch.tensor(shares, dtype=torch.float64, device=device)
        self.groups = torch.tensor([prompt.group for _, prompt, _ in places], device=device)
        self.targets = torch.tensor([target for p in self.prompts for target in p.targets], device=device)
        ids, mask = padded([p.ids for p in self.prompts], model.tokenizer.pad_token_id, "right", device)
        at = torch.tensor([(row, column) for row, _, column in places], device=device).T
        positions = [prompt.position for prompt in self.prompts]
        self.passes = SuffixPass(model, ids, mask, at[0], at[1], positions, fixed=fixed)
