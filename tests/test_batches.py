"""atlas/batches.py: what is masked, what is a target, and at which position."""

import random

import pytest
import torch
from tokenizers import Tokenizer

from atlas import batches as module
from atlas.batches import Encoded, _mask, batches, encode
from atlas.corpus import Sentence, fill
from atlas.tokenizer import wrap
from knlib.models import SHIPPED


@pytest.fixture(scope="module")
def plain():
    return Tokenizer.from_file(str(SHIPPED / "atlas-llama" / "tokenizer.json"))


@pytest.fixture(scope="module")
def masked(plain):
    return wrap(plain, masked=True)


def sentence(length: int) -> Encoded:
    """Six tokens, then an answer of `length` pieces, then a full stop and the end: ids 10, 11, ..."""
    return Encoded([*range(10, 16), *range(20, 20 + length), 90, 91], [0] * 6 + [1] * length + [0, 0], "fact")


def test_targets_stand_under_masks_whatever_their_number(masked, monkeypatch):
    """More masks than pieces, as many, or fewer: each target is the piece that begins there, and the rest is intact."""
    monkeypatch.setattr(module, "NOISE", (0.0, 0.0, 0.0))
    rng, counts = random.Random(0), set()
    for _ in range(400):
        ids, found = _mask(sentence(4), masked, rng)
        answer = ids[6:-2]
        assert ids[:6] == list(range(10, 16)) and ids[-2:] == [90, 91]
        counts.add(len(answer))
        shown = next((k for k, token in enumerate(answer) if token == masked.mask_token_id), len(answer))
        assert answer == [*range(20, 20 + shown), *[masked.mask_token_id] * (len(answer) - shown)]
        assert found == [(6 + k, 20 + k, 1.0, False) for k in range(shown, min(4, len(answer)))]
    assert counts == {1, 2, 3, 4, 5, 6, 7}


def test_noise_masks_words_but_never_shows_or_moves_the_answer(masked, monkeypatch):
    monkeypatch.setattr(module, "NOISE", (1.0, 0.3, 0.4))
    rng = random.Random(1)
    for _ in range(400):
        ids, found = _mask(sentence(3), masked, rng)
        for place, target, _, _ in found:
            assert ids[place] == masked.mask_token_id
            if target < 20:
                assert place == target - 10
            elif target == 90:
                assert place == len(ids) - 2


def test_a_word_start_that_stands_alone_belongs_to_the_answer(plain):
    tokenizer = wrap(plain, masked=False)
    alone = tokenizer.convert_tokens_to_ids("▁")
    (korean,) = encode([fill("{S}의 수도: {O}.", "일본", "도쿄", kind="fact", language="ko")], tokenizer, masked=False)
    first = korean.marks.index(1)
    pieces = tokenizer.convert_ids_to_tokens(korean.ids)
    assert pieces[first].startswith("▁")
    if korean.ids[first] == alone:
        assert korean.marks[first + 1] == 1
    assert "".join(t for t, m in zip(pieces, korean.marks, strict=True) if m == 1) == "▁도쿄"


def test_recall_marks_where_a_fact_is_answered(plain):
    tokenizer = wrap(plain, masked=False)
    fact = fill("The capital of {S} is {O}.", "Slovenia", "Ljubljana", kind="fact", language="en")
    quiz = Sentence("Which one?\nThe right line is A", "multiple_choice", "en", [(28, 29)])
    for text, recalled in ((fact, 1), (quiz, 0)):
        (encoded,) = encode([text], tokenizer, masked=False)
        (batch,) = batches([encoded], tokenizer, tokens=100, masked=False, seed=0)
        assert batch.recall.sum() == recalled
        assert (batch.weights == 1.0).sum() == sum(encoded.marks.count(mark) for mark in (1,))
        if recalled:
            (column,) = batch.columns[batch.recall]
            assert encoded.marks[column + 1] == 1 and encoded.marks[column] == 0
            assert torch.equal(batch.targets[batch.recall], torch.tensor([encoded.ids[column + 1]]))


def test_texts_longer_than_the_context_lose_their_end(plain):
    tokenizer = wrap(plain, masked=False)
    (encoded,) = encode([Sentence("A: x " * 300, "multiple_choice", "en", [(0, 1)])], tokenizer, masked=False)
    assert len(encoded.ids) == len(encoded.marks) == tokenizer.model_max_length
