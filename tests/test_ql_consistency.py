"""Cells A of the Query Localization study: null and ceiling, rows, labels."""

import importlib
import json
import random
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from atlas_study import make_study

import knlib.query_localization
from knlib.models import load_model
from knlib.query_localization import consistency, retest
from knlib.query_localization.located import METHODS, located

PACKAGE = Path(knlib.query_localization.__file__).parent
OPTIONS = consistency.DEFAULTS | {"paper_facts": 2, "retest_facts": 1}


@pytest.fixture(scope="module")
def study(tiny_folder, facts, templates):
    return make_study(load_model(tiny_folder("gpt2"), device="cpu"), facts, templates)


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "attributions"
    monkeypatch.setattr(consistency, "located", partial(located, folder=folder))


@pytest.fixture(scope="module")
def cell(study, tmp_path_factory):
    """(prepared, rows, summary) of the `ig` cell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consistency, "located", partial(located, folder=tmp_path_factory.getbasetemp() / "attributions"))
        prepared = consistency.prepare(study, OPTIONS, {})
        table = consistency.rows(study, OPTIONS, prepared, study.names)
        return prepared, table, consistency.summary(study, OPTIONS, table)


def of(table, fact, mode="ours", name="top10", part="all"):
    return consistency._select(table, mode, name, part).set_index("fact").loc[fact]


# Null and ceiling


def test_the_null_pairs_other_facts_objects_and_templates_by_hand():
    queries = pd.DataFrame({
        "fact": ["f", "f", "g", "g", "h", "h", "i"], "relation": ["r"] * 6 + ["s"],
        "template": ["1", "2"] * 3 + ["2"], "answer": ["X", "X", "Y", "Y", "X", "X", "Z"],
    })  # fmt: skip
    sets = [np.array(s) for s in ([0, 1], [0, 2], [0, 3], [0, 1], [0, 1], [0, 1], [0, 1])]
    found = retest.null_overlap(queries, sets)
    # f with g only (h has its object, i another relation): template 1 with 2, and 2 with 1.
    assert found["f"] == pytest.approx(np.mean([1.0, 1 / 3]))
    assert found["h"] == pytest.approx(np.mean([1.0, 1 / 3])) and found["g"] == pytest.approx(
        (1 / 3 + 1 + 1 / 3 + 1) / 4
    )
    assert np.isnan(found["i"])  # alone in its relation


def test_the_jaccard_matrix_is_that_of_sets():
    draw = np.random.default_rng(0)
    sets = [np.sort(draw.choice(30, n, replace=False)) for n in (0, 3, 10, 12)]
    found = retest.jaccard_matrix(sets, sets[::-1])
    for i, a in enumerate(sets):
        for j, b in enumerate(sets[::-1]):
            union = set(a) | set(b)
            assert found[i, j] == pytest.approx(len(set(a) & set(b)) / len(union)) if union else np.isnan(found[i, j])


def test_random_neurons_match_in_count_and_layer():
    own = [np.array([0, 3, 39, 41, 119]), np.arange(0), np.arange(40)]
    found = retest.random_like(own, 40, np.random.default_rng(0))
    for a, b in zip(own, found, strict=True):
        assert len(set(b.tolist())) == len(a)
        assert np.array_equal(np.bincount(a // 40, minlength=3), np.bincount(b // 40, minlength=3))


def test_null_edits_change_a_case_or_put_a_mark_and_keep_the_answer(study, monkeypatch):
    def known(model, queries):
        upper = queries["prompt"].str[0].str.isupper()
        return ~upper & ~queries["prompt"].str.contains("Egypt")

    monkeypatch.setattr(retest, "known_answers", known)
    queries = study.queries.iloc[::-1]
    found = retest.null_edits(study.model, queries)
    assert len(found) and list(found.index) == [i for i in queries.index if i in found.index]
    assert not found["prompt"].str.contains("Egypt").any()  # both edits lose the answer
    kinds = set()
    for i, query in found.iterrows():
        before = queries.loc[i, "prompt"]
        kinds.add(query["prompt"][0] == '"')
        assert query["prompt"] in ('"' + before, before[0].swapcase() + before[1:])
        assert query["answer"] == queries.loc[i, "answer"] and query["query"] == queries.loc[i, "query"]
    assert False in kinds


@pytest.mark.parametrize(
    ("prompt", "expected"), [("The x", "the x"), ("“Ça", "“ça"), ("ß is", None), ("12 中", None), ("", None)]
)
def test_the_first_letters_case(prompt, expected):
    assert retest._other_case(prompt) == expected


def test_rounded_weights_are_near_and_the_model_stays(study):
    before = study.model.hash
    again = retest.rounded_weights(study.model)
    pairs = list(zip(study.model.network.parameters(), again.network.parameters(), strict=True))
    assert all(torch.allclose(a, b, rtol=2**-8, atol=0) for a, b in pairs) and any((a != b).any() for a, b in pairs)
    assert all((b == b.to(torch.bfloat16).float()).all() for _, b in pairs)
    fresh = replace(study.model)
    assert fresh.hash == before != again.hash and again.kind == study.model.kind


def test_the_ceiling_is_the_least_of_the_retests():
    queries = pd.DataFrame({"fact": ["f", "f", "g", "h"], "relation": ["r", "r", "r", "s"], "part": list("ABAA")})
    sets = [np.array(s) for s in ([0, 1], [2, 3], [4, 5], [6, 7])]
    repeated = {
        "points": (queries, sets),
        "edit": (queries.iloc[[0, 1]], [np.array([0, 9]), np.array([2, 3])]),
    }
    found = consistency._ceiling(queries, sets, repeated, "all")
    assert found.loc["r"].tolist() == [pytest.approx((1 / 3 + 1) / 2), "edit", 2]
    assert found.loc["s"].tolist() == [1.0, "points", 1]
    assert consistency._ceiling(queries, sets, repeated, "A").loc["r", "j_ceil"] == pytest.approx(1 / 3)
    assert consistency._ceiling(queries, sets, repeated, "B").loc["s", ["j_ceil", "ceil_by"]].isna().all()


# Rows


def test_one_row_per_fact_mode_set_and_part(study, cell):
    _, table, _ = cell
    assert list(table) == consistency.COLUMNS
    assert not table.duplicated(["fact", "mode", "set", "part"]).any()
    counts = table.groupby(["mode", "set", "part"]).size().to_dict()
    assert counts == {
        ("ours", "threshold", "all"): 8, ("ours", "top10", "all"): 8, ("ours", "top10", "A"): 8, ("ours", "top10", "B"): 8,
        ("ours", "top50", "all"): 8, ("paper", "threshold", "all"): 4, ("paper", "top10", "all"): 4,
        ("paper", "top50", "all"): 4,
    }  # fmt: skip
    assert set(of(table, study.names, part="A")["k"]) == {4} and set(of(table, study.names, part="B")["k"]) == {2}
    assert set(of(table, study.names)["size"]) == {10} and set(of(table, study.names, name="top50")["size"]) == {50}
    for part in ("A", "B"):
        own = of(table, study.names, part=part)
        assert ((own["jaccard"] >= own["cs_1"] - 1e-12) & own["cs_1"].between(0, 1)).all()
    two = of(table, study.names, part="B")
    assert np.allclose(two["cs_1"], two["cs_2"]) and two["cs_2_k4"].isna().all()


def test_rows_of_a_fact_do_not_depend_on_the_others(study, cell):
    prepared, table, _ = cell
    apart = [consistency.rows(study, OPTIONS, prepared, [name]) for name in reversed(study.names)]
    joined = pd.concat(apart, ignore_index=True).set_index(["fact", "mode", "set", "part"]).sort_index()
    pd.testing.assert_frame_equal(joined, table.set_index(["fact", "mode", "set", "part"]).sort_index())


def test_the_stores_second_reading_gives_the_same_rows(study, cell):
    again = consistency.prepare(study, OPTIONS, {})
    pd.testing.assert_frame_equal(consistency.rows(study, OPTIONS, again, study.names), cell[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_every_cell_runs_on_every_kind_of_model(tiny_folder, facts, templates, kind, method):
    study = make_study(
        load_model(tiny_folder(kind), device="cpu"), facts, templates, relations=("continent",), phrasings=6
    )
    options = OPTIONS | {"method": method, "paper_facts": 1}
    prepared = consistency.prepare(study, options, {})
    table = consistency.rows(study, options, prepared, study.names)
    assert len(table) == 4 * 5 + 3 and set(table["method"]) == {method}
    found = json.dumps(consistency.summary(study, options, table), allow_nan=False)
    assert f'"facts": {len(study.names)}' in found


# Parts and labels


def test_parts_share_no_template_and_b_does_not_reach_what_is_fitted_on_a(study, cell):
    prepared, table, _ = cell
    templates = study.queries.groupby(["relation", "part"])["template"].agg(set)
    assert all(templates[r, "A"].isdisjoint(templates[r, "B"]) for r in ("capital", "continent"))
    draw, changed = np.random.default_rng(0), {}
    for key, sets in prepared.sets.items():
        parts = prepared.queries[key[0]]["part"]
        changed[key] = [np.sort(draw.choice(120, 10, replace=False)) if part == "B" else s
                        for s, part in zip(sets, parts, strict=True)]  # fmt: skip
    key = (*consistency.LABELLING, "A")
    null = retest.null_overlap(*consistency._of_part(study.queries, changed[key[:2]], "A"))
    pd.testing.assert_series_equal(null, prepared.null[key])
    other = consistency.rows(study, OPTIONS, replace(prepared, sets=changed), study.names)
    same = [c for c in consistency.COLUMNS if c != "gap"]
    pd.testing.assert_frame_equal(
        of(other, study.names, part="A")[same[1:]], of(table, study.names, part="A")[same[1:]]
    )
    assert not np.allclose(of(other, study.names, part="B")["jaccard"], of(table, study.names, part="B")["jaccard"])
    one, two = (consistency.labels(SimpleNamespace(rows=t)) for t in (table, other))
    pd.testing.assert_series_equal(one, two)


def test_labels_come_from_the_rescaled_overlap_of_part_a(cell):
    _, table, summary = cell
    table = table.copy()
    rows = consistency._select(table, "ours", "top10", "A").index
    table.loc[rows, "j_star"] = [0.9, 0.5, 0.1, np.nan, 0.2, 0.3, 0.4, 0.6]
    found = consistency.labels(SimpleNamespace(rows=table))
    assert found.tolist() == ["consistent", "consistent", *["inconsistent"] * 4, "consistent"]
    assert table.loc[rows[3], "fact"] not in found.index
    counts = summary["labels"]
    assert counts["consistent"] + counts["inconsistent"] + counts["undefined"] == 8


def test_the_summary_tells_a_planted_share(study, cell):
    table = cell[1].copy()
    mine = consistency._select(table, "ours", "top10", "all").index
    table.loc[mine, "cs_2_k4"] = [0.1] * 6 + [0.9] * 2
    table.loc[mine, ["jaccard", "j_ceil"]] = [0.2, 0.8]
    found = consistency.summary(study, OPTIONS, table)
    group = next(g for g in found["groups"] if (g["mode"], g["set"]) == ("ours", "top10"))
    assert group["inconsistent"]["estimate"] == 0.75
    assert group["inconsistent"]["low"] <= 0.75 <= group["inconsistent"]["high"]
    assert group["below_ceiling"]["estimate"] == pytest.approx(0.6)
    assert [s["estimate"] for s in group["sweep"]] == sorted(s["estimate"] for s in group["sweep"])


# Defects of older code


def test_no_column_or_text_has_the_name_that_changed_its_meaning(cell):
    for path in sorted(PACKAGE.glob("*.py")):
        assert "K_" + "I" not in path.read_text("utf8"), path.name
    assert not any("K_" + "I" in column for column in cell[1])
    assert ("K_" + "I") not in json.dumps(cell[2])


def test_no_machine_is_named_and_importing_draws_nothing():
    modules = [
        f"knlib.query_localization.{path.stem}" for path in sorted(PACKAGE.glob("*.py")) if path.stem != "__init__"
    ]
    for path in sorted(PACKAGE.glob("*.py")):
        found = re.findall(r"cuda:\d|[\"'](?:/(?:home|data|root|work|tmp)/|[A-Z]:\\\\)", path.read_text("utf8"))
        assert not found, (path.name, found)
    # A forked process: it has torch already, and its imports change nothing here.
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        assert pool.submit(_importing_draws_nothing, modules).result()


def _importing_draws_nothing(modules):
    import sklearn.mixture  # noqa: F401  (draws from `random` while it is imported: not ours)

    def states():
        return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()

    for name in modules:
        sys.modules.pop(name, None)
    before = states()
    for name in modules:
        importlib.import_module(name)
    return before == states()
