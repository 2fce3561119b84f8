"""The scoreboard's machinery on two languages of the dev edits: modes, resume, results that are of something else."""

import json

import pandas as pd
import pytest

from knlib.edit_set import LOCALITY
from knlib.editing import EDITORS, find_change
from knlib.editing.lafn_values import ShiftOptions
from knlib.errors import InputError
from knlib.models import load_model
from knlib.scoreboard import gather, grid, live, plots
from knlib.scoreboard.arms import MODES, NONE, Arm, arms
from knlib.scoreboard.estimates import RANDOM, is_seed
from knlib.scoreboard.results import configuration, load_result, result_paths
from knlib.scoreboard.run import BY, run_arm, unedited
from knlib.scoreboard.study import balanced, load_study
from knlib.view import View

LANGUAGES = ("en", "de")
QUICK = {"layer": 4, "steps": 2}


@pytest.fixture(scope="module")
def study():
    return load_study(load_model("atlas-gpt2"), split="dev", edits=4, languages=LANGUAGES)


@pytest.fixture
def one_study(study, monkeypatch):
    """The grid's study is the small one, with two arms."""
    monkeypatch.setattr(grid, "study_of", lambda name: study)
    known = {name: Arm(name, "ft_m", QUICK | {"lr": lr}) for name, lr in (("slow", 1e-4), ("fast", 1e-2))}
    monkeypatch.setattr(grid, "arms", lambda model: known)
    monkeypatch.setattr(grid, "CHUNK", 2)
    return known


def test_arms_name_registered_editors_and_options_that_they_have(study):
    known = arms(study.model)
    assert {arm.mode for arm in known.values()} == set(MODES)
    for name, arm in known.items():
        assert arm.id == name
        given = study.inputs(arm, study.requests(study.names[:1]))
        EDITORS[arm.editor].check(given)
    assert {"kn", "cas", "lafn", "ft_l", "ft_m", "rome", "memit", "alphaedit", "grace", "ike"} <= set(known)


def test_every_beginning_of_the_edits_holds_all_relations():
    table = pd.DataFrame({"edit": [f"{r}{i}" for r, n in (("a", 8), ("b", 4)) for i in range(n)],
                          "relation": ["a"] * 8 + ["b"] * 4})  # fmt: skip
    order = balanced(table)
    assert sorted(order) == sorted(table["edit"])
    for size in (3, 6, 9, 12):
        assert sum(name.startswith("a") for name in order[:size]) == 2 * size / 3


def test_texts_hold_no_edited_fact(study):
    for prompt in study.edits.requests["prompt"]:
        assert not any(text.startswith(prompt) for text in [*study.texts, *study.drift_texts])
    assert not set(study.texts) & set(study.drift_texts)


def test_gates_learn_from_other_subjects_in_trained_constructions(study):
    subjects = set(study.questions.loc[study.questions["kind"] == "reliability", "subject"])
    assert not set(study.examples["subject"]) & subjects
    assert study.examples["template"].str.fullmatch(r".*/train\d").all()
    assert study.examples.groupby(["relation", "language"])["template"].nunique().min() == 9


def test_modes_ask_what_they_are_for(study):
    arm, names = Arm("x", "ft_m", QUICK), study.names[:2]
    scores, costs = run_arm(study, arm, names)
    assert set(scores["edited_in"]) == {"all"} and set(scores["edit"]) == set(names)
    assert not scores.duplicated(BY).any() and "ceiling" not in set(scores["kind"])
    assert len(costs) == 2 and (costs["touched"] > 0).all()
    single, _ = run_arm(study, Arm("x", "ft_m", QUICK, mode="single"), names[:1])
    assert set(zip(single["edited_in"], single["language"], strict=True)) == {
        (a, b) for a in LANGUAGES for b in LANGUAGES
    }
    held, _ = run_arm(study, Arm("x", "ft_m", QUICK, mode="held_out"), names[:1])
    assert set(zip(held["edited_in"], held["language"], strict=True)) == {("-en", "en"), ("-de", "de")}
    sequence, costs = run_arm(study, Arm("x", "ft_m", QUICK, mode="sequence"), names)
    assert set(sequence["length"]) == {1} and costs["d_loss"].notna().all()
    assert "ceiling" in set(unedited(study, names[:1])["kind"])


