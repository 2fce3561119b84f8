"""What LAFN adds to neurons: one optimised change per layer for all prompts of a part, such as an edit in all its languages."""

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pandas as pd
import torch

from ..controls import Pairs
from ..models import Model
from ..prediction import TOKENS_PER_BATCH
from ..sites import padded
from .fine_tuning import answer_examples
from .memory import keep, recall, seconds_alone, spared_seconds
from .requests import subject_position
from .states import group_means, group_numbers, subject_keys
from .suffix_pass import SuffixPass


@dataclass(frozen=True)
class ShiftOptions:
    """Adam with rate `lr` for at most `steps` steps, until the watched loss is below `stop` (nats).

    Loss: mean -log p of the new answer's tokens over languages and prompts + `kl_weight` KL(new || old) behind the bare
    subject + `weight_decay` times |shift| / |a|^2, a the layer's neurons before; after each step |shift| <= `clamp` |a|. The
    last two are ROME's, for want of the paper's.
    """

    steps: int = 25
    lr: float = 0.5
    kl_weight: float = 0.0625
    weight_decay: float = 1e-3
    clamp: float = 4.0
    stop: float = 0.05


@dataclass(frozen=True, eq=False)
class Shift:
    """`values`: layer -> (neurons, what is added to them where the subject ends); `loss`: of the watched prompts; `steps` made."""

    values: dict[int, tuple[list[int], torch.Tensor]]
    loss: float
    steps: int


def optimise_shifts(
    model: Model,
    rows: pd.DataFrame,
    pairs: dict[str, Pairs],
    scale: dict[int, torch.Tensor],
    options: ShiftOptions,
    *,
    watch: bool = True,
) -> dict[str, Shift]:
    """Part -> the shift of its neurons that makes the new answers of its rows probable.

    `rows`: of `prompt_rows`, with a column `part` (an edit, or a language of one); `pairs`: part -> neurons (layer, neuron);
    `scale`: layer -> rms of all its neurons on neutral text, [neurons], so that the rate has no unit. With `watch` the last
    prompt of every language that has several is not trained on: it says when to stop. In a part each language weighs alike.
    No neurons: no shift. Parts do not depend on each other, and run together: a search of one is mostly overhead.
    Deterministic.

    Example
    -------
    >>> shifts = optimise_shifts(model, rows.assign(part=rows["edit"]), {"capital:FR": pairs}, scale, ShiftOptions())
    >>> shifts["capital:FR"].values[3][1].shape
    torch.Size([15])
    """
    found = {part: Shift({}, float("nan"), 0) for part in rows["part"].unique()}
    wanted = rows[rows["part"].map(lambda part: len(pairs[part]) > 0)]
    for own in _chunks(model, wanted):
        found |= _searched(model, own.reset_index(drop=True), pairs, scale, options, watch)
    return found


def _searched(model: Model, rows: pd.DataFrame, pairs: dict, scale: dict, options: ShiftOptions, watch: bool) -> dict:
    """Within a `remembered` block a search of the same with fewer steps is not made anew: it goes on."""
    own = {part: tuple(sorted(pairs[part])) for part in rows["part"].unique()}
    layers = sorted({layer for found in own.values() for layer, _ in found})
    asked = rows[["part", "language", "prompt", "space", "new", "suffix", "subject", "position"]]
    key = (model.hash, tuple(asked.itertuples(index=False, name=None)), tuple(own.items()),
           tuple(scale[layer].cpu().numpy().tobytes() for layer in layers), replace(options, steps=0), watch)  # fmt: skip
    started, spared = time.perf_counter(), spared_seconds()
    search = recall(key, lambda search: search.step <= options.steps)
    if search is None:
        search = _Search(model, rows, own, layers, scale, options, watch)
    found = search.run(options.steps)
    keep(key, search, seconds_alone(started, spared))
    return found


def _chunks(model: Model, rows: pd.DataFrame):
    """Parts that run together, within the budget of tokens."""
    parts, count = [], 0
    for _, own in rows.groupby("part", sort=False):
        size = len(own) * max(len(model.pieces(prompt)) for prompt in own["prompt"])
        if parts and count + size > TOKENS_PER_BATCH:
            yield pd.concat(parts)
            parts, count = [], 0
        parts.append(own)
        count += size
    if parts:
        yield pd.concat(parts)


