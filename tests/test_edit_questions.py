"""Questions about edits: their numbers per edit and language, targets, and flags."""

import pandas as pd
import pytest
from edit_requests import REQUESTS

from knlib.edit_questions import COLUMNS, KINDS, edit_questions, shared_strings
from knlib.edit_set import load_edits


@pytest.fixture(scope="module")
def edits():
    return load_edits(languages=("en", "ja"), split="dev")


def test_every_edit_is_asked_alike_in_every_language(edits):
    table = edit_questions(edits, paraphrases=2, neighbours=1)
    assert list(table) == list(COLUMNS) and set(table["kind"]) == set(KINDS)
    counts = table.groupby(["kind", "edit", "language"]).size().groupby("kind").agg(["min", "max"])
    assert counts.loc["reliability"].tolist() == [1, 1] and counts.loc["generality"].tolist() == [2, 2]
    assert counts.loc[["same_relation", "same_subject", "unrelated"]].eq(1).all(axis=None)
    names = edits.requests["edit"].unique()
    assert list(table["edit"].unique()) == list(names)


def test_targets_are_new_answers_of_edited_facts_and_true_ones_of_neighbours(edits):
    table = edit_questions(edits)
    new = edits.requests.set_index(["edit", "language"])["new"]
    edited = table[table["kind"].isin(["reliability", "generality"])]
    assert (edited["target"] == new.loc[pd.MultiIndex.from_frame(edited[["edit", "language"]])].to_numpy()).all()
    assert (edited["old"] != edited["target"]).all() and edited["old"].notna().all()
    neighbours = table[table["kind"].isin(["same_subject", "same_relation", "unrelated"])]
    assert neighbours["old"].isna().all() and not set(neighbours["fact"]) & set(edited["fact"])
    assert all(name == names[0] for name, names in zip(table["target"], table["accepted"], strict=True))
    held_out = edited.loc[edited["kind"] == "generality", "template"]
    assert not set(held_out) & set(edits.requests["template"]) and not set(held_out) & set(edits.locating["template"])


def test_a_part_of_the_set_asks_the_same(edits):
    one = edits.requests["edit"].unique()[3]
    part = edits.__class__(*(getattr(edits, name)[getattr(edits, name)["edit"] == one]
                             for name in ("requests", "locating", "paraphrases", "locality", "portability")))  # fmt: skip
    whole = edit_questions(edits)
    assert edit_questions(part).equals(whole[whole["edit"] == one].reset_index(drop=True))
    other = edit_questions(edits, seed=1)
    assert len(other) == len(whole) and not other.equals(whole)


def test_shared_strings_are_those_of_another_language():
    found = shared_strings(REQUESTS)
    assert not found["shared"].any()
    same = REQUESTS.assign(new=["Mota", "mota", "x", "y"])
    assert shared_strings(same)["shared"].tolist() == [True, True, False, False]