def test_a_killed_run_goes_on_and_ends_alike(study, one_study, tmp_path, monkeypatch):
    lines, parts = [], tmp_path / "parts"
    grid.run_grid([], ["m"], edits=4, folder=tmp_path / "whole", parts=parts, log=lines.append)
    assert sum("edits (" in line for line in lines) == 6 and lines[-1].endswith("done")
    whole = load_result(one_study["fast"], study.model, study.hash, tmp_path / "whole")
    assert whole.provenance["edits"] == study.names and set(whole.costs) == {"1"}
    for path in list(parts.rglob("*.json"))[::2]:  # what a kill would leave out
        path.unlink()
    grid.run_grid([], ["m"], edits=4, folder=tmp_path / "again", parts=parts, log=lines.append)
    for name in ("slow", "fast", "none"):
        files = [
            result_paths(name, study.model.name, tmp_path / folder)[0].read_bytes() for folder in ("whole", "again")
        ]
        assert files[0] == files[1]
    lines.clear()
    monkeypatch.setattr(grid, "run_chunk", None)
    grid.run_grid([], ["m"], edits=4, folder=tmp_path / "whole", parts=parts, log=lines.append)
    assert all(line.endswith("stored") for line in lines)


def test_a_stored_result_goes_on_without_its_parts(study, one_study, tmp_path, monkeypatch):
    ran, run_arm = [], grid.run_arm
    monkeypatch.setattr(grid, "run_arm", lambda study, arm, names: ran.append(names) or run_arm(study, arm, names))
    for edits, folder, parts in ((4, "whole", "a"), (2, "shipped", "b"), (4, "shipped", "c")):
        grid.run_grid(
            ["slow"], ["m"], edits=edits, folder=tmp_path / folder, parts=tmp_path / parts, log=lambda line: None
        )
    files = [
        result_paths("slow", study.model.name, tmp_path / folder)[0].read_bytes() for folder in ("whole", "shipped")
    ]
    assert files[0] == files[1]
    shipped, whole = (
        load_result(one_study["slow"], study.model, study.hash, tmp_path / f) for f in ("shipped", "whole")
    )
    assert shipped.provenance == whole.provenance
    assert shipped.costs["1"]["touched"] == whole.costs["1"]["touched"]
    assert ran == [study.names[:2], study.names[2:], study.names[:2], study.names[2:]]


def test_results_of_something_else_are_refused(study, one_study, tmp_path):
    grid.run_grid(["slow"], ["m"], edits=2, folder=tmp_path, parts=tmp_path / "parts", log=lambda line: None)
    arm = one_study["slow"]
    assert load_result(arm, study.model, study.hash, tmp_path).provenance["edits"] == study.names[:2]
    with pytest.raises(InputError, match="no stored result"):
        load_result(one_study["fast"], study.model, study.hash, tmp_path)
    with pytest.raises(InputError, match="questions"):
        load_result(arm, study.model, "other", tmp_path)
    with pytest.raises(InputError, match="options"):
        load_result(Arm("slow", "ft_m", QUICK), study.model, study.hash, tmp_path)
    assert "time" not in json.dumps(configuration(arm, study.model, study.hash))


def test_edits_that_do_not_depend_on_each_other_score_as_alone(study):
    """LAFN's edits are sought for together; each acts without the others."""
    arm = Arm("x", "lafn", {"layers": [2, 3], "neurons": "all", "value": ShiftOptions(steps=2)})
    together, costs = run_arm(study, arm, study.names[:2])
    alone = pd.concat([run_arm(study, arm, [name])[0] for name in study.names[:2]], ignore_index=True)
    assert len(costs) == 2 and costs["seconds"].nunique() == 1
    pd.testing.assert_frame_equal(together, alone, atol=1e-3)


