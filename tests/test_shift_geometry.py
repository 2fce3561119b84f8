"""Shifts of one language alone: against the plain search, on planted vectors, and the verdict on them."""

from dataclasses import replace

import edit_requests
import numpy as np
import pandas as pd
import pytest
import torch
from edit_requests import REQUESTS, TEXTS
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.lafn_locate import LocateOptions, language_sets, layer_lift, neuron_states, pairwise_lift
from knlib.editing.lafn_values import ShiftOptions
from knlib.editing.requests import prompt_rows, with_prefixes
from knlib.editing.shift_geometry import (
    additivity_fit,
    cosine_matrix,
    fact_geometry,
    geometry_summary,
    joined,
    shift_cosines,
    verdict,
)
from knlib.errors import InputError

LANGUAGES, FACTS, DIMENSION = ("en", "ja", "ru"), tuple("ABCDE"), 60
# Not of the last layer: its shift meets the answers nowhere, and the search there follows rounding.
PAIRS = tuple((layer, neuron) for layer in (0, 1) for neuron in (1, 4, 5, 9))
NEURONS = {"A": PAIRS, "B": tuple((layer, neuron + 2) for layer, neuron in PAIRS)}
CONTEXTS = with_prefixes(REQUESTS, {"en": ["mira. ", "fo "], "ja": ["so。", "ge"]})
FEW = ShiftOptions(steps=2, lr=0.5, clamp=20.0)
TABLES = ("cosines", "ceiling", "floor", "additivity", "reliability")


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def planted(shared, noise=0.3, margins=None):
    """Five facts with a direction each: the same in all languages, or one in each language's own 20 dimensions."""
    draw, parts = torch.Generator().manual_seed(0), []

    def vector(language):
        wide = torch.zeros(DIMENSION, dtype=torch.float64)
        start, size = (0, DIMENSION) if shared else (20 * LANGUAGES.index(language), 20)
        wide[start : start + size] = torch.randn(size, generator=draw, dtype=torch.float64)
        return wide

    def near(wide):
        return wide + noise * (wide != 0) * torch.randn(DIMENSION, generator=draw, dtype=torch.float64)

    for fact in FACTS:
        one = vector("en")
        base = {code: one if shared else vector(code) for code in LANGUAGES}
        alone, halves = {c: near(v) for c, v in base.items()}, [{c: near(v) for c, v in base.items()} for _ in range(2)]
        read = torch.randn(len(LANGUAGES), DIMENSION, generator=draw, dtype=torch.float64)
        linear = margins or (lambda shift, read=read: (read @ shift + 3).numpy())
        foreign = {code: vector(code) for code in LANGUAGES}
        parts.append(fact_geometry(fact, alone, halves, "other", foreign, linear, {"sum": 0.5, "shared": 1.0}))
    return joined(parts)


def test_the_verdict_fails_on_orthogonal_subspaces_and_holds_on_a_shared_one():
    apart, shared = planted(False), planted(True)
    assert (verdict(apart), verdict(shared)) == ("fails", "holds")
    for found, cross in ((apart, 0.0), (shared, 0.9)):
        table = geometry_summary(found).set_index("kind")
        assert list(table.index) == ["ceiling", "cross_language", "floor", "random_sd"]
        assert table.at["cross_language", "estimate"] == pytest.approx(cross, abs=0.06)
        assert table.at["ceiling", "estimate"] > 0.8 and abs(table.at["floor", "estimate"]) < 0.2
        assert table.at["random_sd", "estimate"] == pytest.approx(DIMENSION**-0.5) and (table["n"] == 5).all()
        assert (table["low"] <= table["estimate"] + 1e-12).all() and (table["estimate"] <= table["high"] + 1e-12).all()
    few = joined([fact_geometry(fact, {c: torch.ones(3).double() for c in LANGUAGES}, [{c: torch.ones(3).double() for c in LANGUAGES}] * 2,
                                None, {}, lambda shift: np.zeros(3), {}) for fact in "AB"])  # fmt: skip
    assert verdict(few) == "undecided"


def test_identical_halves_have_cosine_one_and_no_shift_has_none():
    one = {code: torch.arange(1.0, 5.0).double() for code in LANGUAGES}
    none = one | {"ru": torch.zeros(4).double()}
    found = fact_geometry("A", none, [one, one], None, {}, lambda shift: np.zeros(3), {})
    assert np.allclose(found.ceiling["cosine"], 1)
    matrix = cosine_matrix(found, ("ru", "en", "ja"))
    assert list(matrix) == list(matrix.index) == ["ru", "en", "ja"]
    assert matrix.loc["ru"].isna().all() and np.allclose(matrix.loc[["en", "ja"], ["en", "ja"]], 1)
    assert geometry_summary(found).set_index("kind").at["cross_language", "estimate"] == pytest.approx(1)


