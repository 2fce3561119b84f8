"""What LAFN adds to a fact's shared neurons: one optimised change per layer, the same in all languages."""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pandas as pd
import torch

from ..controls import Pairs
from ..models import Model
from ..sites import padded
from .fine_tuning import answer_examples
from .requests import subject_position
from .states import subject_keys
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


def optimise_shift(
    model: Model,
    rows: pd.DataFrame,
    pairs: Pairs,
    scale: dict[int, torch.Tensor],
    options: ShiftOptions,
    *,
    watch: bool = True,
) -> Shift:
    """One shift of some neurons that makes an edit's new answers probable in all its languages at once.

    `rows`: of `prompt_rows`, of one edit; `pairs`: its neurons (layer, neuron); `scale`: layer -> rms of all its neurons on
    neutral text, [neurons], so that the rate has no unit. With `watch` the last prompt of every language that has several
    is not trained on: it says when to stop. Each language weighs alike. No neurons: no shift. Deterministic.

    Example
    -------
    >>> shift = optimise_shift(model, rows[rows["edit"] == "capital:FR"], pairs, scale, ShiftOptions())
    >>> shift.values[3][1].shape
    torch.Size([15])
    """
    last = ~rows.duplicated("language", keep="last") & rows.duplicated("language", keep=False)
    apart = watch and last.any()
    layers = {layer: [n for at, n in pairs if at == layer] for layer in sorted({layer for layer, _ in pairs})}
    if not layers:
        return Shift({}, float("nan"), 0)
    search = _Search(model, rows, layers, scale, options)
    train, look = search.answers(rows[~last] if apart else rows), search.answers(rows[last]) if apart else None
    essences = search.essences(rows)
    adam = torch.optim.Adam(list(search.delta.values()), lr=options.lr)
    for step in range(options.steps + 1):
        with torch.enable_grad():
            answer = search.loss_of(train)
        with torch.no_grad():
            loss = (search.loss_of(look) if apart else answer).item()
        if loss < options.stop or step == options.steps:
            break
        with torch.enable_grad():
            total = answer + options.kl_weight * search.divergence(essences) + search.decay()
            for delta, gradient in zip(
                search.delta.values(), torch.autograd.grad(total, list(search.delta.values())), strict=True
            ):
                delta.grad = gradient
        adam.step()
        search.clamp()
    values = {layer: (own, (search.scale[layer] * search.delta[layer]).detach()) for layer, own in layers.items()}
    return Shift(values, loss, step)


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


class _Search:
    """The deltas [neurons of the layer], in units of `scale`, and what the loss is made of."""

    def __init__(self, model: Model, rows: pd.DataFrame, layers: dict, scale: dict, options: ShiftOptions):
        self.model, self.layers, self.options = model, layers, options
        precision = torch.promote_types(model.down_projections[0].weight.dtype, torch.float32)
        self.scale = {i: scale[i][own].to(model.device, precision) for i, own in layers.items()}
        self.delta = {i: torch.zeros_like(found).requires_grad_() for i, found in self.scale.items()}
        self.size = {i: float(subject_keys(model, rows, i).norm(dim=1).mean()) for i in layers}

    def _values(self) -> dict:
        return {i: (own, self.scale[i] * self.delta[i]) for i, own in self.layers.items()}

    def answers(self, rows: pd.DataFrame) -> tuple:
        """A pass over the rows with its targets and their shares (every language counts alike, in it every prompt)."""
        languages = rows["language"]
        shares = (1 / languages.map(languages.value_counts()) / languages.nunique()).tolist()
        where, targets, share = answer_examples(self.model, rows, shares=shares)
        return self._pass(where, rows["position"].tolist()), targets, share

    def _pass(self, where: tuple, positions: list[int]) -> SuffixPass:
        return SuffixPass(self.model, *where, positions, fixed=min(self.layers))

    def _log_probabilities(self, passes: SuffixPass) -> torch.Tensor:
        def change(shape, rows, columns):
            return shifted(self.model, self._values(), shape, list(range(len(rows))), columns)

        return passes.logits(change).float().log_softmax(-1)

    def loss_of(self, answers: tuple) -> torch.Tensor:
        passes, targets, share = answers
        return -(self._log_probabilities(passes).gather(1, targets[:, None])[:, 0] * share).sum()

    def essences(self, rows: pd.DataFrame) -> tuple:
        """A pass over the bare subjects, and what the unedited model expects behind them: nothing is shifted yet."""
        model, (before, _) = self.model, self.model.specials
        subjects = list(dict.fromkeys(rows["subject"]))
        ids, mask = padded(
            [(*before, *model.pieces(s)) for s in subjects], model.tokenizer.pad_token_id, "right", model.device
        )
        columns = [subject_position(model, s, s)[0] for s in subjects]
        where = (ids, mask, torch.arange(len(ids), device=ids.device), torch.tensor(columns, device=ids.device))
        passes = self._pass(where, columns)
        with torch.no_grad():
            return passes, self._log_probabilities(passes)

    def divergence(self, essences: tuple) -> torch.Tensor:
        passes, old = essences
        found = self._log_probabilities(passes)
        return (found.exp() * (found - old)).sum(-1).mean()

    def decay(self) -> torch.Tensor:
        # The norm has no gradient at 0, where the search starts.
        sizes = [((self.scale[i] * d).square().sum() + 1e-30).sqrt() / self.size[i] ** 2 for i, d in self.delta.items()]
        return self.options.weight_decay * sum(sizes)

    @torch.no_grad()
    def clamp(self) -> None:
        for i, delta in self.delta.items():
            norm = float((self.scale[i] * delta).norm())
            if norm > self.options.clamp * self.size[i]:
                delta.mul_(self.options.clamp * self.size[i] / norm)
