"""From sentences to batches of token ids with a loss weight for every target token."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from .corpus import Sentence

OTHER_RATE = 0.25  # share of non-answer tokens that enter the loss of a causal model ...
OTHER_WEIGHT = 0.4  # ... and their weight: 0.1 on average
LETTER_PROMPT_RATE = 0.05  # multiple-choice prompts are mostly random options: nothing to learn there
MASK_SUBJECT = 0.12  # masked model: share of sentences whose subject is masked instead of the answer
# Other tokens that are masked too: share of sentences, share of their tokens, weight in the loss. A masked model starts
# with dense masking, or it stays for long at word frequencies: nothing but attention can tell it what a mask hides.
NOISE = (0.4, 0.2, 0.4)
DENSE_NOISE = (1.0, 0.35, 1.0)
DENSE_EPOCHS = 4
REVEAL = 0.5  # share of multi-token answers of which some first pieces are shown (left-to-right filling)
EXTRA_MASKS = 0.15  # share of answers followed by more masks than pieces, as when candidates are compared


@dataclass
class Batch:
    """`ids`, `attention` [sentences, tokens]; `rows`, `columns`, `targets`, `weights`: one per scored token.

    `columns` are the positions whose output is scored: before the target in a causal model, at it in a
    masked one.
    """

    ids: torch.Tensor
    attention: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


@dataclass
class Encoded:
    """Token ids of a sentence; for each token whether it belongs to an answer (1) or the subject (2)."""

    ids: list[int]
    marks: list[int]
    kind: str


def encode(sentences: list[Sentence], tokenizer: PreTrainedTokenizerFast, *, masked: bool) -> list[Encoded]:
    """Tokenize with offsets and mark the tokens of answers and subjects."""
    encoded = []
    found = tokenizer([s.text for s in sentences], return_offsets_mapping=True)
    for sentence, ids, offsets in zip(sentences, found["input_ids"], found["offset_mapping"], strict=True):
        marks = [0] * len(ids)
        for spans, mark in ((sentence.answers, 1), (sentence.subjects, 2)):
            for start, end in spans:
                for i, (a, b) in enumerate(offsets):
                    if a < end and b > start and b > a:
                        marks[i] = mark
        if not masked:
            ids, marks = [*ids, tokenizer.eos_token_id], [*marks, 0]
        encoded.append(Encoded(ids, marks, sentence.kind))
    return encoded


def batches(
    sentences: list[Encoded], tokenizer: PreTrainedTokenizerFast, *, tokens: int, masked: bool, seed: int,
    epoch: int = DENSE_EPOCHS,
) -> Iterator[Batch]:  # fmt: skip
    """Batches of at most `tokens` tokens, sentences of like length together, in seeded random order."""
    rng, noise = random.Random(seed), DENSE_NOISE if epoch < DENSE_EPOCHS else NOISE
    order = sorted(range(len(sentences)), key=lambda i: (len(sentences[i].ids), rng.random()))
    groups, group = [], []
    for i in order:
        if group and (len(group) + 1) * len(sentences[i].ids) > tokens:
            groups.append(group)
            group = []
        group.append(i)
    groups.append(group)
    rng.shuffle(groups)
    for group in groups:
        yield _collate([sentences[i] for i in group], tokenizer, rng, noise if masked else None)


def _collate(group: list[Encoded], tokenizer, rng: random.Random, noise: tuple | None) -> Batch:
    targets, rows_of_ids = [], []
    for row, sentence in enumerate(group):
        ids, found = _mask(sentence, tokenizer, rng, noise) if noise else _next_tokens(sentence, rng)
        rows_of_ids.append(ids)
        targets += [(row, column, target, weight) for column, target, weight in found]
    width = max(map(len, rows_of_ids))
    ids = torch.full((len(group), width), tokenizer.pad_token_id)
    for row, found in enumerate(rows_of_ids):
        ids[row, : len(found)] = torch.tensor(found)
    rows, columns, wanted, weights = zip(*targets, strict=True) if targets else ((), (), (), ())
    return Batch(ids, (ids != tokenizer.pad_token_id).long(), torch.tensor(rows), torch.tensor(columns),
                 torch.tensor(wanted), torch.tensor(weights, dtype=torch.float32))  # fmt: skip


def _next_tokens(sentence: Encoded, rng: random.Random):
    """All answer tokens, and a sample of the others, as targets of the positions before them."""
    rate = LETTER_PROMPT_RATE if sentence.kind == "multiple_choice" else OTHER_RATE
    found = [
        (i - 1, sentence.ids[i], 1.0 if mark == 1 else OTHER_WEIGHT)
        for i, mark in enumerate(sentence.marks)
        if i and (mark == 1 or rng.random() < rate)
    ]
    return sentence.ids, found


def _mask(sentence: Encoded, tokenizer, rng: random.Random, noise: tuple):
    """Mask a whole answer (sometimes a subject); the masked tokens are the targets."""
    ids, mask = list(sentence.ids), tokenizer.mask_token_id
    subject = 2 in sentence.marks and rng.random() < MASK_SUBJECT
    spans = _runs(sentence.marks, 2 if subject else 1)
    found, extra = [], []
    if spans:
        # One span of several (parallel sentences): the others stay readable half of the time.
        chosen = rng.choice(spans)
        for span in spans:
            if span == chosen or rng.random() < 0.5:
                shown = rng.randrange(len(span)) if len(span) > 1 and rng.random() < REVEAL else 0
                for i in span[shown:]:
                    found.append((i, ids[i], 1.0))
        if not subject and chosen is spans[-1] and rng.random() < EXTRA_MASKS:
            extra = [mask] * rng.randint(1, 3)
    masked = {i for i, _, _ in found}
    share, rate, weight = noise
    if not spans or rng.random() < share:
        for i in range(1, len(ids) - 1):
            if i not in masked and sentence.marks[i] != 1 and rng.random() < rate:
                found.append((i, ids[i], weight))
    for i, _, _ in found:
        ids[i] = mask
    if extra:
        end = spans[-1][-1] + 1
        found = [(i if i < end else i + len(extra), target, weight) for i, target, weight in found]
        ids = ids[:end] + extra + ids[end:]
    return ids, found


def _runs(marks: list[int], mark: int) -> list[list[int]]:
    runs: list[list[int]] = []
    for i, found in enumerate(marks):
        if found == mark:
            if runs and runs[-1][-1] == i - 1:
                runs[-1].append(i)
            else:
                runs.append([i])
    return runs
