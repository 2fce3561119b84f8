"""What a model answers: teacher-forced scores of answers, and the best of typed candidates.

An answer's score is the sum of its tokens' log-probabilities. In a causal model each token is predicted from the
prompt and the tokens before it. In a masked model the answer is k masks filled from left to right: to predict token i,
tokens before it are shown and the others stay masked.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from .errors import InputError, Literal
from .facts import candidates
from .models import Model

TOKENS_PER_BATCH = 4096
# The continuation of a prompt is tokenized behind this many of its last characters.
TAIL = 16


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
    return _score(model, [(p, answer_tokens(model, p, s, a), s, x) for p, s, a, x in table])


def _score(model: Model, items: list[tuple]) -> np.ndarray:
    """Scores of (prompt, answer tokens, space, suffix) items."""
    helper, scores = AnswerRows(model), np.zeros(len(items))
    rows, columns, targets, owners = [], [], [], []
    for number, (prompt, tokens, space, suffix) in enumerate(items):
        if not tokens:
            raise InputError(f"query {number}, answer", found=Literal("no token"), expected="text")
        places = helper.positions(prompt, len(tokens))
        if model.kind == "causal":  # one row holds all sites
            rows.append(helper.row(prompt, tokens[:-1], 0, space, suffix))
            columns.append(list(places))
            targets.append(tokens)
            owners.append(number)
        else:  # one row a site
            for i, token in enumerate(tokens):
                rows.append(helper.row(prompt, tokens[:i], len(tokens) - i, space, suffix))
                columns.append([places[i]])
                targets.append((token,))
                owners.append(number)

    def use(i, found):
        scores[owners[i]] += found[np.arange(len(targets[i])), list(targets[i])].sum()

    helper.log_probabilities(rows, columns, use)
    return scores


def predict(
    model: Model, queries: pd.DataFrame, facts: pd.DataFrame, *, chunk: int = 512, progress: bool = False
) -> pd.DataFrame:
    """The best of all objects of the relation, for every query, and the right answer's probability.

    Exact top-1 of the teacher-forced sums over all candidates (see `score_answers`), without scoring them all: a sum is
    never larger than its first term, so candidates are completed best-first until none left can win.

    Returns one row per query: `query`, `prediction`, `correct`, `p_answer` (product of the answer tokens'
    probabilities under the full vocabulary), `p_prediction`.
    """
    names = {key: candidates(facts, *key) for key in set(zip(queries["relation"], queries["language"], strict=True))}
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


def _predict_chunk(model: Model, queries: pd.DataFrame, names: dict) -> pd.DataFrame:
    rows = list(queries.itertuples())
    options = [names[row.relation, row.language] for row in rows]
    tokens = [
        [answer_tokens(model, r.prompt, r.space, name) for name in found]
        for r, found in zip(rows, options, strict=True)
    ]
    bounds = _first_token_scores(model, rows, tokens)
    final = [np.array([len(t) == 1 for t in found]) for found in tokens]
    gold = [found.index(row.answer) for row, found in zip(rows, options, strict=True)]
    waiting = set(range(len(rows)))
    wanted = {(i, gold[i]) for i in waiting if not final[i][gold[i]]}
    while waiting:
        batch = sorted(wanted)
        scores = _score(model, [(rows[i].prompt, tokens[i][j], rows[i].space, rows[i].suffix) for i, j in batch])
        for (i, j), score in zip(batch, scores, strict=True):
            bounds[i][j], final[i][j] = score, True
        wanted = set()
        for i in list(waiting):
            best = int(np.argmax(bounds[i]))
            if final[i][best]:
                waiting.discard(i)
            else:
                wanted.add((i, best))
    best = [int(np.argmax(b)) for b in bounds]
    return pd.DataFrame({
        "query": [row.query for row in rows],
        "prediction": [found[j] for found, j in zip(options, best, strict=True)],
        "correct": [j == g for j, g in zip(best, gold, strict=True)],
        "p_answer": np.exp([b[g] for b, g in zip(bounds, gold, strict=True)]),
        "p_prediction": np.exp([b[j] for b, j in zip(bounds, best, strict=True)]),
    })  # fmt: skip


def _first_token_scores(model: Model, rows: list, tokens: list[list[tuple]]) -> list[np.ndarray]:
    """Log-probability of every candidate's first token: its score, or a bound on it."""
    helper = AnswerRows(model)
    ids, columns, owners = [], [], []
    for number, row in enumerate(rows):
        lengths = sorted({len(t) for t in tokens[number]}) if model.kind == "masked" else [1]
        for masks in lengths:
            ids.append(helper.row(row.prompt, (), masks, row.space, row.suffix))
            columns.append([helper.positions(row.prompt, 1)[0]])
            owners.append((number, masks))
    bounds = [np.full(len(found), -np.inf) for found in tokens]

    def use(i, found):
        number, masks = owners[i]
        for j, candidate in enumerate(tokens[number]):
            if model.kind == "causal" or len(candidate) == masks:
                bounds[number][j] = found[0, candidate[0]]

    helper.log_probabilities(ids, columns, use)
    return bounds
