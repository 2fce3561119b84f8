"""atlas/drills.py: every answer asked for in a drill can be looked up in it."""

import random
from collections import Counter

import pytest

from atlas.batches import Encoded
from atlas.drills import SEPARATORS, add_drills, drill, relabel
from knlib.models import load_model


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("atlas-llama").tokenizer


@pytest.fixture(scope="module")
def drills(tokenizer):
    rng = random.Random(0)
    return [drill(rng, tokenizer) for _ in range(400)]


def runs_twice(ids):
    half = (len(ids) - 1) // 2
    return len(ids) % 2 == 1 and ids[1 : half + 1] == ids[half + 1 :]


def test_answers_of_pairs_are_labels_shown_before_their_key(drills, tokenizer):
    separators = {tokenizer.convert_tokens_to_ids(text) for text in SEPARATORS}
    asked = 0
    for one in drills:
        if runs_twice(one.ids):
            continue
        first = one.marks.index(1)
        for place in (i for i, mark in enumerate(one.marks) if mark):
            label = one.ids[place]
            assert label in one.ids[:first]  # it was shown
            key = next(t for t in reversed(one.ids[:place]) if t not in separators)
            shown = one.ids[: one.ids.index(key)]
            # The last label before the key's last token is the one asked for.
            labels = {one.ids[i] for i, mark in enumerate(one.marks) if mark}
            assert next(t for t in reversed(shown) if t in labels or t == one.ids[1]) in (label, one.ids[1])
            asked += 1
    assert asked > 500


def test_answers_of_runs_are_the_second_run_but_its_first_token(drills):
    runs = [one for one in drills if runs_twice(one.ids)]
    assert 0.2 < len(runs) / len(drills) < 0.4
    for one in runs:
        half = (len(one.ids) - 1) // 2
        assert one.marks == [0] * (half + 2) + [1] * (half - 1)


def test_no_special_token_is_drilled(drills, tokenizer):
    special = set(tokenizer.all_special_ids)
    assert all(not special & set(one.ids[1:]) and one.ids[0] == tokenizer.bos_token_id for one in drills)
    assert {len(one.ids) == len(one.marks) and one.kind == "drill" for one in drills} == {True}
    assert Counter(token for one in drills for token in one.ids[1:]).most_common(1)[0][1] < len(drills)


def test_drills_make_up_their_share_of_the_tokens(drills, tokenizer):
    texts = drills[:100]
    found = add_drills(texts, tokenizer, share=0.75, seed=3)
    added = sum(len(one.ids) for one in found[100:])
    assert added / (added + sum(len(one.ids) for one in texts)) == pytest.approx(0.75, abs=0.01)
    assert found == add_drills(texts, tokenizer, share=0.75, seed=3) != add_drills(texts, tokenizer, share=0.75, seed=4)


def test_relabelled_texts_have_one_random_token_in_place_of_each_letter(tokenizer):
    known = tokenizer.get_vocab()
    text = "A: Rome\nB: Paris\nC: Bern\nD: Quito\n→ Paris: B\n→ Quito: D"
    ids = tokenizer(text)["input_ids"]
    letters = {known[form]: letter for letter in "ABCD" for form in (letter, "▁" + letter) if form in known}
    texts = [Encoded(ids, [0] * len(ids), "multiple_choice")] * 50 + [Encoded(ids, [0] * len(ids), "fact")]
    found = relabel(texts, tokenizer, share=1.0, seed=1)
    assert found[-1] == texts[-1] and found == relabel(texts, tokenizer, share=1.0, seed=1)
    for one in found[:-1]:
        labels = {}
        for old, new in zip(ids, one.ids, strict=True):
            if old in letters:
                labels.setdefault(letters[old], set()).add(new)
            else:
                assert new == old
        assert all(len(own) == 1 for own in labels.values()) and len(set.union(*labels.values())) == 4
    assert len({tuple(one.ids) for one in found[:-1]}) == 50
    assert 10 < sum(one.ids != ids for one in relabel(texts, tokenizer, share=0.5, seed=2)) < 40