@contextmanager
def shifted(model: Model, values: dict, shape, rows: list[int], columns: list[int]):
    """`values` (layer -> neurons, shift) are added to the down-projections' inputs at (row, column) within the `with` block.

    `shape`: rows and columns of the network's calls. Other positions keep their bits.

    Example
    -------
    >>> with shifted(model, shift.values, ids.shape, [0], [4]):
    ...     logits = model.network(input_ids=ids).logits
    """

    def hook_of(neurons, shift):
        def hook(module, inputs):
            grid = inputs[0].reshape(*shape, -1)
            at = (torch.tensor(rows)[:, None], torch.tensor(columns)[:, None], torch.tensor(neurons)[None])
            at = tuple(index.to(grid.device) for index in at)
            changed = grid.index_put(at, shift.to(grid).expand(len(rows), -1), accumulate=True)
            return (changed.reshape(inputs[0].shape), *inputs[1:])

        return hook

    with ExitStack() as stack:
        for layer, (neurons, shift) in values.items():
            handle = model.down_projections[layer].register_forward_pre_hook(hook_of(neurons, shift))
            stack.callback(handle.remove)
        yield


@contextmanager
def shifted_rows(model: Model, shifts: dict[int, torch.Tensor], shape, columns: list[int]):
    """`shifts` (layer -> [rows, neurons]) are added to the down-projections' inputs, row i's at `columns[i]`.

    Example
    -------
    >>> with shifted_rows(model, {3: torch.zeros(len(ids), model.n_neurons)}, ids.shape, ends):
    ...     logits = model.network(input_ids=ids).logits
    """

    def hook_of(shift):
        def hook(module, inputs):
            grid = inputs[0].reshape(*shape, -1)
            at = (torch.arange(len(shift), device=grid.device), torch.tensor(columns, device=grid.device))
            changed = grid.index_put(at, shift.to(grid), accumulate=True)
            return (changed.reshape(inputs[0].shape), *inputs[1:])

        return hook

    with ExitStack() as stack:
        for layer, shift in shifts.items():
            stack.callback(model.down_projections[layer].register_forward_pre_hook(hook_of(shift)).remove)
        yield


def asked_pass(model: Model, sequences: list, asked: list[int], positions: list[int], fixed: int) -> SuffixPass:
    """Rows of tokens, what follows each at the column `asked`, and where changes enter (layers from `fixed` on)."""
    ids, mask = padded(sequences, model.tokenizer.pad_token_id, "right", model.device)
    rows, columns = torch.arange(len(ids), device=ids.device), torch.tensor(asked, device=ids.device)
    return SuffixPass(model, ids, mask, rows, columns, positions, fixed=fixed)


@dataclass(frozen=True, eq=False)
class _Prompts:
    """A pass over rows; of each row its part's number; of each asked place its part's, its target and share of the loss."""

    passes: SuffixPass
    rows: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor | None
    share: torch.Tensor


