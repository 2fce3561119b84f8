"""Scores of edits: hand-made answers, an unedited model, and what a change of the network does to them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from edit_requests import REQUESTS
from tiny_models import tiny_model

from knlib.edit_effects import SCORES, Answers, ask, effects, says
from knlib.edit_questions import COLUMNS
from knlib.editing.neurons import suppress

KINDS = ("reliability", "generality", "same_subject", "portability")


def questions() -> pd.DataFrame:
    """Each request under four kinds; neighbours ask for the old answer."""
    parts = []
    for kind in KINDS:
        target = REQUESTS["answer" if kind == "same_subject" else "new"]
        old = None if kind == "same_subject" else REQUESTS["answer"]
        parts.append(REQUESTS.assign(kind=kind, target=target, old=old, template=kind,
                                     accepted=[(name,) for name in target]))  # fmt: skip
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def test_without_an_edit_neighbours_are_the_same():
    model, table = tiny_model("gpt2"), questions()
    answers = ask(model, table)
    found = effects(table, answers, answers)
    assert list(found) == ["edit", "kind", "language", *SCORES] and len(found) == len(table)
    neighbours = found[found["kind"] == "same_subject"]
    assert (neighbours["same"] == 1).all() and (neighbours["kl"] == 0).all()
    assert found.loc[found["kind"] != "same_subject", ["same", "kl", "kept"]].isna().all(axis=None)
    asked = found["kind"].isin(["reliability", "generality"])
    assert found.loc[asked, ["generated", "margin"]].notna().all(axis=None)
    assert found.loc[~asked, ["generated", "margin"]].isna().all(axis=None)


def test_a_changed_model_gives_other_answers_and_a_divergence():
    model, table = tiny_model("llama"), questions()
    before = ask(model, table)
    with suppress(model, [(0, n) for n in range(model.n_neurons)]):
        after = ask(model, table)
    found = effects(table, before, after)
    assert (found.loc[found["kind"] == "same_subject", "kl"] > 0).all()
    assert not np.allclose(before.log_p, after.log_p)


def test_scores_of_answers_by_hand():
    table = questions().iloc[[0, 8]].reset_index(drop=True)  # a request and a neighbour
    uniform, sure = np.log(np.full(4, 0.25)), np.log([0.7, 0.1, 0.1, 0.1])
    before = Answers([(1, 2), (3,)], [np.array([False, True]), np.array([True])], np.array([-5.0, -1.0]),
                     np.array([-2.0, np.nan]), {1: uniform}, {0: "x"})  # fmt: skip
    after = replace(before, tokens=[(4, 2), (1,)], right=[np.array([True, True]), np.array([False])],
                    log_p=np.array([-0.5, -3.0]), first={1: sure}, generated={0: f" {table['target'][0]}. More"})  # fmt: skip
    one, two = effects(table, before, after).to_dict("records")
    assert (one["tokens"], one["forced"], one["margin"], one["generated"]) == (1, 1, 1.5, 1)
    assert (two["tokens"], two["same"], two["kept"]) == (0, 0, 0)
    assert two["kl"] == pytest.approx(0.25 * np.log(0.25 / 0.7) + 0.75 * np.log(0.25 / 0.1))
    assert effects(table, before, before)["tokens"].tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "names", "suffix", "right"),
    [(" Paris.", ("Paris",), ".", True), (" París. Es", ("Paris", "París"), ".", True), (" Parisian.", ("Paris",), ".", False),
     (" Washington D.C. It is", ("Washington D.C.",), ".", True), ("東京です。", ("東京",), "です。", True), ("Paris", ("Paris",), ".", True),
     ("Paris\nmore", ("Paris",), "", True), ("Paris more", ("Paris",), "", False), ("", ("Paris",), ".", False)],
)  # fmt: skip
def test_what_counts_as_said(text, names, suffix, right):
    assert says(text, names, suffix) is right