def test_a_notebook_takes_stored_results_and_else_runs_a_few(study, one_study, tmp_path, monkeypatch):
    monkeypatch.setattr(gather, "QUICK", ("fast", "alone"))
    one_study["alone"] = Arm("alone", "ft_m", QUICK, mode="single")
    found, source = gather.gather(study, folder=tmp_path)
    assert source == "run here" and list(found) == ["none", "fast", "alone"]
    assert set(found["fast"].scores["edit"]) == set(study.names) and found["fast"].costs["1"]["seconds"] > 0
    assert set(found["alone"].scores["edit"]) == {study.names[0]}  # a search per language
    grid.run_grid(["slow"], ["m"], edits=2, folder=tmp_path, parts=tmp_path / "parts", log=lambda line: None)
    found, source = gather.gather(study, folder=tmp_path)
    assert source == "stored" and list(found) == ["slow"]
    assert gather.gather(study, recompute=True, folder=tmp_path)[1] == "run here"
    one_study["slow"] = Arm("slow", "ft_m", QUICK)
    with pytest.raises(InputError, match="options"):
        gather.gather(study, folder=tmp_path)


def test_the_command_names_what_is_wrong(one_study, capsys, tmp_path):
    assert grid.main(["nothing", "--model", "m", "--out", str(tmp_path)]) == 2
    assert "one of none slow fast" in capsys.readouterr().err
    assert grid.main(["--jobs", "0"]) == 2 and "--jobs" in capsys.readouterr().err


# Live


def test_an_edit_is_seen_inside_and_gone_after(study):
    requests = study.requests(study.names[:1])
    change = find_change("ft_m", study.model, requests, layer=4, lr=1e-2, box=None, steps=5)
    table = live.before_and_under(study.model, requests, change).set_index(["when", "language"])
    assert table.loc["before"].equals(table.loc["after"])
    assert (table.loc["inside", "p_new"] > table.loc["before", "p_new"]).all()
    found = live.neighbours(study, study.names[0], change)
    assert set(found["kind"]) <= set(LOCALITY) and found["same"].between(0, 1).all()


def test_a_typed_object_has_its_name_in_every_language(study):
    edit = next(name for name in study.names if name.startswith("capital"))
    old = study.requests([edit])
    found = live.with_new_object(study, edit, "Vienna")
    assert found.set_index("language")["new"].to_dict() == {"en": "Vienna", "de": "Wien"}
    assert live.with_new_object(study, edit, "Wien")["new"].equals(found["new"])
    assert set(live.with_new_object(study, edit, "Atlantis")["new"]) == {"Atlantis"}
    for text in (" ", old["answer"].iloc[0]):
        with pytest.raises(InputError, match="new object"):
            live.with_new_object(study, edit, text)


def test_the_view_edits_on_a_click(study, monkeypatch):
    shown = []
    monkeypatch.setattr(View, "show", lambda self, *things: shown.extend(things))
    box = live.explore_edits(study, {"quick": Arm("quick", "ft_m", QUICK)})
    (edit, new), (_, languages, button) = (row.children for row in box.children[:2])
    button.click()
    assert len(shown) == 2 and set(shown[1]["kind"]) <= set(LOCALITY)
    edit.value = study.names[-1]
    assert new.value == study.requests(study.names[-1:])["new"].iloc[0]
    languages.value = ()
    button.click()
    assert len(shown) == 3 and "one language or more" in shown[-1]


def test_every_arm_of_the_figures_has_a_name_and_its_kind_of_edit(study):
    known = [arm for arm in arms(study.model).values() if arm.mode == "simultaneous"]
    shown = {RANDOM if is_seed(arm.id) else arm.id: arm for arm in known}
    assert set(shown) | {NONE} == set(plots.ARM_NAMES)
    for name, arm in shown.items():
        assert (plots.GROUPS.get(name, plots.WEIGHTS) == plots.WEIGHTS) == (arm.editor not in ("lafn", "grace", "ike"))
