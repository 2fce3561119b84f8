"""Shipped results of the Query Localization study: whole, of the shipped weights, small, and what their code gives again."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

from knlib.facts import load_facts
from knlib.models import load_model
from knlib.queries import load_templates
from knlib.query_localization.cells import CELLS, SLOTS
from knlib.query_localization.grid import options_of, run_cell
from knlib.query_localization.results import RESULTS, load_result, result_paths
from knlib.query_localization.study import load_study

MODEL, SAMPLE = "atlas-gpt2", 3


@cache
def model(name):
    return load_model(name)


@pytest.fixture(scope="module")
def results():
    found = {}
    for cell in CELLS.values():
        inputs = {name: found[name] for name in cell.inputs}
        found[cell.id] = load_result(cell, options_of(cell), model(SLOTS[cell.slot]), inputs=inputs)
    return found


@pytest.fixture(scope="module")
def study(results):
    """The facts of the stored study, and the queries of three of them alone."""
    options = results["A1"].provenance["study"]
    facts, templates = load_facts(), load_templates(languages=("en",))
    names = list(dict.fromkeys(results["C1"].rows["fact"]))[:: len(results["C1"].rows["fact"].unique()) // SAMPLE][
        :SAMPLE
    ]
    whole = load_study(
        model(MODEL), facts[facts["fact"].isin(names)], templates, **options | {"facts_each": len(names)}
    )
    assert set(whole.names) == set(names)
    return replace(whole, facts=facts)


def test_all_cells_have_results_of_the_shipped_weights(results):
    assert list(results) == list(CELLS)
    for name, result in results.items():
        assert result.provenance["cell"] == name and len(result.rows) and result.summary
        assert result.provenance["facts"] >= 300, name


def test_results_are_small():
    sizes = [path.stat().st_size for cell in CELLS.values() for path in result_paths(cell, SLOTS[cell.slot])]
    assert sum(sizes) < 15e6
    assert {p.name for p in RESULTS.rglob("*") if p.is_file()} == {
        f"{c}.{end}" for c in CELLS for end in ("csv", "json")
    }


def stored_rows(result, study, keys):
    rows = result.rows[result.rows["fact"].isin(study.names)]
    return rows.set_index(keys).sort_index()


def again(name, study, results, keys):
    cell = CELLS[name]
    rows = run_cell(cell, study, {i: results[i] for i in cell.inputs}).rows
    return rows.set_index(keys).sort_index()


def test_consistency_scores_of_a_sample_come_again(study, results):
    """What does not depend on other facts: chance and ceiling need the whole study."""
    keys, columns = ["fact", "mode", "set", "part"], ["cs_1", "cs_2", "jaccard", "do", "cosine"]
    stored, found = stored_rows(results["A1"], study, keys), again("A1", study, results, keys)
    common = stored.index.intersection(found.index)
    assert len(common) >= 3 * SAMPLE
    assert np.allclose(stored.loc[common, columns], found.loc[common, columns], atol=0.02)
    # Mean over a fact's queries: a neuron on the threshold of one of them falls to either side by rounding.
    assert np.allclose(stored.loc[common, "size"], found.loc[common, "size"], atol=0.2)


def test_mapping_of_a_sample_comes_again(study, results):
    stored, found = (table.drop(index="other_fact", level="set", errors="ignore") for table in (
        _by_query(results["C1"].rows, study, results), _by_query(again_rows("C1", study, results), study, results)))  # fmt: skip
    assert set(stored.index) == set(found.index) and len(stored) >= 6 * SAMPLE
    assert np.allclose(stored["d_log_p"], found["d_log_p"], atol=2e-3)


def again_rows(name, study, results):
    cell = CELLS[name]
    return run_cell(cell, study, {i: results[i] for i in cell.inputs}).rows


def _by_query(rows: pd.DataFrame, study, results) -> pd.DataFrame:
    """Rows of the study's facts by fact, set and the order of their queries: their numbers are those of the whole study."""
    rows = rows[rows["fact"].isin(study.names)].sort_values(["fact", "set", "query"], kind="stable")
    order = rows.groupby(["fact", "set"]).cumcount()
    return rows.assign(order=order).set_index(["fact", "set", "order"]).sort_index()
