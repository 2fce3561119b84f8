"""What a model answers: teacher-forced scores of answers, and the best of typed candidates.

An answer's score is the sum of its tokens' log-probabilities. In a causal model each token is predicted from the
prompt and the tokens before it. In a masked model the answer is k masks filled from left to right: to predict token i,
tokens before it are shown and the others stay masked.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from .errors import InputError, Literal
from .facts import candidates
from .models import Model
from .multiple_choice import LETTERS

TOKENS_PER_BATCH = 4096
# An answer is tokenized behind this many of the last characters of its prompt: enough to see whether a token would
# straddle the border, few enough that the result can be reused for other subjects.
TAIL = 4


def answer_tokens(model: Model, prompt: str, space: str, answer: str) -> tuple[int, ...]:
    """Token ids of an answer where it continues a prompt.

    Example
    -------
    >>> model = load_model("atlas-gpt2")
    >>> model.tokenizer.convert_ids_to_tokens(answer_tokens(model, "Capital: ", "", "Paris"))
    ['▁Paris']
    """
    tail = prompt[-TAIL:] if prompt else ""
    return model.continuation(tail, space + answer)


def candidate_tokens(model: Model, prompt: str, space: str, names: tuple[str, ...]) -> list[tuple[int, ...]]:
    """`answer_tokens` of each name; remembered, for prompts often end alike.

    Example
    -------
    >>> candidate_tokens(load_model("atlas-gpt2"), "Capital: ", "", ("Paris", "Rome"))
    """
    return _behind(model, prompt[-TAIL:], space, names)


@lru_cache(maxsize=500)
def _behind(model: Model, tail: str, space: str, names: tuple[str, ...]) -> list[tuple[int, ...]]:
    return model.continuations(tail, [space + name for name in names])


class AnswerRows:
    """Makes token rows of prompts and (parts of) answers, and runs them in batches of like length."""

    def __init__(self, model: Model):
        self.model = model
        self.before, self.after = map(list, model.specials)

    def row(self, prompt: str, shown: tuple[int, ...], masks: int, space: str, suffix: str) -> list[int]:
        """Ids of prompt + shown answer tokens (+ masks + suffix in a masked model)."""
        ids = self.before + list(self.model.pieces(prompt)) + list(shown)
        if self.model.kind == "masked":
            ids += [self.model.tokenizer.mask_token_id] * masks
            ids += list(self.model.continuation("a", suffix) if suffix else ()) + self.after
        if len(ids) > self.model.context:
            raise InputError("prompt", found=Literal(f"{len(ids)} tokens"),
                             expected=f"at most {self.model.context}, the context of {self.model.name}")  # fmt: skip
        if len(ids) == len(shown):
            raise InputError("prompt", found=prompt, expected="text before the answer")
        return ids

    def positions(self, prompt: str, tokens: int) -> range:
        """Columns whose output predicts each of an answer's tokens, when all of it is in the row."""
        start = len(self.before) + len(self.model.pieces(prompt))
        return range(start - 1, start - 1 + tokens) if self.model.kind == "causal" else range(start, start + tokens)

    @torch.no_grad()
    def log_probabilities(self, rows: list[list[int]], columns: list[list[int]], use, progress=None):
        """For each row, `use(row number, log-probabilities [its columns, vocabulary])`; batched by length."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        start = 0
        while start < len(order):
            end, width = start, 0
            while end < len(order) and max(width, len(rows[order[end]])) * (end - start + 1) <= TOKENS_PER_BATCH:
                width = max(width, len(rows[order[end]]))
                end += 1
            end = max(end, start + 1)
            self._batch(order[start:end], rows, columns, use)
            if progress is not None:
                progress.update(end - start)
            start = end

    def _batch(self, numbers, rows, columns, use):
        width, device = max(len(rows[i]) for i in numbers), self.model.device
        ids = torch.full((len(numbers), width), self.model.tokenizer.pad_token_id)
        attention = torch.zeros_like(ids)
        for k, i in enumerate(numbers):
            ids[k, : len(rows[i])] = torch.tensor(rows[i])
            attention[k, : len(rows[i])] = 1
        at_rows = torch.tensor([k for k, i in enumerate(numbers) for _ in columns[i]])
        at_columns = torch.tensor([column for i in numbers for column in columns[i]])
        logits = self.model.logits_at(ids.to(device), attention.to(device), at_rows.to(device), at_columns.to(device))
        found = logits.float().log_softmax(-1).cpu().numpy()
        done = 0
        for i in numbers:
            use(i, found[done : done + len(columns[i])])
            done += len(columns[i])


def score_answers(
    model: Model, prompts: Iterable[str], spaces: Iterable[str], answers: Iterable[str], suffixes: Iterable[str]
) -> np.ndarray:
    """Sum of log-probabilities of each answer behind its prompt, natural logarithm, shape [queries].

    Example
    -------
    >>> score_answers(load_model("atlas-llama"), ["France — capital:"], [" "], ["Paris"], ["."]).round(0)
    array([-0.])
    """
    table = list(zip(prompts, spaces, answers, suffixes, strict=True))
    rows = answer_rows(model, [(p, answer_tokens(model, p, s, a), s, x) for p, s, a, x in table])
    ids, columns, targets, owners = rows
    scores = np.zeros(len(table))

    def use(i, found):
        scores[owners[i]] += found[np.arange(len(targets[i])), list(targets[i])].sum()

    AnswerRows(model).log_probabilities(ids, columns, use)
    return scores


def answer_rows(model: Model, items: list[tuple]) -> tuple[list, list, list, list]:
    """Token rows, columns asked for, target tokens and item numbers of (prompt, answer tokens, space, suffix) items.

    A causal model's row holds all tokens of an answer, a masked model needs one row for each.
    """
    helper = AnswerRows(model)
    rows, columns, targets, owners = [], [], [], []
    for number, (prompt, tokens, space, suffix) in enumerate(items):
        if not tokens:
            raise InputError(f"query {number}, answer", found=Literal("no token"), expected="text")
        places = helper.positions(prompt, len(tokens))
        if model.kind == "causal":
            rows.append(helper.row(prompt, tokens[:-1], 0, space, suffix))
            columns.append(list(places))
            targets.append(tokens)
            owners.append(number)
        else:
            for i, token in enumerate(tokens):
                rows.append(helper.row(prompt, tokens[:i], len(tokens) - i, space, suffix))
                columns.append([places[i]])
                targets.append((token,))
                owners.append(number)
    return rows, columns, targets, owners


def predict(
    model: Model, queries: pd.DataFrame, facts: pd.DataFrame, *, chunk: int = 512, progress: bool = False
) -> pd.DataFrame:
    """The best of all objects of the relation, for every query, and the right answer's probability.

    Exact top-1 of the teacher-forced sums over all candidates (see `score_answers`), without scoring them all: a sum is
    never larger than its first term, so candidates are completed best-first until none left can win.

    Returns one row per query: `query`, `prediction`, `correct` (it is the answer or one of its `aliases`, as other
    objects of a many-valued fact are), `p_answer` (product of the answer tokens'
    probabilities under the full vocabulary), `p_prediction`.
    """
    names = {
        key: tuple(candidates(facts, *key)) for key in set(zip(queries["relation"], queries["language"], strict=True))
    }
    parts = []
    bar = tqdm(total=len(queries), unit="query", disable=not progress, desc=model.name)
    for start in range(0, len(queries), chunk):
        part = queries.iloc[start : start + chunk]
        parts.append(_predict_chunk(model, part, names))
        bar.update(len(part))
    bar.close()
    if not parts:
        return pd.DataFrame(columns=["query", "prediction", "correct", "p_answer", "p_prediction"])
    return pd.concat(parts, ignore_index=True)


def predict_letters(model: Model, prompts: pd.DataFrame) -> pd.DataFrame:
    """The probability of each letter as the next token of every prompt, and the letter chosen.

    Returns one row per prompt: `query`, the four letters' probabilities under the full vocabulary, `prediction` (the
    most probable of the four), `correct`.
    """
    helper, rows = AnswerRows(model), list(prompts.itertuples())
    ids = [helper.row(row.prompt, (), 1, row.space, "") for row in rows]
    columns = [[helper.positions(row.prompt, 1)[0]] for row in rows]
    letters = [[answer_tokens(model, row.prompt, row.space, letter)[0] for letter in LETTERS] for row in rows]
    found = np.zeros((len(rows), len(LETTERS)))

    def use(i, log_probabilities):
        found[i] = np.exp(log_probabilities[0, letters[i]])

    helper.log_probabilities(ids, columns, use)
    table = pd.DataFrame(found, columns=list(LETTERS))
    table.insert(0, "query", prompts["query"].to_numpy())
    table["prediction"] = np.array(LETTERS)[found.argmax(1)]
    table["correct"] = table["prediction"].to_numpy() == prompts["answer"].to_numpy()
    return table


def _predict_chunk(model: Model, queries: pd.DataFrame, names: dict) -> pd.DataFrame:
    rows = list(queries.itertuples())
    searches = [_Search(model, row, names[row.relation, row.language]) for row in rows]
    helper, waiting, width = AnswerRows(model), searches, 1
    while waiting:
        steps = [(search, *step) for search in waiting for step in search.next_steps(width)]
        ids = [helper.row(s.row.prompt, shown, masks, s.row.space, s.row.suffix) for s, shown, masks, _ in steps]
        places = [helper.positions(s.row.prompt, len(shown) + 1) for s, shown, _, _ in steps]
        columns = [list(place)[first:] for place, (_, _, _, first) in zip(places, steps, strict=True)]

        def use(i, found, steps=steps):
            search, shown, masks, first = steps[i]
            for depth, log_probabilities in enumerate(found, first):
                search.learn(shown[:depth], masks + len(shown), log_probabilities)

        helper.log_probabilities(ids, columns, use)
        # Where the first few are not enough (a model that is sure of something else), hundreds may be needed.
        waiting, width = [search for search in waiting if not search.done], 2 * width
    best = [search.best for search in searches]
    return pd.DataFrame({
        "query": [row.query for row in rows],
        "prediction": [search.names[j] for search, j in zip(searches, best, strict=True)],
        "correct": [search.is_right(j) for search, j in zip(searches, best, strict=True)],
        "p_answer": np.exp([search.scores[search.gold] for search in searches]),
        "p_prediction": np.exp([search.scores[j] for search, j in zip(searches, best, strict=True)]),
    })  # fmt: skip


@lru_cache(maxsize=500)
def _tree(model: Model, tail: str, space: str, names: tuple[str, ...]) -> tuple[list, np.ndarray, dict]:
    """Candidates' tokens behind a prompt that ends in `tail`, how many each has, and which begin with the same ones.

    The keys of the last are token prefixes, in a masked model behind the number of tokens.
    """
    tokens = _behind(model, tail, space, names)
    followers: dict[tuple, list[int]] = {}
    for j, own in enumerate(tokens):
        for depth in range(len(own)):
            key = own[:depth] if model.kind == "causal" else (len(own), *own[:depth])
            followers.setdefault(key, []).append(j)
    return tokens, np.array([len(own) for own in tokens]), followers


class _Search:
    """Best-first search for a query's best candidate: what is known of every candidate's score so far.

    `scores` holds the sum over the first `depths` tokens: a bound on the full sum, which only falls. One row of the model
    tells the next token of every candidate that begins with the same tokens (in a masked model: and has as many).
    """

    def __init__(self, model: Model, row, names: tuple[str, ...]):
        self.row, self.names, self.causal = row, names, model.kind == "causal"
        self.tokens, self.lengths, self.followers = _tree(model, row.prompt[-TAIL:], row.space, names)
        self.gold = names.index(row.answer)
        self.scores, self.depths = np.zeros(len(names)), np.zeros(len(names), int)

    @property
    def best(self) -> int:
        return int(np.argmax(self.scores))

    def is_right(self, j: int) -> bool:
        return j == self.gold or self.names[j] in getattr(self.row, "aliases", ())

    @property
    def done(self) -> bool:
        return all(self.depths[j] == self.lengths[j] for j in (self.best, self.gold))

    def next_steps(self, width: int) -> list[tuple]:
        """Rows wanted now: `(tokens shown, masks, first depth asked for)`, for the `width` best candidates and the gold."""
        if not self.depths.any():
            if self.causal:  # the right answer's row tells what may follow the prompt, too
                return [(self.tokens[self.gold][:-1], 1, 0)]
            return [((), masks, 0) for masks in sorted(set(self.lengths.tolist()))]
        steps = set()
        # Whoever may still win: with a bound above the best score that is complete.
        least = self.scores[self.depths == self.lengths].max(initial=-np.inf)
        order = np.argsort(-self.scores, kind="stable")[:width]
        for j in {*order[self.scores[order] >= least].tolist(), self.gold}:
            depth, length = int(self.depths[j]), int(self.lengths[j])
            if depth < length:  # a causal row tells all depths of its candidate at once, a masked one the next
                shown = self.tokens[j][: length - 1 if self.causal else depth]
                steps.add((shown, 1 if self.causal else length - depth, depth))
        return sorted(steps)

    def learn(self, shown: tuple[int, ...], length: int, log_probabilities: np.ndarray) -> None:
        """Take in the next token's log-probabilities behind `shown`, in a masked model among `length` masks."""
        depth = len(shown)
        for j in self.followers.get(shown if self.causal else (length, *shown), ()):
            if self.depths[j] == depth:
                self.scores[j] += log_probabilities[self.tokens[j][depth]]
                self.depths[j] += 1
