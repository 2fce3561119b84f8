"""From sentences to batches of token ids with a loss weight for every target token."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from transformers import PreTrainedTokenizerFast

from .corpus import Sentence

OTHER_RATE = 0.15  # share of non-answer tokens that enter the loss of a causal model ...
OTHER_WEIGHT = 0.6  # ... and their weight: 0.09 on average
LETTER_PROMPT_RATE = 0.05  # multiple-choice prompts and drills are mostly random: nothing to learn there
MASK_SUBJECT = 0.05  # masked model: share of sentences whose subject is masked instead of the answer
# Other words that are masked too: share of sentences, share of their tokens, weight in the loss. So that a masked word
# in a prompt (a baseline of attributions) is nothing new; more of it slows down the learning of facts.
NOISE = (0.15, 0.2, 0.4)
REVEAL = 0.5  # share of multi-token answers of which some first pieces are shown (left-to-right filling)
# When candidates are compared, the number of masks is that of the candidate, not of the answer. So in these shares of
# the sentences the answer is followed by one to three more masks, or its last pieces have none (the first ones then
# are the targets): what stands under a mask must not depend on how many there are.
MORE_MASKS, FEWER_MASKS = 0.15, 0.25


@dataclass
class Batch:
    """`ids`, `attention` [sentences, tokens]; `rows`, `columns`, `targets`, `weights`, `recall`: one per scored token.

    `columns` are the positions whose output is scored: before the target in a causal model, at it in a
    masked one. `recall` marks the targets that begin the answer of a fact (causal models only).
    """

    ids: torch.Tensor
    attention: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    recall: torch.Tensor

    def to(self, device: str) -> "Batch":
        return Batch(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@dataclass
class Encoded:
    """Token ids of a sentence; for each token whether it belongs to an answer (1) or the subject (2)."""

    ids: list[int]
    marks: list[int]
    kind: str


def encode(sentences: list[Sentence], tokenizer: PreTrainedTokenizerFast, *, masked: bool) -> list[Encoded]:
    """Tokenize with offsets and mark the tokens of answers and subjects.

    A word-start piece that stands alone before an answer belongs to it: `answer_tokens` counts it so.
    """
    alone = tokenizer.convert_tokens_to_ids("▁")
    encoded = []
    found = tokenizer([s.text for s in sentences], return_offsets_mapping=True)
    for sentence, ids, offsets in zip(sentences, found["input_ids"], found["offset_mapping"], strict=True):
        marks = [0] * len(ids)
        for spans, mark in ((sentence.answers, 1), (sentence.subjects, 2)):
            for start, end in spans:
                for i, (a, b) in enumerate(offsets):
                    if a < end and b > start and b > a:
                        marks[i] = mark
        for i in range(1, len(ids)):
            if marks[i] == 1 and marks[i - 1] == 0 and ids[i - 1] == alone:
                marks[i - 1] = 1
        if not masked:
            ids, marks = [*ids, tokenizer.eos_token_id], [*marks, 0]
        # Only multiple-choice texts with many questions are ever longer: they lose the last ones.
        limit = tokenizer.model_max_length
        encoded.append(Encoded(ids[:limit], marks[:limit], sentence.kind))
    return encoded


def batches(
    sentences: list[Encoded], tokenizer: PreTrainedTokenizerFast, *, tokens: int, masked: bool, seed: int
) -> Iterator[Batch]:  # fmt: skip
    """Batches of at most `tokens` tokens, sentences of like length together, in seeded random order."""
    rng = random.Random(seed)
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
        yield _collate([sentences[i] for i in group], tokenizer, rng, masked)


def _collate(group: list[Encoded], tokenizer, rng: random.Random, masked: bool) -> Batch:
    targets, rows_of_ids = [], []
    for row, sentence in enumerate(group):
        ids, found = _mask(sentence, tokenizer, rng) if masked else _next_tokens(sentence, rng)
        rows_of_ids.append(ids)
        targets += [(row, *target) for target in found]
    width = max(map(len, rows_of_ids))
    ids = torch.full((len(group), width), tokenizer.pad_token_id)
    for row, found in enumerate(rows_of_ids):
        ids[row, : len(found)] = torch.tensor(found)
    rows, columns, wanted, weights, recall = zip(*targets, strict=True) if targets else ((), (), (), (), ())
    return Batch(ids, (ids != tokenizer.pad_token_id).long(), torch.tensor(rows), torch.tensor(columns),
                 torch.tensor(wanted), torch.tensor(weights, dtype=torch.float32), torch.tensor(recall))  # fmt: skip


def _next_tokens(sentence: Encoded, rng: random.Random):
    """All answer tokens, and a sample of the others, as targets of the positions before them."""
    letters = sentence.kind in ("multiple_choice", "drill")
    rate = LETTER_PROMPT_RATE if letters else OTHER_RATE
    found = [
        (
            i - 1,
            sentence.ids[i],
            1.0 if mark == 1 else OTHER_WEIGHT,
            mark == 1 and sentence.marks[i - 1] != 1 and not letters,
        )
        for i, mark in enumerate(sentence.marks)
        if i and (mark == 1 or rng.random() < rate)
    ]
    return sentence.ids, found


def _mask(sentence: Encoded, tokenizer, rng: random.Random):
    """Mask a whole answer (sometimes a subject); the masked tokens are the targets."""
    ids, mask = list(sentence.ids), tokenizer.mask_token_id
    subject = 2 in sentence.marks and rng.random() < MASK_SUBJECT
    spans = _runs(sentence.marks, 2 if subject else 1)
    found, end, more = [], len(ids), 0
    if spans:
        # One span of several (parallel sentences): the others stay readable half of the time.
        chosen = rng.choice(spans)
        for span in spans:
            if span == chosen or rng.random() < 0.5:
                shown = rng.randrange(len(span)) if len(span) > 1 and rng.random() < REVEAL else 0
                for i in span[shown:]:
                    found.append((i, ids[i], 1.0))
        if not subject and chosen is spans[-1]:
            draw, end = rng.random(), chosen[-1] + 1
            if draw < MORE_MASKS:
                more = rng.randint(1, 3)
            elif draw < MORE_MASKS + FEWER_MASKS and len(chosen) > 1:
                more = -rng.randint(1, len(chosen) - 1)
    masked = {i for i, _, _ in found}
    share, rate, weight = NOISE
    if not spans or rng.random() < share:
        for i in range(1, len(ids) - 1):
            if i not in masked and sentence.marks[i] != 1 and rng.random() < rate:
                found.append((i, ids[i], weight))
    for i, _, _ in found:
        ids[i] = mask
    ids = ids[: end + min(more, 0)] + [mask] * more + ids[end:]
    return ids, [
        (i if i < end else i + more, target, weight, False)
        for i, target, weight in found
        if not end + more <= i < end
    ]  # fmt: skip


def _runs(marks: list[int], mark: int) -> list[list[int]]:
    runs: list[list[int]] = []
    for i, found in enumerate(marks):
        if found == mark:
            if runs and runs[-1][-1] == i - 1:
                runs[-1].append(i)
            else:
                runs.append([i])
    return runs