def test_a_linear_read_out_adds_up_exactly_and_a_saturated_one_does_not():
    found = planted(True)
    table = found.additivity
    assert np.allclose(table["together"], table["summed"]) and len(table) == len(FACTS) * 3 * 2
    line = {"slope": pytest.approx(1), "intercept": pytest.approx(0, abs=1e-9), "r2": pytest.approx(1), "n": 30}
    assert additivity_fit(found) == line
    moved = replace(found, additivity=table.assign(together=table["together"] + 2))
    assert additivity_fit(moved) == line | {"intercept": pytest.approx(2)}
    assert all(row.language in (row.a, row.b) for row in table.itertuples())
    read = torch.randn(3, DIMENSION, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bent = planted(True, margins=lambda shift: torch.tanh(read @ shift / 10).numpy())
    assert additivity_fit(bent)["slope"] < 0.9


def test_the_whole_check_is_the_same_again_and_in_another_order_of_edits():
    model = tiny_model("gpt2")
    before = edit_requests.weights(model)
    found = shift_cosines(model, REQUESTS, CONTEXTS, NEURONS, TEXTS, FEW)
    order = CONTEXTS.sort_values("edit", ascending=False, kind="stable")
    turned = shift_cosines(model, REQUESTS.iloc[[2, 3, 0, 1]], order, NEURONS, TEXTS, FEW)
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(turned, name), check_exact=True)
    assert [len(getattr(found, name)) for name in TABLES] == [8, 4, 4, 4, 2]
    assert dict(found.floor[["fact", "other"]].to_numpy()) == {"A": "B", "B": "A"}
    for _, own in found.cosines.groupby("fact"):
        square = own.pivot(index="language_a", columns="language_b", values="cosine").to_numpy()
        assert np.allclose(square, square.T) and np.allclose(np.diag(square), 1) and (abs(square) < 1 + 1e-9).all()
    assert (found.reliability["neurons"] == len(PAIRS)).all() and verdict(found) == "undecided"
    assert found.reliability[["sum", "shared", "alone"]].isin([0.0, 0.5, 1.0]).all().all()
    assert list(cosine_matrix(found)) == ["en", "ja"]
    assert edit_requests.same(model, before)


def test_halves_of_the_same_prompts_agree_and_tiny_shifts_add_up_in_a_network():
    model = tiny_model("llama")
    found = shift_cosines(model, REQUESTS, REQUESTS, NEURONS, TEXTS, ShiftOptions(steps=2, clamp=1e-4))
    assert np.allclose(found.ceiling["cosine"], 1)
    fit = additivity_fit(found)
    assert fit["slope"] == pytest.approx(1, abs=1e-3) and fit["r2"] > 0.999999
    # Where the other fact has the same new answers there is no floor.
    same = REQUESTS.assign(new=REQUESTS["language"].map({"en": "mota", "ja": "ki"}))
    assert not len(shift_cosines(model, same, same, NEURONS, TEXTS, ShiftOptions(steps=1)).floor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"requests": REQUESTS[REQUESTS["language"] == "en"], "contexts": CONTEXTS[CONTEXTS["language"] == "en"]},
         "requests, edit A: found only en, expected two languages"),
        ({"languages": ("ja",)}, "requests, edit A: found only ja, expected two languages"),
        ({"languages": ("fi",)}, "languages: found none of a request"),
        ({"contexts": None}, "contexts, edit A in en: found none, expected a paraphrase"),
        ({"contexts": CONTEXTS[CONTEXTS["language"] == "en"]}, "contexts, edit A in ja: found none, expected a para"),
        ({"requests": REQUESTS.assign(answer="")}, "requests, edit A, answer: found '', expected the old answer"),
        ({"neurons": {"A": PAIRS}}, "neurons, edit B: found None, expected"),
        ({"neurons": {"A": PAIRS, "B": ()}}, "neurons, edit B: found \\(\\), expected"),
        ({"neurons": {"A": PAIRS, "B": ((9, 0),)}}, "layer: found 9, expected a number from 0 to 2"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(changes, message):
    given = {"requests": REQUESTS, "contexts": CONTEXTS, "neurons": NEURONS, "texts": TEXTS} | changes
    with pytest.raises(InputError, match=message):
        shift_cosines(tiny_model("gpt2"), **given, options=FEW)


def test_lift_by_layer_stands_beside_the_band_of_mismatched_facts():
    model, options = tiny_model("gpt2"), LocateOptions(tau=0.5, kappa=0.5)
    rows = prompt_rows(model, REQUESTS, CONTEXTS)
    found = layer_lift(model, rows, options)
    assert list(found) == ["layer", "lift", "null", "null_low", "null_high"] and list(found["layer"]) == [0, 1, 2]
    on, written = neuron_states(model, rows)
    sets = [language_sets(on[own.index], written[own.index], own["language"], options)[0]
            for _, own in rows.groupby("edit")]  # fmt: skip
    assert np.allclose(found["lift"], np.mean([pairwise_lift(own) for own in sets], axis=0))
    assert np.allclose(found["null"], pairwise_lift(*sets)) and np.allclose(found["null_low"], found["null_high"])
    single = layer_lift(model, rows[rows["edit"] == "A"], options)
    assert single["null"].isna().all() and single["lift"].notna().all()
    for wrong in (rows[rows["language"] == "en"], rows[(rows["edit"] == "A") | (rows["language"] == "en")], rows[:0]):
        with pytest.raises(InputError, match="rows, language"):
            layer_lift(model, wrong, options)
