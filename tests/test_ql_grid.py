"""The grid of the Query Localization study: its table, its configurations, killed and resumed runs."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tiny_study import tiny_study

from knlib.errors import InputError
from knlib.query_localization import grid
from knlib.query_localization.cells import CELLS, Cell
from knlib.query_localization.grid import Experiment, configuration, main, parse_slots, run_cell
from knlib.query_localization.results import load_result, result_paths, save_result
from knlib.result_files import config_hash, to_csv

COUNT = Cell("A1", "G", "count", {"factor": 2.0})


@pytest.fixture
def counted(monkeypatch):
    """An experiment that only counts: the chunks that it was asked for, and how often it was prepared."""
    calls = SimpleNamespace(prepared=0, chunks=[], stop=None, skip=False)

    def prepare(study, options, inputs):
        calls.prepared += 1
        return options["factor"]

    def rows(study, options, prepared, facts):
        if calls.stop is not None and len(calls.chunks) == calls.stop:
            raise KeyboardInterrupt
        calls.chunks.append(list(facts))
        own = study.of(facts)
        if "s:la" in facts and calls.skip:
            return pd.DataFrame([])
        return pd.DataFrame({"fact": own["fact"], "value": prepared * own.index.to_numpy() / 7, "note": np.nan})

    def summary(study, options, rows):
        return {"mean": rows["value"].mean(), "rows": len(rows)}

    experiment = Experiment({"power": 1}, prepare, rows, summary, facts_per_chunk=4)
    monkeypatch.setitem(grid.EXPERIMENTS, "count", experiment)
    return calls


@pytest.fixture(scope="module")
def study():
    return tiny_study()


def test_the_table_has_39_cells_of_13_experiments_on_three_models():
    assert list(CELLS) == [
        f"{letter}{i}" for letter, n in zip("ABCDE", (9, 6, 6, 12, 6), strict=True) for i in range(1, n + 1)
    ]
    of_model = {slot: [c for c in CELLS.values() if c.slot == slot] for slot in "GLB"}
    assert {slot: len(cells) for slot, cells in of_model.items()} == {"G": 13, "L": 13, "B": 13}
    assert len({(c.slot, c.experiment, str(c.options)) for c in CELLS.values()}) == 39
    # Spec, section 6, read off the table there.
    assert (CELLS["A6"].slot, CELLS["A6"].options) == ("L", {"method": "amig"})
    assert (CELLS["B5"].slot, CELLS["B5"].options) == ("B", {"edit": "erase"})
    assert (CELLS["D6"].slot, CELLS["D6"].options) == ("L", {"factor": 0.0, "read": "answer"})
    assert (CELLS["E4"].slot, CELLS["E4"].options, CELLS["E4"].inputs) == ("L", {"edit": "update"}, ("A4",))
    assert all(CELLS[name].slot == c.slot for c in CELLS.values() for name in c.inputs)


def test_same_configuration_same_hash_and_any_change_another(counted, study):
    first = configuration(COUNT, study, {})
    assert config_hash(first) == config_hash(configuration(COUNT, tiny_study(), {}))
    others = [
        configuration(Cell("A1", "G", "count", {"factor": 0.0}), study, {}),
        configuration(COUNT, tiny_study(seed=1), {}),
        configuration(COUNT, study, {"A1": SimpleNamespace(provenance={"hash": "0"})}),
    ]
    assert len({config_hash(config) for config in (first, *others)}) == 4


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(counted, study, tmp_path):
    whole = run_cell(COUNT, study, {})
    assert len(counted.chunks) == 3 and whole.summary["rows"] == len(study.queries)
    counted.chunks.clear()
    counted.stop = 2
    with pytest.raises(KeyboardInterrupt):
        run_cell(COUNT, study, {}, parts=tmp_path)
    counted.stop = None
    resumed = run_cell(COUNT, study, {}, parts=tmp_path)
    assert [len(chunk) for chunk in counted.chunks] == [4, 4, 4]
    assert to_csv(resumed.rows) == to_csv(whole.rows) and resumed.summary == whole.summary
    prepared = counted.prepared
    assert to_csv(run_cell(COUNT, study, {}, parts=tmp_path).rows) == to_csv(whole.rows)
    assert counted.prepared == prepared  # nothing left to prepare for


def test_some_facts_give_the_rows_that_they_have_in_the_whole(counted, study):
    whole, some = run_cell(COUNT, study, {}).rows, study.names[5:8]
    part = run_cell(COUNT, study, {}, facts=some).rows
    assert to_csv(part) == to_csv(whole[whole["fact"].isin(some)])
    with pytest.raises(InputError, match="nobody"):
        run_cell(COUNT, study, {}, facts=["nobody"])


def test_facts_that_an_experiment_leaves_out_have_no_rows(counted, study, tmp_path):
    counted.skip = True
    found = run_cell(COUNT, study, {}, parts=tmp_path)
    assert set(found.rows["fact"]) == set(study.names[:8])
    assert to_csv(run_cell(COUNT, study, {}, parts=tmp_path).rows) == to_csv(found.rows)


def test_a_result_comes_back_as_it_was_and_only_for_its_model_options_and_inputs(counted, study, tmp_path):
    found = run_cell(COUNT, study, {})
    with pytest.raises(InputError, match="no stored result"):
        load_result(COUNT, COUNT.options, study.model, tmp_path)
    save_result(found, COUNT, tmp_path)
    options = {"power": 1, "factor": 2.0}
    again = load_result(COUNT, options, study.model, tmp_path, inputs={})
    assert to_csv(again.rows) == to_csv(found.rows) and again.summary == found.summary
    save_result(again, COUNT, tmp_path / "second")
    for a, b in zip(
        result_paths(COUNT, study.model.name, tmp_path),
        result_paths(COUNT, study.model.name, tmp_path / "second"),
        strict=True,
    ):
        assert a.read_bytes() == b.read_bytes()
    with pytest.raises(InputError, match="options"):
        load_result(COUNT, options | {"power": 2}, study.model, tmp_path)
    with pytest.raises(InputError, match="model"):
        load_result(COUNT, options, tiny_study(seed=1).model, tmp_path)
    with pytest.raises(InputError, match="inputs"):
        load_result(COUNT, options, study.model, tmp_path, inputs={"A1": found})


def test_cells_side_by_side_wait_for_those_that_they_need(monkeypatch):
    started, done, lines = [], [], []

    def run_one(name, models, **options):
        assert set(CELLS[name].inputs) <= set(done) and options == {"facts_each": 3}
        started.append(name)
        done.append(name)
        return f"{name} of {models[CELLS[name].slot]}"

    monkeypatch.setattr(grid, "_run_one", run_one)
    monkeypatch.setattr(grid, "ProcessPoolExecutor", lambda jobs, *_, **__: ThreadPoolExecutor(jobs))
    models = {"G": "one", "B": "two"}
    grid.run_side_by_side(["C1", "C3", "D9", "A2"], models, 2, lines.append, facts_each=3)
    assert sorted(started) == ["A1", "A2", "A7", "C1", "D9"]  # C3 is of a slot without a model
    assert len(lines) == 5 and lines[-1].startswith("5 of 5 done: ") and "D9 of two" in " ".join(lines)


def test_an_error_of_a_cell_beside_others_is_said(monkeypatch, capsys):
    def run_one(name, models, **options):
        raise InputError(name, found="nothing", expected="something")

    monkeypatch.setattr(grid, "_run_one", run_one)
    monkeypatch.setattr(grid, "ProcessPoolExecutor", lambda jobs, *_, **__: ThreadPoolExecutor(jobs))
    assert main(["A1", "--jobs", "2"]) == 2
    assert capsys.readouterr().err.startswith("error: A1: found 'nothing'")


def test_stored_floats_have_five_digits_and_names_like_na_stay():
    table = pd.DataFrame({"fact": ["NA", "None"], "value": [1 / 3, 12345678.0]})
    assert to_csv(grid.rounded(table)) == "fact,value\nNA,0.33333\nNone,12346000.0\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Z1"], "Z1"),
        (["--model", "X=atlas-gpt2"], "X=atlas-gpt2"),
        (["--model", "G="], "SLOT=MODEL"),
        (["--jobs", "0"], "--jobs: found 0"),
    ],
)
def test_what_is_unknown_is_named(arguments, words, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_a_slot_takes_any_model():
    assert parse_slots(["L=some/model"]) == {"G": "atlas-gpt2", "L": "some/model", "B": "atlas-bert"}
