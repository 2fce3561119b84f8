"""The editing cells on tiny models: sets fitted on part A alone, rows that do not depend on chunks, summaries."""

import json

import edit_tables
import numpy as np
import pandas as pd
import pytest
from tiny_models import KeepFloat64, tiny_model

from knlib.attribution import attribute, query_hash
from knlib.query_localization import cas_editing, edit_cases, modification
from knlib.query_localization.edit_cases import Cases
from knlib.query_localization.strategies import STRATEGIES, chosen, relative
from knlib.query_localization.study import Study

TEMPLATES = ("locate", "request", "held0", "held1")
TEXT = pd.DataFrame({"fact": ["r:A", "r:B", "s:C"], "text": ["kilo r ba pe.", "nupe r da lati.", "sipo s fa suda."]})
LABELS = {"r:A": "consistent", "r:B": "inconsistent", "s:A": "consistent", "s:B": "inconsistent"}


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def study(model):
    table = pd.concat(
        [edit_tables.queries(*TEMPLATES, relation=r, languages=("en",), new=False) for r in "rs"], ignore_index=True
    )
    part = table["template"].str.split("/").str[-1].isin(TEMPLATES[:2])
    return Study(model, edit_tables.facts(), table.assign(part=np.where(part, "A", "B")), {}, {"language": "en"})


SCORES = {}


def located(study):
    key = (study.model.hash, query_hash(study.queries))
    if key not in SCORES:
        SCORES[key] = attribute(study.model, study.queries, engine="reference", quadrature="linspace", steps=3)
    return SCORES[key]


@pytest.fixture
def plain(monkeypatch):
    """`prepare` without stored attributions, results of other cells, or Atlas templates."""

    def prepare(cell, model, edit, *, change=None, **options):
        own = study(model)
        if change is not None:
            own = Study(model, own.facts, change(own.queries), {}, own.options)
        monkeypatch.setattr(edit_cases, "located", located)
        monkeypatch.setattr(edit_cases, "labels", lambda result: pd.Series(LABELS))
        monkeypatch.setattr(edit_cases, "held_out_text", lambda *a, **b: TEXT)
        monkeypatch.setattr(
            edit_cases,
            "load_templates",
            lambda **o: pd.DataFrame(columns=["template", "relation", "language", "text", "split", "held_out"]),
        )
        options = cell.DEFAULTS | {"edit": edit, "rhos": [1.0, 4.0], "pilot": 1, "text_tokens": 8} | options
        return own, options, cell.prepare(own, options, {"A1": None})

    return prepare


@pytest.mark.parametrize("edit", ["erase", "update"])
@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_rows_of_a_fact_do_not_depend_on_the_others(plain, kind, edit):
    model = tiny_model(kind)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    for cell, options in ((modification, {"m": 3}), (cas_editing, {"times": [0.5, 1.0], "facts_each": 2})):
        own, options, prepared = plain(cell, model, edit, **options)
        if cell is cas_editing:
            prepared = cas_editing.Prepared(prepared.cases, 4, prepared.rho, prepared.facts)
        together = cell.rows(own, options, prepared, own.names[:2])
        apart = [cell.rows(own, options, prepared, [fact]) for fact in own.names[1::-1]]
        assert together["fact"].unique().tolist() == own.names[:2]
        pd.testing.assert_frame_equal(together, pd.concat(apart[::-1], ignore_index=True))
    assert all(tensor.equal(before[name]) for name, tensor in model.network.state_dict().items())


def test_replacing_part_b_leaves_every_fitted_set_equal(plain):
    model = tiny_model("llama")
    own, _, prepared = plain(cas_editing, model, "update")
    words = {"held0": "bobo", "held1": "keke"}

    def change(queries):
        swapped = queries["prompt"].replace({edit_tables.WORDS[k]: v for k, v in words.items()}, regex=True)
        return queries.assign(prompt=queries["prompt"].where(queries["part"] == "A", swapped))

    _, _, other = plain(cas_editing, model, "update", change=change)
    assert not other.cases.queries["prompt"].equals(prepared.cases.queries["prompt"])
    assert (other.size, other.rho, other.facts) == (prepared.size, prepared.rho, prepared.facts)
    for fact in own.names:
        one, two = prepared.cases.case(fact), other.cases.case(fact)
        assert one.request.query == two.request.query
        for name in STRATEGIES:
            assert chosen(one.fitted, name, 4) == chosen(two.fitted, name, 4), name
        assert one.before.log_p[0] == two.before.log_p[0] and not np.allclose(
            one.before.log_p[1:], two.before.log_p[1:]
        )
    parts = own.queries.groupby("part")["template"].agg(set)
    assert not parts["A"] & parts["B"]


