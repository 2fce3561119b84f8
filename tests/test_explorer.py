"""What the widgets show is what `effects` computes."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd
import pytest
from tiny_models import tiny_model

from knlib.effects import effects
from knlib.errors import InputError
from knlib.explorer import pair_explorer, scale_explorer, scaled_in_all_languages
from knlib.view import View

QUERIES = pd.DataFrame([
    {"query": f"{fact}|{code}/{i}", "fact": fact, "relation": "r", "language": code, "template": str(i),
     "prompt": f"{start} {prompt}", "space": "", "answer": answer, "suffix": ".", "subject": start}
    for fact, start in (("r:A", "bada"), ("r:B", "nu"))
    for code, answer in (("ja", "pe"), ("en", "mota"))
    for i, prompt in enumerate(("kilo", "sipo ta"))
])  # fmt: skip
NEURONS = pd.DataFrame(
    [("r:A", "en", 0, 3), ("r:A", "ja", 1, 7), ("r:A", "ja", 2, 4), ("r:B", "en", 1, 5), ("r:B", "ja", 0, 6)],
    columns=["fact", "language", "layer", "neuron"],
)
ONE = QUERIES[QUERIES["fact"] == "r:A"]


def test_table_is_the_mean_effect_by_language():
    model = tiny_model("gpt2")
    table = scaled_in_all_languages(model, ONE, NEURONS, [0, 1, 3])
    assert table.columns.tolist() == ["en", "ja"] and table.index.tolist() == [0, 1, 3]
    for factor in (0, 3):
        found = effects(model, ONE, NEURONS, factor=factor, controls=())
        for code in ("en", "ja"):
            own = found["query"].str.contains(f"|{code}/", regex=False)
            assert table.loc[factor, code] == pytest.approx(found.loc[own, "p_after"].mean(), rel=1e-12)
            assert table.loc[1, code] == pytest.approx(found.loc[own, "p_before"].mean(), rel=1e-12)
    assert (table.loc[0] - table.loc[1]).abs().min() > 1e-8


def test_control_scales_other_neurons():
    model = tiny_model("gpt2")
    own = scaled_in_all_languages(model, ONE, NEURONS, [0, 1])
    control = scaled_in_all_languages(model, ONE, NEURONS, [0, 1], condition="layer_matched")
    assert np.allclose(own.loc[1], control.loc[1]) and not np.allclose(own.loc[0], control.loc[0], rtol=1e-9)


def test_no_query_is_an_error():
    with pytest.raises(InputError, match="queries: found"):
        scaled_in_all_languages(tiny_model("gpt2"), ONE.head(0), NEURONS, [0])


def test_menu_and_slider_redraw(monkeypatch):
    shown = []
    monkeypatch.setattr(View, "show", lambda self, *things: shown.extend(things))
    model = tiny_model("gpt2")
    box = scale_explorer(model, QUERIES, NEURONS)
    fact, factor = box.children[0].children
    assert list(fact.options) == ["r:A", "r:B"] and len(shown) == 1
    factor.value = 2.0
    fact.value = "r:B"
    assert len(shown) == 3
    bars = shown[-1].axes[0].containers
    table = scaled_in_all_languages(model, QUERIES[QUERIES["fact"] == "r:B"], NEURONS, [1, 2])
    assert [bar.get_height() for bar in bars[0]] == pytest.approx(table.loc[2].tolist())
    assert [bar.get_height() for bar in bars[1]] == pytest.approx(table.loc[1].tolist())
    factor.value = 1.0  # as the model is
    assert [bar.get_height() for bar in shown[-1].axes[0].containers[0]] == pytest.approx(table.loc[1].tolist())


def test_two_menus_show_what_two_languages_share(monkeypatch):
    shown = []
    monkeypatch.setattr(View, "show", lambda self, *things: shown.extend(things))
    facts = pd.DataFrame({"fact": ["r:A", "r:B"], "object": [{c: (c,) for c in ("en", "ja", "de")}] * 2})
    neurons = pd.DataFrame(
        [("r:A", "en", 0, 3), ("r:A", "ja", 0, 3), ("r:A", "de", 0, 3), ("r:B", "en", 1, 5), ("r:B", "de", 1, 5),
         ("r:B", "all", 1, 5)], columns=["fact", "scope", "layer", "neuron"],
    )  # fmt: skip
    box = pair_explorer(neurons, facts, ["ja", "en", "de"], 2)
    one, other = box.children[0].children
    assert list(one.options) == ["en", "de", "ja"] and (one.value, other.value) == ("en", "ja")
    figure, table = shown
    assert table["shared"].to_dict() == {"r:A": 1} and table.loc["r:A", "ja"] == "ja"
    other.value = "de"
    figure, table = shown[2:]
    assert table["neurons"].to_dict() == {"r:A": "0·3", "r:B": "1·5"}
    # Partly shared in layer 0, language-agnostic in layer 1, per fact of two.
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.5, 0, 0, 0.5]
