"""The gate's probe: planted relations are told apart, templates are left out honestly, thresholds keep what they promise."""

import edit_tables
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.cache import end_states, wording
from knlib.editing.gate_calibration import RelationGate, check_examples
from knlib.editing.relation_probe import RelationProbe, can_fit, left_out_margins
from knlib.errors import InputError
from knlib.models import load_model

MEANS = {"a": [6.0, 0, 0, 0], "b": [0, 6.0, 0, 0], "c": [0, 0, 6.0, 0]}
BLANK = [""]  # a wording without words: the states alone decide


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def planted(relations, per_relation=40, seed=0):
    names = [name for name in relations for _ in range(per_relation)]
    noise = torch.randn(len(names), 4, generator=torch.Generator().manual_seed(seed))
    return (torch.tensor([MEANS[name] for name in names]) + noise).double(), names


@pytest.mark.parametrize("relations", ["ab", "abc"])
def test_planted_relations_have_margins_of_the_right_sign(relations):
    states, names = planted(relations)
    probe = RelationProbe.fit(states, BLANK * len(names), names)
    assert probe.names == tuple(relations) and probe.weights.shape == (len(relations), 4)
    new, truth = planted(relations, seed=1)
    margins = probe.margins(new, BLANK * len(new))
    own = torch.tensor([[name == other for other in relations] for name in truth])
    assert ((margins > 0) == own).float().mean() > 0.98
    # A margin is the log-odds against the best other.
    odds = (new @ probe.weights.T + probe.bias).softmax(1)
    others = odds[:, 1:].max(1).values
    assert torch.allclose(probe.margin(new, BLANK * len(new), "a"), (odds[:, 0] / others).log())
    # In the middle between two planted means nobody wins by much, and nothing depends on the order of the prompts.
    middle = torch.tensor([[3.0, 3.0, 0, 0]])
    assert abs(float(probe.margin(middle, BLANK, "a"))) < 0.1 * float(
        probe.margin(torch.tensor([MEANS["a"]]), BLANK, "a")
    )
    turned = RelationProbe.fit(states.flip(0), BLANK * len(names), names[::-1])
    assert turned.names == probe.names and torch.allclose(turned.margins(new, BLANK * len(new)), margins, atol=1e-8)


def test_words_tell_relations_apart_where_states_do_not_and_the_other_way_round():
    states, names = planted("abc")
    said = {"a": "the capital is", "b": "paid with the money", "c": "they speak"}
    wordings = [said[name] for name in names]
    probe = RelationProbe.fit(states, wordings, names)
    new, truth = planted("abc", seed=1)
    middle = torch.tensor([[2.0, 2.0, 2.0, 0]]).expand(len(new), 4)
    own = torch.tensor([[name == other for other in "abc"] for name in truth])
    for of_states, of_words in ((new, ["xyz"] * len(new)), (middle, [said[name] for name in truth])):
        assert ((probe.margins(of_states, of_words) > 0) == own).float().mean() > 0.98
    # Related words count as well, and both kinds of votes about alike.
    assert float(probe.margin(middle[:1], ["what capitals are"], "a")) > 0
    far = [float(probe.margin(*one, "a")) for one in ((torch.tensor([MEANS["a"]]), BLANK), (middle[:1], [said["a"]]))]
    assert 1 / 3 < far[0] / far[1] < 3


def test_a_subjects_name_is_no_word_of_the_relation():
    model = load_model("atlas-gpt2")
    assert wording(model, "Die Hauptstadt von Äland ist", "Äland").split() == ["die", "hauptstadt", "von", "ist"]
    assert wording(model, "日本の首都は", "日本").strip() == "の首都は"


def test_wrong_relations_are_named():
    states, names = planted("ab")
    with pytest.raises(InputError, match="relations: found 1 in 3 prompts"):
        RelationProbe.fit(states[:3], BLANK * 3, ["a"] * 3)
    assert can_fit(["a", "b", "a"]) and not can_fit(["a", "b"]) and not can_fit([])
    with pytest.raises(InputError, match="relation: found 'z', expected one of a b"):
        RelationProbe.fit(states, BLANK * len(names), names).margin(states, BLANK * len(states), "z")


def test_a_template_that_is_unlike_the_others_is_seen_through_when_it_is_left_out():
    states, names = planted("ab")
    table = pd.DataFrame({"relation": names, "language": "en", "template": [f"t{i % 4}" for i in range(80)]})
    odd = (table["relation"] == "a") & (table["template"] == "t3")
    states[odd.to_numpy()] = torch.tensor([0, 0, 0, 30.0]).double() + 0.1 * states[odd.to_numpy()]
    margins = left_out_margins(states, BLANK * len(table), table)
    whole = RelationProbe.fit(states, BLANK * len(names), names).margins(states, BLANK * len(states))
    column = odd.to_numpy()
    assert float(whole[column, 0].min()) > 0 > np.median(margins[column, 0])
    assert (margins[(table["relation"] == "a").to_numpy() & ~column, 0] > 0).mean() > 0.9
    # One template in a language: nothing can be left out.
    alone = table.assign(language=["de" if i == 0 else "en" for i in range(80)])
    assert (
        np.isnan(left_out_margins(states, BLANK * 80, alone)[0]).all()
        and not np.isnan(left_out_margins(states, BLANK * 80, alone)[1:]).any()
    )


def examples(*templates):
    """Queries of two relations that end in the relation's name, so that random weights tell relations apart."""
    table = pd.concat([edit_tables.queries(*templates, relation=relation) for relation in "rs"], ignore_index=True)
    words = table["prompt"].str.split()
    return table.assign(prompt=words.str[0] + " " + words.str[2] + " " + words.str[1])


def test_thresholds_let_the_promised_share_of_other_relations_through():
    model, table = tiny_model("gpt2"), examples("request", "held0", "held1", "locate")
    margins = left_out_margins(
        end_states(model, table["prompt"], 1),
        [wording(model, *row) for row in table[["prompt", "subject"]].to_numpy()],
        table,
    )
    wrong = margins[np.arange(len(table)), (table["relation"] == "r").astype(int)]  # the names are r, s
    for share in (0.1, 0.4):
        gate = RelationGate.calibrated(model, table, layer=1, false_hits=share)
        assert gate.probe.names == ("r", "s") and set(gate.thresholds) == set(gate.report) == {"en", "ja"}
        for code, found in gate.report.items():
            here = (table["language"] == code).to_numpy()
            assert found["threshold"] == gate.thresholds[code] and found["hits"] == 1.0
            assert found["false"] == (wrong[here] > found["threshold"]).mean() <= share
            assert (wrong[here] >= found["threshold"]).mean() >= share  # no higher than it must be
    # By default half way up.
    assert RelationGate.calibrated(model, table).layer == model.n_layers // 2


def test_examples_are_checked():
    model, table = tiny_model("gpt2"), examples("request", "held0")
    check_examples(table)
    for broken, said in (
        (table.drop(columns="relation"), "examples: found .*expected .*relation language template subject prompt"),
        ("kilo", "examples: found str"),
        (table.head(0), "examples: found"),
        (table.assign(relation=np.nan), "examples, relation: found nan"),
        (examples("request"), "examples, r in en: found one template"),
        (table[table["relation"] == "r"], "examples: found 1 relations"),
    ):
        with pytest.raises(InputError, match=said):
            RelationGate.calibrated(model, broken)
    with pytest.raises(InputError, match="false_hits: found 0"):
        RelationGate.calibrated(model, table, false_hits=0)
    with pytest.raises(InputError, match="layer"):
        RelationGate.calibrated(model, table, layer=99)