def test_fitted_scores_are_the_fact_s_own(plain):
    model = tiny_model("gpt2")
    own, _, prepared = plain(modification, model, "erase", m=3)
    cases = prepared.cases
    assert isinstance(cases, Cases) and prepared.rho == 0.0
    queries = own.queries[own.queries["fact"] == "s:B"]
    queries = queries[queries["part"] == "A"]
    expected = attribute(model, queries, engine="reference", quadrature="linspace", steps=3).scores.values
    case = cases.case("s:B")
    assert case.fitted.scores == pytest.approx(relative(expected))
    assert queries["query"].iloc[case.fitted.own] == case.request.query
    assert case.fitted.activations == pytest.approx(attribute(model, queries, method="activation").scores.values)
    others = [cases.case(f"s:{key}").fitted.scores.mean(0) for key in "ABCD"]
    assert case.fitted.relation_total == pytest.approx(sum(others)) and case.fitted.relation_facts == 4
    assert (case.label, cases.case("s:D").label) == ("inconsistent", None)


def test_modification_rows_and_summary(plain):
    model = tiny_model("gpt2")
    own, options, prepared = plain(modification, model, "update", m=3)
    assert prepared.rho in (1.0, 4.0)
    table = modification.rows(own, options, prepared, own.names)
    assert len(table) == 8 * 4 and not table.duplicated(["fact", "set", "condition"]).any()
    wide = table.pivot(index="fact", columns=["set", "condition"], values="n")
    assert (wide["self"] == 3).all(axis=None) and (wide["union", "neurons"] == wide["union", "control"]).all()
    assert wide["union", "neurons"].between(3, 6).all()
    found = modification.summary(own, options, table)
    json.dumps(found, allow_nan=False)
    assert found["counts"] == {"facts": 8, "consistent": 2, "inconsistent": 2, "unlabelled": 4}
    cell = table[(table["set"] == "self") & (table["condition"] == "neurons")].set_index("fact")
    control = table[(table["set"] == "self") & (table["condition"] == "control")].set_index("fact")
    part = found["by_label"]["all"]["self"]
    assert part["neurons"]["locality"]["estimate"] == pytest.approx(cell["locality"].mean())
    gap = (cell["generality_dlogp"] - control["generality_dlogp"]).mean()
    assert part["less_control"]["generality_dlogp"]["estimate"] == pytest.approx(gap)
    ratio = np.expm1((cell["loss_after"] - cell["loss_before"]).mean())
    assert part["neurons"]["dppl"]["estimate"] == pytest.approx(ratio)
    by_label = cell.groupby("label")["generality_dlogp"].mean()
    between = found["by_label"]["inconsistent_less_consistent"]["self"]["neurons"]["generality_dlogp"]["estimate"]
    assert between == pytest.approx(by_label["inconsistent"] - by_label["consistent"])
    alone = modification.summary(own, options, table[table["label"] != "inconsistent"])["by_label"]
    for part in (alone["inconsistent"]["union_less_self"], alone["inconsistent_less_consistent"]["self"]["neurons"]):
        assert part["generality"] == {"estimate": None, "low": None, "high": None, "facts": 0}


@pytest.mark.parametrize("edit", ["erase", "update"])
def test_cas_rows_hold_every_strategy_at_every_budget(plain, edit):
    model = tiny_model("llama")
    own, options, prepared = plain(cas_editing, model, edit, times=[0.5, 1.0, 2.0], ratios=[1.0], facts_each=1)
    prepared = cas_editing.Prepared(prepared.cases, 4, prepared.rho, prepared.facts)
    table = cas_editing.rows(own, options, prepared, own.names)
    assert set(table["fact"]) == prepared.facts and len(prepared.facts) == 2
    main = table[(table["sweep"] == "main") & (table["times"] > 0)]
    assert (main["n"] == (4 * main["times"])).all()
    assert main.groupby("fact").size().tolist() == [3 * len(STRATEGIES)] * 2
    assert set(main["strategy"]) == set(STRATEGIES)
    rest = table.drop(main.index)
    sweeps = {"main": 2, "ratio": 1} | ({} if edit == "erase" else {"rho": 2 * 4, "paper": 4})
    assert rest[rest["fact"] == own.names[0]]["sweep"].value_counts().to_dict() == sweeps
    assert set(rest.loc[rest["sweep"] == "main", "strategy"]) == {"cas_paper_threshold", "outside"}
    found = cas_editing.summary(own, options, table)
    json.dumps(found, allow_nan=False)
    assert found["size"] == 4 and found["rho_main"] == prepared.rho and (prepared.rho > 0) == (edit == "update")
    less = found["main"]["cas"]["2"]["less"]
    assert set(less) == {"self", "random", "union", "top_mean", "cas_paper"}
    means = main[main["times"] == 2.0].groupby("strategy")["avg"].mean()
    assert less["top_mean"]["avg"]["estimate"] == pytest.approx(means["cas"] - means["top_mean"])
    assert set(found["rho"]) == (set() if edit == "erase" else {"self", "union", "cas", "random"})
    assert cas_editing.rows(own, options, prepared, [own.names[-1]]).empty == (own.names[-1] not in prepared.facts)


def test_frontier_keeps_what_nothing_beats():
    points = pd.DataFrame({"generality": [0.9, 0.5, 0.4, 0.9], "locality": [0.1, 0.8, 0.8, 0.1]})
    table = points.assign(sweep="main", strategy=list("abcd"), times=1.0, ratio=0.0, rho=0.0, n=3)
    assert cas_editing.frontier(table)["best"].tolist() == [True, True, False, True]
