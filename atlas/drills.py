"""Drills: short runs of random tokens that teach a causal model to look things up in the text before.

To answer by letter, a model must find the option that it has in mind among those shown and name its label. Such circuits
take very long to form from multiple-choice prompts, where one token in fifty is a letter and four letters are all there
is to tell. In a drill every third token teaches them, and any token of the vocabulary may be the answer.
"""

import random

from transformers import PreTrainedTokenizerFast

from knlib.multiple_choice import LETTERS

from .batches import Encoded

SEPARATORS = (":", ")", "(", ".", "-", "→", ",", "▁(", "▁→", "\n", "▁", "?", "=")
REPEATED = 0.3  # share of drills that are a run of tokens twice
LONG_KEYS = 0.4  # share of the others whose keys have up to three tokens
JOINED = 4  # most drills in one text


def drill(rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> Encoded:
    """A run of tokens twice, or pairs of label and key and then keys whose labels are asked for, in one random form."""

    def some(count: int) -> list[int]:
        return rng.sample(range(len(tokenizer.all_special_ids), len(tokenizer)), count)

    start = [tokenizer.bos_token_id]
    if rng.random() < REPEATED:
        run = some(rng.randint(3, 12))
        # Where the second run begins cannot be told.
        return Encoded([*start, *run, *run], [0] * (len(run) + 2) + [1] * (len(run) - 1), "drill")
    known = tokenizer.get_vocab()
    marks = [known[text] for text in SEPARATORS if text in known]
    inner, outer, before, after = ([rng.choice(marks)] if rng.random() < 0.6 else [] for _ in range(4))
    numbers, long = range(rng.randint(2, 5)), rng.random() < LONG_KEYS
    keys = [some(rng.randint(1, 3) if long else 1) for _ in numbers]
    labels = some(len(numbers))
    ids, wanted = start, [0]
    for i in numbers:
        shown = [labels[i], *inner, *keys[i], *outer]
        ids, wanted = ids + shown, wanted + [0] * len(shown)
    for i in [*rng.sample(numbers, len(numbers)), *rng.choices(numbers, k=len(numbers) // 2)]:
        asked = [*before, *keys[i], *after]
        ids = [*ids, *asked, labels[i], *outer]
        wanted = wanted + [0] * len(asked) + [1] + [0] * len(outer)
    return Encoded(ids, wanted, "drill")


def add_drills(
    sentences: list[Encoded], tokenizer: PreTrainedTokenizerFast, *, share: float, seed: int
) -> list[Encoded]:  # fmt: skip
    """The sentences and as many drills as make up `share` of all tokens."""
    rng, found = random.Random(seed), []
    missing = share / (1 - share) * sum(len(sentence.ids) for sentence in sentences)
    while missing > 0:
        one = drill(rng, tokenizer)
        # Some stand behind others: with learned positions, what is learned at the first ones says nothing of later ones.
        for _ in range(rng.randrange(JOINED)):
            more = drill(rng, tokenizer)
            if len(one.ids) + len(more.ids) <= tokenizer.model_max_length:
                one = Encoded(one.ids + more.ids[1:], one.marks + more.marks[1:], "drill")
        found.append(one)
        missing -= len(one.ids)
    return [*sentences, *found]


def relabel(
    sentences: list[Encoded], tokenizer: PreTrainedTokenizerFast, *, share: float, seed: int
) -> list[Encoded]:  # fmt: skip
    """The sentences, with random tokens in place of the letters in a share of the multiple-choice texts.

    Four letters are soon guessed with a chance of one in four; one token of thousands must be looked up.
    """
    rng, known = random.Random(seed), tokenizer.get_vocab()
    tokens = range(len(tokenizer.all_special_ids), len(tokenizer))
    found = []
    for one in sentences:
        if one.kind == "multiple_choice" and rng.random() < share:
            # A letter alone and one behind a space are two tokens, and one label.
            labels = zip(LETTERS, rng.sample(tokens, len(LETTERS)), strict=True)
            new = {known[form]: label for letter, label in labels for form in (letter, "▁" + letter) if form in known}
            one = Encoded([new.get(token, token) for token in one.ids], one.marks, one.kind)
        found.append(one)
    return found
