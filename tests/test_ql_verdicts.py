"""Verdicts of the Query Localization study follow from the numbers: other numbers, other words."""

import copy
from types import SimpleNamespace

import pandas as pd
import pytest

from knlib.errors import InputError
from knlib.query_localization.cells import CELLS
from knlib.query_localization.results import load_result, save_result
from knlib.query_localization.verdicts import (
    CONTRADICTED,
    HYPOTHESES,
    SUPPORTED,
    UNDECIDED,
    cell_of,
    judge,
    needed_cells,
)


def estimate(value, half=0.01):
    return {"estimate": value, "low": value - half, "high": value + half, "facts": 300}


def summaries():
    """As the cells write them, every prediction of the paper fulfilled."""
    edit = {"by_label": {
        "inconsistent": {"union_less_self": {"generality": estimate(0.2), "locality": estimate(-0.2), "dppl": estimate(0.3)}},
        "inconsistent_less_consistent": {"self": {"neurons": {"generality": estimate(-0.3)}}},
    }}  # fmt: skip
    cas = {"main": {"cas": {"1": {"less": {name: {"avg": estimate(0.1)} for name in ("self", "union", "top_mean")}}}}}
    less = {"mode": "norm", "alpha": 0.3, "operator": "plain", "factor": 0.0}
    return {
        "consistency": {"groups": [
            {"mode": "paper", "set": "threshold"},
            {"mode": "ours", "set": "threshold", "inconsistent": estimate(0.8)},
            {"mode": "ours", "set": "top10", "below_ceiling": estimate(0.4)},
        ]},
        "modification": edit, "cas_editing": cas,
        "mapping": {"self_less": {"inconsistent": {"neighbour_union": estimate(-0.5)}},
                    "interaction": {"neighbour_union": estimate(-0.2)}},
        "synapse_effects": {
            "self_less": [less | {"set": "random", "d_size": estimate(9), "d_log_p": estimate(9)},
                          less | {"set": "mass_matched", "d_size": estimate(-0.3), "d_log_p": estimate(-0.4)},
                          less | {"alpha": 0.1, "set": "mass_matched", "d_size": estimate(9), "d_log_p": estimate(9)}],
            "mediation": {"share": estimate(0.3)},
        },
    }  # fmt: skip


def results(slot="G", **changed):
    found = summaries() | changed
    return {cell.id: SimpleNamespace(summary=copy.deepcopy(found[cell.experiment])) for cell in needed_cells(slot)}


def verdicts(found, slot="G"):
    table, _ = judge(found, slot)
    return dict(zip(table["hypothesis"], table["verdict"], strict=True))


@pytest.mark.parametrize("slot", ["G", "L", "B"])
def test_predictions_fulfilled_are_supported_in_every_model(slot):
    assert set(verdicts(results(slot), slot).values()) == {SUPPORTED}
    assert {cell.slot for cell in needed_cells(slot)} == {slot} and len(needed_cells(slot)) == 8


@pytest.mark.parametrize("hypothesis", HYPOTHESES, ids=lambda h: h.id)
def test_every_part_turned_round_contradicts_and_widened_leaves_undecided(hypothesis):
    for part in hypothesis.parts:
        for outcome in (CONTRADICTED, UNDECIDED):
            found = results()
            for reading in part:
                value = reading.find(found[cell_of("G", reading).id].summary)
                if outcome == CONTRADICTED:
                    value.update(estimate(2 * reading.bound - value["estimate"]))
                else:
                    value.update(estimate(value["estimate"], half=5.0))
            words = verdicts(found)
            assert words[hypothesis.id] == outcome
            others = {name: word for name, word in words.items() if name.split()[0] != hypothesis.id.split()[0]}
            assert set(others.values()) == {SUPPORTED}


def test_one_of_two_alternatives_is_enough():
    found = results()
    part = next(p for h in HYPOTHESES if h.id == "H2 erase" for p in h.parts if len(p) == 2)
    for reading in part:
        value = reading.find(found[cell_of("G", reading).id].summary)
        value.update(estimate(-value["estimate"]))
        assert verdicts(found)["H2 erase"] == (SUPPORTED if reading is part[0] else CONTRADICTED)


def test_a_missing_number_is_undecided_and_a_missing_cell_an_error():
    found = results()
    found["D2"].summary["mediation"]["share"] = dict.fromkeys(("estimate", "low", "high"))
    assert verdicts(found)["H4"] == UNDECIDED
    found["D2"].summary["self_less"] = []
    assert verdicts(found)["H4"] == UNDECIDED
    del found["D2"]
    with pytest.raises(InputError, match="D2"):
        judge(found, "G")


def test_holm_makes_bare_effects_undecided():
    """An interval that just leaves out 0 is p = .024: enough alone, and for two, not for three."""
    found = results()
    share = found["D2"].summary["mediation"]["share"]
    interaction = found["C1"].summary["interaction"]["neighbour_union"]
    inconsistent = found["A1"].summary["groups"][1]["inconsistent"]
    share.update({"estimate": 0.1, "low": 0.001, "high": 0.199})
    interaction.update({"estimate": -0.1, "low": -0.199, "high": -0.001})
    assert set(verdicts(found).values()) == {SUPPORTED}
    inconsistent.update({"estimate": 0.6, "low": 0.501, "high": 0.699})
    words = verdicts(found)
    assert {name for name, word in words.items() if word == UNDECIDED} == {"H1", "H3", "H4"}
    assert words["H5 erase"] == SUPPORTED


def test_a_result_flipped_in_the_store_flips_the_verdict(tmp_path):
    """From the files: the words come from what is stored, not from code."""
    model = SimpleNamespace(name="m", hash="h")

    for name, result in results().items():
        cell = CELLS[name]
        provenance = {
            "model": "h",
            "model_name": "m",
            "experiment": cell.experiment,
            "options": cell.options,
            "inputs": {},
        }
        whole = SimpleNamespace(rows=pd.DataFrame({"fact": ["f"]}), summary=result.summary, provenance=provenance)
        save_result(whole, cell, tmp_path)

    def stored():
        return {cell.id: load_result(cell, cell.options, model, tmp_path) for cell in needed_cells("G")}

    assert verdicts(stored())["H1"] == SUPPORTED
    path = tmp_path / "m" / "A1.json"
    text = path.read_text("utf8")
    path.write_text(text.replace('"estimate": 0.8', '"estimate": 0.2').replace('"low": 0.79', '"low": 0.19').replace(
        '"high": 0.81', '"high": 0.21'), "utf8")  # fmt: skip
    assert path.read_text("utf8") != text
    assert verdicts(stored())["H1"] == CONTRADICTED
