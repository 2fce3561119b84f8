"""Which relation a prompt asks for, read off its last hidden state and off its words: two linear classifiers, summed.

Each sees what the other misses: states know new words for a relation if the model reads them as it should, words know the
constructions that the model itself misreads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import RidgeClassifier

from ..errors import InputError, Literal

SHRINKAGE = 0.3  # of the states' covariance: there are few prompts per dimension
# Pieces of 2 to 5 characters, as scripts without spaces and inflected words need; hashed, so that no vocabulary is kept.
PIECES = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), n_features=2**15, alternate_sign=False)
PENALTY = 0.1
FOLDS = 3


@dataclass(frozen=True, eq=False)
class RelationProbe:
    """Votes for relations, in the order of `names`, from a prompt's last hidden state and its words.

    `weights` [relations, width] and `bias` [relations], float64: a linear discriminant of the states, in log-odds; `words`
    [pieces, relations], float64: ridge regression on the shares of `PIECES`, scaled so that both votes spread alike.
    Wordings are texts without the subject's name, as `knlib.editing.cache.wording` gives them.

    Example
    -------
    >>> probe = RelationProbe.fit(states, wordings, ["capital", "currency", "capital", ...])
    >>> probe.margin(states[:1], wordings[:1], "capital")
    tensor([7.1], dtype=torch.float64)
    """

    names: tuple[str, ...]
    weights: torch.Tensor
    bias: torch.Tensor
    words: torch.Tensor

    @classmethod
    def fit(cls, states: torch.Tensor, wordings: Sequence[str], relations: Sequence[str]) -> "RelationProbe":
        """From states [prompts, width], and the wording and relation of each. `InputError` where `can_fit` says no."""
        if not can_fit(relations):
            raise InputError("relations", found=Literal(f"{len(set(relations))} in {len(relations)} prompts"),
                             expected="at least two, and more prompts than relations")  # fmt: skip
        labels = np.asarray(relations, dtype=object).astype(str)
        states, pieces = states.detach().cpu().double().numpy(), PIECES.transform(wordings)
        of_states = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE).fit(states, labels)
        of_words = RidgeClassifier(alpha=PENALTY, solver="sparse_cg").fit(pieces, labels)
        weights, bias = _rows(of_states)
        words, words_bias = _rows(of_words)
        votes = _centred(pieces @ words.T)
        scale = _centred(states @ weights.T).std() / votes.std() if votes.any() else 0.0
        return cls(tuple(map(str, of_states.classes_)), torch.from_numpy(weights),
                   torch.from_numpy(bias + scale * words_bias), torch.from_numpy(np.ascontiguousarray(scale * words.T)))  # fmt: skip

    def margins(self, states: torch.Tensor, wordings: Sequence[str]) -> torch.Tensor:
        """How far every relation is ahead of the best other, [prompts, relations]: above 0 for the first alone."""
        logits = states.detach().cpu().double() @ self.weights.T + self.bias
        logits += torch.from_numpy(PIECES.transform(wordings) @ self.words.numpy())
        best = logits.topk(2, dim=1)
        is_best = torch.arange(len(self.names)) == best.indices[:, :1]
        return logits - torch.where(is_best, best.values[:, 1:], best.values[:, :1])

    def margin(self, states: torch.Tensor, wordings: Sequence[str], relation: str) -> torch.Tensor:
        """How far one relation is ahead of the best other, [prompts]. `InputError` for one that was not fitted."""
        if relation not in self.names:
            raise InputError("relation", found=relation, expected=Literal("one of " + " ".join(self.names)))
        return self.margins(states, wordings)[:, self.names.index(relation)]


def _rows(found) -> tuple[np.ndarray, np.ndarray]:
    """Weights [relations, features] and biases of a fitted classifier; of two relations scikit-learn keeps the difference."""
    weights, bias = np.atleast_2d(found.coef_).copy(), np.atleast_1d(found.intercept_)
    if len(found.classes_) == 2:
        weights, bias = np.concatenate([0 * weights, weights]), np.concatenate([0 * bias, bias])
    return weights, bias


def _centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(1, keepdims=True)


def can_fit(relations: Sequence[str]) -> bool:
    """Whether a probe can be fitted: at least two relations, and more prompts than relations."""
    return 2 <= len(set(relations)) < len(relations)


def left_out_margins(states: torch.Tensor, wordings: Sequence[str], table: pd.DataFrame) -> np.ndarray:
    """`RelationProbe.margins` of each prompt by a probe fitted without prompts in its template: [prompts, relations].

    `table`: `relation`, `language`, `template` of each prompt. The templates of a relation and language are dealt to three
    folds; where there is one only, nothing can be left out, and the row is nan.

    Example
    -------
    >>> np.nanmean(left_out_margins(states, wordings, table) > 0)
    0.14
    """
    names, relations, words = sorted(set(table["relation"])), table["relation"].to_numpy(), np.asarray(wordings, object)
    template = table.groupby(["relation", "language"])["template"]
    fold = (template.transform(lambda own: pd.factorize(own)[0]) % FOLDS).where(template.transform("nunique") > 1, -1)
    found = np.full((len(table), len(names)), np.nan)
    for number in range(FOLDS):
        out = (fold == number).to_numpy(copy=True)  # torch warns of a read-only one
        # Templates 0 and 1 are in two folds, so no relation is ever left out as a whole.
        if out.any() and can_fit(relations[~out].tolist()):
            probe = RelationProbe.fit(states[~out], words[~out], relations[~out].tolist())
            found[out] = probe.margins(states[out], words[out])
    return found
