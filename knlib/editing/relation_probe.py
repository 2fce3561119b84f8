"""Which relation a prompt asks for, read off its last hidden state: a linear discriminant over relations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ..errors import InputError, Literal

SHRINKAGE = 0.3  # of the states' covariance: there are few prompts per dimension
FOLDS = 3


@dataclass(frozen=True, eq=False)
class RelationProbe:
    """A linear discriminant: `weights` [relations, width] and `bias` [relations], float64, in the order of `names`.

    Example
    -------
    >>> probe = RelationProbe.fit(states, ["capital", "currency", "capital", ...])
    >>> probe.margin(states[:1], "capital")
    tensor([7.1], dtype=torch.float64)
    """

    names: tuple[str, ...]
    weights: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def fit(cls, states: torch.Tensor, relations: Sequence[str]) -> "RelationProbe":
        """From states [prompts, width] and the relation of each. `InputError` where `can_fit` says no."""
        if not can_fit(relations):
            raise InputError("relations", found=Literal(f"{len(set(relations))} in {len(relations)} prompts"),
                             expected="at least two, and more prompts than relations")  # fmt: skip
        found = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
        found.fit(states.detach().cpu().double().numpy(), np.asarray(relations, dtype=object).astype(str))
        weights, bias = torch.from_numpy(found.coef_), torch.from_numpy(np.atleast_1d(found.intercept_))
        if len(found.classes_) == 2:  # scikit-learn keeps the difference of the two
            weights, bias = torch.cat([0 * weights, weights]), torch.cat([0 * bias, bias])
        return cls(tuple(map(str, found.classes_)), weights.contiguous(), bias.contiguous())

    def margins(self, states: torch.Tensor) -> torch.Tensor:
        """Log-odds of every relation against the best other, [prompts, relations]: above 0 for the most probable."""
        logits = states.detach().cpu().double() @ self.weights.T + self.bias
        best = logits.topk(2, dim=1)
        is_best = torch.arange(len(self.names)) == best.indices[:, :1]
        return logits - torch.where(is_best, best.values[:, 1:], best.values[:, :1])

    def margin(self, states: torch.Tensor, relation: str) -> torch.Tensor:
        """Log-odds of one relation against the best other, [prompts]. `InputError` for one that was not fitted."""
        if relation not in self.names:
            raise InputError("relation", found=relation, expected=Literal("one of " + " ".join(self.names)))
        return self.margins(states)[:, self.names.index(relation)]


def can_fit(relations: Sequence[str]) -> bool:
    """Whether a probe can be fitted: at least two relations, and more prompts than relations."""
    return 2 <= len(set(relations)) < len(relations)


def left_out_margins(states: torch.Tensor, table: pd.DataFrame) -> np.ndarray:
    """`RelationProbe.margins` of each prompt by a probe fitted without prompts in its template: [prompts, relations].

    `table`: `relation`, `language`, `template` of each prompt. The templates of a relation and language are dealt to three
    folds; where there is one only, nothing can be left out, and the row is nan.

    Example
    -------
    >>> np.nanmean(left_out_margins(states, table) > 0)
    0.14
    """
    names = sorted(set(table["relation"]))
    template = table.groupby(["relation", "language"])["template"]
    fold = (template.transform(lambda own: pd.factorize(own)[0]) % FOLDS).where(template.transform("nunique") > 1, -1)
    found = np.full((len(table), len(names)), np.nan)
    for number in range(FOLDS):
        out = (fold == number).to_numpy(copy=True)  # torch warns of a read-only one
        # Templates 0 and 1 are in two folds, so no relation is ever left out as a whole.
        if out.any() and can_fit(table["relation"][~out].tolist()):
            found[out] = RelationProbe.fit(states[~out], table["relation"][~out].tolist()).margins(states[out])
    return found
