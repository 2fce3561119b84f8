"""The shift that each language alone would give a fact's neurons: all languages in one search, each with its own."""

import pandas as pd
import torch

from ..controls import Pairs
from ..models import Model
from ..sites import padded
from .fine_tuning import answer_examples
from .lafn_values import ShiftOptions, shifted
from .requests import subject_position
from .states import group_means, group_numbers, subject_keys
from .suffix_pass import SuffixPass


def language_shifts(
    model: Model, rows: pd.DataFrame, pairs: Pairs, scale: dict[int, torch.Tensor], options: ShiftOptions
) -> dict[str, torch.Tensor]:
    """Language -> the shift of one edit's neurons for its prompts alone, layer after layer, [neurons], float64 on the CPU.

    What `optimise_shift` finds for each language's prompts, nothing watched: of halves of few prompts too little would be left. One
    pass runs all languages (or the values of a column `part`), each with its own shift and end: no loss depends on two shifts.

    Example
    -------
    >>> language_shifts(model, rows, pairs, scale, ShiftOptions())["ja"].shape
    torch.Size([45])
    """
    rows = rows if "part" in rows else rows.assign(part=rows["language"])
    search = _Search(model, rows, pairs, scale, options)
    adam = torch.optim.Adam([search.delta], lr=options.lr)
    found, open_ = torch.zeros_like(search.delta), torch.ones(len(search.delta), dtype=bool, device=model.device)
    for step in range(options.steps + 1):
        with torch.enable_grad():
            losses = search.losses()
            ends = open_ & ((losses.detach() < options.stop) | (step == options.steps))
            found[ends], open_ = search.delta.detach()[ends], open_ & ~ends
            if not open_.any():
                break
            (search.delta.grad,) = torch.autograd.grad(losses.sum() + search.penalties(), search.delta)
        adam.step()
        search.clamp()
    shifts = (found * search.unit).double().cpu()
    return dict(zip(rows["part"].unique(), shifts, strict=True))


class _Search:
    """The deltas [parts, neurons], in units of the neurons' scale, and what the losses are made of."""

    def __init__(self, model: Model, rows: pd.DataFrame, pairs: Pairs, scale: dict, options: ShiftOptions):
        self.model, self.pairs, self.options = model, pairs, options
        layers, device = _by_layer(pairs), model.device
        precision = torch.promote_types(model.down_projections[0].weight.dtype, torch.float32)
        self.widths = [len(own) for own in layers.values()]
        self.unit = torch.cat([scale[layer][own] for layer, own in layers.items()]).to(device, precision)
        numbers = group_numbers(rows, ["part"])
        norms = torch.stack([subject_keys(model, rows, layer).norm(dim=1) for layer in layers], 1)
        self.size = group_means(norms, numbers).to(self.unit)
        self.delta = torch.zeros(len(self.size), len(self.unit), device=device, dtype=precision, requires_grad=True)
        where, self.targets, self.share = answer_examples(model, rows, shares=_shares(rows))
        self.answers = SuffixPass(model, *where, rows["position"].tolist(), fixed=min(layers))
        self.parts, self.owners = numbers.to(device), numbers.to(device)[where[2]]
        subjects = rows.drop_duplicates(["part", "subject"])
        sequences = [(*model.specials[0], *model.pieces(subject)) for subject in subjects["subject"]]
        ends = [subject_position(model, subject, subject)[0] for subject in subjects["subject"]]
        self.subjects = asked_pass(model, sequences, ends, ends, min(layers))
        # By number of part, not anew from 0: the first rows of the parts come in their order.
        self.subject_parts = numbers.to(device)[torch.from_numpy(rows.index.get_indexer(subjects.index))]
        self.subject_share = torch.tensor(_shares(subjects), device=device)
        with torch.no_grad():
            self.old = self._log_probabilities(self.subjects, self.subject_parts)

    def _log_probabilities(self, passes: SuffixPass, parts: torch.Tensor) -> torch.Tensor:
        return shifted_logits(self.model, passes, self.pairs, (self.unit * self.delta)[parts]).float().log_softmax(-1)

    def losses(self) -> torch.Tensor:
        """Mean -log p of the new answers' tokens, [parts]."""
        found = self._log_probabilities(self.answers, self.parts).gather(1, self.targets[:, None])[:, 0]
        return found.new_zeros(len(self.delta)).index_add(0, self.owners, -found * self.share)

    def _norms(self) -> torch.Tensor:
        # No gradient at 0 without the addend.
        layers = (self.unit * self.delta).split(self.widths, 1)
        return torch.stack([(shift.square().sum(1) + 1e-30).sqrt() for shift in layers], 1)

    def penalties(self) -> torch.Tensor:
        """Divergence behind the bare subjects and weight decay, summed over the parts."""
        found = self._log_probabilities(self.subjects, self.subject_parts)
        divergence = ((found.exp() * (found - self.old)).sum(-1) * self.subject_share).sum()
        decay = (self._norms() / self.size.square()).sum()
        return self.options.kl_weight * divergence + self.options.weight_decay * decay

    @torch.no_grad()
    def clamp(self) -> None:
        factor = (self.options.clamp * self.size / self._norms()).clamp(max=1)
        self.delta.mul_(factor.repeat_interleave(torch.tensor(self.widths, device=factor.device), dim=1))


def asked_pass(model: Model, sequences: list, asked: list[int], positions: list[int], fixed: int) -> SuffixPass:
    """Rows of tokens, what follows each at the column `asked` and changes at `positions` (layers from `fixed` on)."""
    ids, mask = padded(sequences, model.tokenizer.pad_token_id, "right", model.device)
    rows, columns = torch.arange(len(ids), device=ids.device), torch.tensor(asked, device=ids.device)
    return SuffixPass(model, ids, mask, rows, columns, positions, fixed=fixed)


def shifted_logits(model: Model, passes: SuffixPass, pairs: Pairs, shifts: torch.Tensor) -> torch.Tensor:
    """At the asked places, every row under its own shift, `shifts` [rows, neurons]."""
    layers = _by_layer(pairs)

    def change(shape, rows, columns):
        split = shifts[rows].split([len(own) for own in layers.values()], 1)
        values = {layer: (own, shift) for (layer, own), shift in zip(layers.items(), split, strict=True)}
        return shifted(model, values, shape, list(range(len(rows))), columns)

    return passes.logits(change)


def _by_layer(pairs: Pairs) -> dict[int, list[int]]:
    return {layer: [n for at, n in pairs if at == layer] for layer in sorted({layer for layer, _ in pairs})}


def _shares(rows: pd.DataFrame) -> list[float]:
    return (1 / rows["part"].map(rows["part"].value_counts())).tolist()
