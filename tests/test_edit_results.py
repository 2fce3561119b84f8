"""Shipped results of the editors: of the shipped weights and questions, whole, small, and what their code gives again."""

from functools import cache

import numpy as np
import pytest

from knlib.editing.registry import EDITORS
from knlib.models import load_model
from knlib.scoreboard.arms import NONE
from knlib.scoreboard.grid import MODELS, all_arms
from knlib.scoreboard.results import RESULTS, result_paths, stored_results
from knlib.scoreboard.run import BY, run_arm
from knlib.scoreboard.study import load_study

LEAST = {"atlas-gpt2": 200, "atlas-llama": 200}  # all test edits
AGAIN = ("memit", "grace")


@cache
def study(name):
    return load_study(load_model(name))


@cache
def results(name):
    return stored_results(study(name).model, all_arms(study(name)))


@pytest.mark.parametrize("name", MODELS)
def test_every_editor_has_a_result_of_these_questions(name):
    found = results(name)
    assert set(EDITORS) - {"langedit"} <= {result.provenance["editor"] for result in found.values()} and NONE in found
    for arm, result in found.items():
        wanted = all_arms(study(name))[arm]
        edits = result.provenance["edits"]
        assert result.provenance["questions"] == study(name).hash, arm
        assert edits == study(name).names[: len(edits)] and set(result.scores["edit"]) == set(edits), arm
        if wanted.mode == "simultaneous" and wanted.edits is None:
            assert len(edits) >= LEAST[name], arm
        assert not result.scores.duplicated(BY).any(), arm


def test_results_are_small_and_nothing_else_is_there():
    known = {path for name in MODELS for arm in results(name) for path in result_paths(arm, name)}
    assert known == {path for path in RESULTS.rglob("*") if path.is_file()}
    assert sum(path.stat().st_size for path in known) < 10e6


@pytest.mark.parametrize("arm", AGAIN)
def test_an_edit_scores_again_as_stored(arm):
    own = study("atlas-gpt2")
    scores, _ = run_arm(own, all_arms(own)[arm], own.names[:1])
    stored = results("atlas-gpt2")[arm].scores
    both = scores.merge(stored, on=BY, suffixes=("", "_stored"), validate="one_to_one")
    assert len(both) == len(scores) == (stored["edit"] == own.names[0]).sum()
    # A search follows rounding: a few of a hundred questions may come out otherwise on another machine.
    for score in ("tokens", "forced", "same"):
        gap = (both[score] - both[f"{score}_stored"]).abs()
        assert np.nanmean(gap) < 0.03, score
