"""What an edit did: reliability, generality, locality and perplexity (spec, 5.4), from one pass over all that is asked."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..errors import InputError, Literal
from ..models import Model
from ..perplexity import text_rows
from ..prediction import AnswerRows, answer_rows, answer_tokens
from ..sites import padded

PARTS = ("reliability", "generality", "portability")
# A call of the network costs as much as this many tokens more in it (measured for the Atlas models on one core).
CALL = 65


@dataclass(frozen=True, eq=False)
class Answers:
    """What the model answered when it was asked.

    `log_p`, `margin` [own queries]: of the answer aimed at, the log-probability (sum over its tokens), and by how much it is
    ahead of any other token (the least over its tokens: above 0 where it is top-1). `neighbours` [neighbours, vocabulary]:
    log-probabilities of the first answer token. `losses` [tokens of the text]: -log p.
    """

    log_p: np.ndarray
    margin: np.ndarray
    neighbours: torch.Tensor
    losses: np.ndarray


class EditTest:
    """All that is asked about the edit of one fact, as rows of tokens that run together.

    `own`: queries of the fact, with `part` (`reliability`, `generality`, or `portability`) and `aim`: the answer that an
    erasure should remove and an update should bring. `neighbours`: queries of other facts, with `near` (same relation).
    `sentences`: the text whose perplexity is read; of a masked model one token of each, drawn by `seed`: its pseudo-perplexity.

    Raises `InputError` for other parts, and for tables without a row.

    Example
    -------
    >>> test = EditTest(model, own, neighbours, sentences)
    >>> before = test.ask()
    >>> with erase(model, [(3, 5)]):
    ...     after = test.ask()
    >>> test.compare(before, after, edit="erase")["reliability"]
    """

    def __init__(
        self, model: Model, own: pd.DataFrame, neighbours: pd.DataFrame, sentences: list[str], *, seed: int = 0
    ):
        for name, table in (("own", own), ("neighbours", neighbours), ("sentences", sentences)):
            if not len(table):
                raise InputError(name, found=Literal("no row"), expected="at least one")
        if not set(own["part"]) <= set(PARTS):
            raise InputError("own", found=sorted(set(own["part"])), expected=Literal("parts of " + " ".join(PARTS)))
        self.model, self.parts, self.near = model, own["part"].to_numpy(), neighbours["near"].to_numpy(bool)
        places = _own_places(model, own) + _neighbour_places(model, neighbours)
        self.batches = _batches(model, places + _text_places(model, sentences, seed))

    @torch.no_grad()
    def ask(self) -> Answers:
        """The answers of the model as it is now."""
        log_p, margin = np.zeros(len(self.parts)), np.full(len(self.parts), np.inf)
        neighbours: list = [None] * len(self.near)
        losses = []
        for batch in self.batches:
            logits = self.model.logits_at(*batch.where).float()
            of_own, of_text = logits[batch.own], logits[batch.text]
            best, ids = of_own.topk(2)
            answer = _pick(of_own, batch.own_targets)
            other = torch.where(ids[:, 0] == batch.own_targets, best[:, 1], best[:, 0])
            np.add.at(log_p, batch.own_items, (answer - of_own.logsumexp(-1)).double().cpu().numpy())
            np.minimum.at(margin, batch.own_items, (answer - other).double().cpu().numpy())
            for item, row in zip(batch.near_items, logits[batch.near].log_softmax(-1), strict=True):
                neighbours[item] = row
            losses.append((of_text.logsumexp(-1) - _pick(of_text, batch.text_targets)).double().cpu().numpy())
        return Answers(log_p, margin, torch.stack(neighbours), np.concatenate(losses))

    def compare(self, before: Answers, after: Answers, *, edit: str) -> dict[str, float]:
        """The metrics of an edit (`erase` or `update`) from the answers before and after it.

        - `reliability`, `generality`, `portability`: share of the part's queries where the answer aimed at is no longer
          (erase) or is now (update) top-1 at every token; each with `_margin`, above 0 where that is so for the mean query, and
          `_dlogp`, the mean change of that answer's log-probability. NaN for a part without queries.
        - `locality`: share of neighbours with the same top-1 as before; `locality_near`, `locality_far`: of the same relation,
          of others; `kl`: mean divergence of what they answer, before from after, in nats.
        - `avg`: mean of reliability, generality, locality.
        - `loss_before`, `loss_after`: mean -log p of the text's tokens; `dppl`: change of its perplexity, as a share.
        """
        if edit not in ("erase", "update"):
            raise InputError("edit", found=edit, expected=Literal("erase or update"))
        found, sign = {}, 1.0 if edit == "update" else -1.0
        for part in PARTS:
            rows = self.parts == part
            some = rows.any()
            margin = sign * after.margin[rows]
            found[part] = float((margin > 0).mean()) if some else np.nan
            found[f"{part}_margin"] = float(margin.mean()) if some else np.nan
            found[f"{part}_dlogp"] = float((after.log_p - before.log_p)[rows].mean()) if some else np.nan
        same = (before.neighbours.argmax(-1) == after.neighbours.argmax(-1)).cpu().numpy()
        divergence = (before.neighbours.exp() * (before.neighbours - after.neighbours)).sum(-1).mean()
        found |= {"locality": float(same.mean())}
        for name, rows in (("near", self.near), ("far", ~self.near)):
            found[f"locality_{name}"] = float(same[rows].mean()) if rows.any() else np.nan
        found["kl"] = max(0.0, float(divergence))
        found["avg"] = (found["reliability"] + found["generality"] + found["locality"]) / 3
        found["loss_before"], found["loss_after"] = float(before.losses.mean()), float(after.losses.mean())
        found["dppl"] = float(np.expm1(found["loss_after"] - found["loss_before"]))
        return found


@dataclass(frozen=True)
class _Place:
    """Where a token is predicted: its row, the column, the token; `kind` (own, near, text) and the item it belongs to."""

    ids: tuple[int, ...]
    column: int
    target: int
    kind: str
    item: int


def _own_places(model: Model, own: pd.DataFrame) -> list[_Place]:
    items = [(q.prompt, answer_tokens(model, q.prompt, q.space, q.aim), q.space, q.suffix) for q in own.itertuples()]
    return [
        _Place(tuple(row), column, target, "own", item)
        for row, columns, targets, item in zip(*answer_rows(model, items), strict=True)
        for column, target in zip(columns, targets, strict=True)
    ]


def _neighbour_places(model: Model, neighbours: pd.DataFrame) -> list[_Place]:
    helper, found = AnswerRows(model), []
    for item, q in enumerate(neighbours.itertuples()):
        tokens = answer_tokens(model, q.prompt, q.space, q.answer)
        row = helper.row(q.prompt, (), len(tokens), q.space, q.suffix)
        found.append(_Place(tuple(row), helper.positions(q.prompt, 1)[0], tokens[0], "near", item))
    return found


def _text_places(model: Model, sentences: list[str], seed: int) -> list[_Place]:
    return [
        _Place(tuple(ids), column, target, "text", 0)
        for ids, columns, targets in text_rows(model, sentences, seed=seed)
        for column, target in zip(columns, targets, strict=True)
    ]


class _Batch:
    """Rows that run together, and which positions of them are asked for what."""

    def __init__(self, model: Model, rows: list[tuple[int, ...]], places: list[_Place]):
        number, device = {row: i for i, row in enumerate(rows)}, model.device
        ids, mask = padded(rows, model.tokenizer.pad_token_id, "right", device)
        at = torch.tensor([(number[p.ids], p.column) for p in places], device=device).T
        self.where = (ids, mask, at[0], at[1])
        self.own, self.own_items, self.own_targets = self._chosen(places, "own", device)
        self.near, self.near_items, _ = self._chosen(places, "near", device)
        self.text, _, self.text_targets = self._chosen(places, "text", device)

    @staticmethod
    def _chosen(places, kind, device):
        numbers = [i for i, place in enumerate(places) if place.kind == kind]
        targets = torch.tensor([places[i].target for i in numbers], dtype=torch.long, device=device)
        items = np.array([places[i].item for i in numbers], dtype=int)
        return torch.tensor(numbers, dtype=torch.long, device=device), items, targets


def _pick(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, targets[:, None])[:, 0]


def _batches(model: Model, places: list[_Place]) -> list[_Batch]:
    """Rows of like length together, so many at a time that padding and calls together cost least."""
    rows = {place.ids: place.ids for place in places}
    if model.kind == "causal":
        # A row that begins another need not run: what comes after a token does not change what it says.
        kept: list[tuple[int, ...]] = []
        for ids in sorted(rows, reverse=True):
            if not kept or kept[-1][: len(ids)] != ids:
                kept.append(ids)
            rows[ids] = kept[-1]
        places = [_Place(rows[p.ids], p.column, p.target, p.kind, p.item) for p in places]
    distinct = sorted(set(rows.values()), key=lambda ids: (len(ids), ids))
    cost, cut = [0.0], [0]
    for end in range(1, len(distinct) + 1):
        width = len(distinct[end - 1])
        costs = [cost[start] + CALL + width * (end - start) for start in range(end)]
        cut.append(int(np.argmin(costs)))
        cost.append(costs[cut[-1]])
    batches, end = [], len(distinct)
    while end:
        own = distinct[cut[end] : end]
        batches.append(_Batch(model, own, [p for p in places if p.ids in set(own)]))
        end = cut[end]
    return batches
