"""Shipped results of the Query Localization study: of the shipped weights, of the options that the code has, small."""

import pytest

from knlib.models import load_model
from knlib.query_localization.cells import CELLS, SLOTS
from knlib.query_localization.grid import options_of
from knlib.query_localization.results import RESULTS, load_result, result_paths

THERE = [cell for cell in CELLS.values() if result_paths(cell, SLOTS[cell.slot])[1].is_file()]


@pytest.mark.parametrize("slot", SLOTS)
def test_results_are_of_the_shipped_weights_and_of_300_facts(slot):
    model, found = load_model(SLOTS[slot]), {}
    for cell in THERE:
        if cell.slot == slot:
            inputs = {name: found[name] for name in cell.inputs}
            result = found[cell.id] = load_result(cell, options_of(cell), model, inputs=inputs)
            assert result.provenance["cell"] == cell.id and len(result.rows) and result.summary
            assert result.provenance["facts"] >= 300
    assert found


def test_results_are_small_and_nothing_else_lies_there():
    files = {path.name: path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()}
    assert sum(files.values()) < 15e6
    assert set(files) == {f"{cell.id}.{end}" for cell in THERE for end in ("csv", "json")}
