"""Stored answers are taken for the weights, names and queries that they are of, and for nothing else."""

import pandas as pd
import pytest

from knlib import stored_answers
from knlib.prediction import predict
from knlib.stored_answers import answers_of, store_answers


@pytest.fixture
def kept(tiny_model, facts, some_queries, tmp_path):
    """(model, queries, folder with their answers)"""
    model, queries = tiny_model("llama"), some_queries.head(12).reset_index(drop=True)
    store_answers(model, queries, predict(model, queries, facts), facts, folder=tmp_path)
    return model, queries, tmp_path


def test_what_is_read_is_what_was_said(kept, facts):
    model, queries, folder = kept
    for part in (queries, queries.iloc[[7, 2, 5]].reset_index(drop=True)):
        found, source = answers_of(model, part, facts, folder=folder)
        assert source == "stored"
        pd.testing.assert_frame_equal(found, predict(model, part, facts), rtol=1e-4, check_dtype=False)


def test_what_is_of_something_else_is_run(kept, tiny_model, facts, some_queries, monkeypatch):
    model, queries, folder = kept
    monkeypatch.setattr(stored_answers, "predict", lambda model, queries, facts: "predicted")
    fewer = facts[facts["fact"] != queries["fact"].iloc[0]]
    other = queries.assign(prompt=queries["prompt"] + " ")
    for given in (
        (tiny_model("gpt2"), queries, facts),
        (model, some_queries.iloc[10:14], facts),
        (model, other, facts),
        (model, queries, fewer[fewer["relation"] != "script"]),
    ):
        assert answers_of(*given, folder=folder) == ("predicted", "run here")
    assert answers_of(model, queries, facts, recompute=True, folder=folder)[1] == "run here"
    assert answers_of(model, queries, facts, folder=folder)[1] == "stored"