class _Search:
    """Adam on the deltas [parts, layers, neurons], in units of `scale`; a part that is done takes no part in later steps."""

    def __init__(
        self, model: Model, rows: pd.DataFrame, pairs: dict, layers: list[int], scale: dict, options, watch: bool
    ):
        self.model, self.options, self.layers = model, options, layers
        self.parts, device = list(rows["part"].unique()), model.device
        self.done: dict[str, Shift] = {}
        precision = torch.promote_types(model.down_projections[0].weight.dtype, torch.float32)
        self.pairs = pairs
        self.unit = torch.stack([scale[layer] for layer in layers]).to(device, precision)
        self.mask = torch.zeros(len(self.parts), *self.unit.shape, device=device, dtype=precision)
        for number, part in enumerate(self.parts):
            at = torch.tensor([(layers.index(layer), neuron) for layer, neuron in self.pairs[part]], device=device)
            self.mask[number, at[:, 0], at[:, 1]] = 1
        self.delta = torch.zeros_like(self.mask).requires_grad_()
        numbers = group_numbers(rows, ["part"])
        norms = torch.stack([subject_keys(model, rows, layer).norm(dim=1) for layer in layers], 1)
        self.size = group_means(norms, numbers).to(self.unit)
        groups = ["part", "language"]
        last = ~rows.duplicated(groups, keep="last") & rows.duplicated(groups, keep=False) & watch
        self.train = self._answers(rows[~last], numbers)
        self.look = self._answers(rows[last], numbers) if last.any() else None
        self.watched = torch.zeros(len(self.parts), dtype=torch.bool, device=device)
        self.watched[numbers[last.to_numpy(copy=True)].to(device)] = True
        self.essences = self._essences(rows, numbers)
        with torch.no_grad():
            self.old = self._log_probabilities(self.essences, None)[0]
        self.adam, self.step = torch.optim.Adam([self.delta], lr=options.lr), 0
        self.open = torch.ones(len(self.parts), dtype=torch.bool, device=device)

    def _answers(self, rows: pd.DataFrame, numbers: torch.Tensor) -> _Prompts:
        language = rows.groupby(["part", "language"], sort=False)["prompt"].transform("size")
        count = rows.groupby("part", sort=False)["language"].transform("nunique")
        where, targets, share = answer_examples(self.model, rows, shares=(1 / language / count).tolist())
        passes = SuffixPass(self.model, *where, rows["position"].tolist(), fixed=min(self.layers))
        own = numbers[torch.tensor(rows.index)].to(self.model.device)
        return _Prompts(passes, own, own[where[2]], targets, share.to(self.unit))

    def _essences(self, rows: pd.DataFrame, numbers: torch.Tensor) -> _Prompts:
        """Behind the bare subjects."""
        model, subjects = self.model, rows.drop_duplicates(["part", "subject"])
        sequences = [(*model.specials[0], *model.pieces(subject)) for subject in subjects["subject"]]
        ends = [subject_position(model, subject, subject)[0] for subject in subjects["subject"]]
        own = numbers[torch.tensor(subjects.index)].to(model.device)
        share = (1 / subjects.groupby("part")["subject"].transform("size")).tolist()
        passes = asked_pass(model, sequences, ends, ends, min(self.layers))
        return _Prompts(passes, own, own, None, torch.tensor(share, device=model.device).to(self.unit))

    def _values(self) -> torch.Tensor:
        return self.unit * self.delta * self.mask

    def _log_probabilities(self, prompts: _Prompts, open_: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """At the asked places of the open parts (None: of all), and which places these are."""
        values = self._values()
        kept = None if open_ is None else set(torch.nonzero(open_[prompts.rows])[:, 0].tolist())

        def change(shape, rows, columns):
            own = values[prompts.rows[torch.tensor(rows, device=values.device)]]
            return shifted_rows(self.model, dict(zip(self.layers, own.unbind(1), strict=True)), shape, columns)

        places = slice(None) if open_ is None else open_[prompts.places]
        return prompts.passes.logits(change, kept).float().log_softmax(-1), places

    def _losses(self, prompts: _Prompts, open_: torch.Tensor) -> torch.Tensor:
        """Mean -log p of the new answers' tokens, [parts]."""
        found, places = self._log_probabilities(prompts, open_)
        loss = -found.gather(1, prompts.targets[places][:, None])[:, 0].to(self.unit) * prompts.share[places]
        return loss.new_zeros(len(self.parts)).index_add(0, prompts.places[places], loss)

    def _norms(self) -> torch.Tensor:
        # No gradient at 0, where the search starts, without the addend.
        return (self._values().square().sum(2) + 1e-30).sqrt()

    def _penalties(self, open_: torch.Tensor) -> torch.Tensor:
        found, places = self._log_probabilities(self.essences, open_)
        divergence = (found.exp() * (found - self.old[places])).sum(-1) * self.essences.share[places]
        decay = (self._norms() / self.size.square())[open_].sum()
        return self.options.kl_weight * divergence.sum() + self.options.weight_decay * decay

    @torch.no_grad()
    def _clamp(self) -> None:
        self.delta.mul_((self.options.clamp * self.size / self._norms()).clamp(max=1)[:, :, None])

    def run(self, steps: int) -> dict[str, Shift]:
        """The shifts after at most so many steps in all; called with more, it goes on."""
        while self.open.any():
            with torch.enable_grad():
                answer = self._losses(self.train, self.open)
            losses, values = answer.detach(), self._values().detach()
            if (self.open & self.watched).any():
                with torch.no_grad():
                    losses = torch.where(self.watched, self._losses(self.look, self.open & self.watched), losses)
            below, limit = self.open & (losses < self.options.stop), self.step == steps
            now = {
                self.parts[number]: Shift(
                    self._of(self.parts[number], values[number]), float(losses[number]), self.step
                )
                for number in torch.nonzero(self.open if limit else below)[:, 0].tolist()
            }
            if limit:
                return self.done | now
            self.done, self.open = self.done | now, self.open & ~below
            if self.open.any():
                with torch.enable_grad():
                    total = answer[self.open].sum() + self._penalties(self.open)
                    (self.delta.grad,) = torch.autograd.grad(total, self.delta)
                self.adam.step()
                self._clamp()
                self.step += 1
        return dict(self.done)

    def _of(self, part: str, values: torch.Tensor) -> dict[int, tuple[list[int], torch.Tensor]]:
        layers: dict[int, list[int]] = {}
        for layer, neuron in self.pairs[part]:
            layers.setdefault(layer, []).append(neuron)
        return {layer: (own, values[self.layers.index(layer)][own].clone()) for layer, own in layers.items()}
