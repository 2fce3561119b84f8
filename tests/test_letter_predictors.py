"""query_relevant/predictors.py, concentration.py: on planted values, and by hand."""

import numpy as np
import pandas as pd
import pytest
from letter_models import PLANTED, planted_model
from letter_studies import tiny_answers, tiny_prompts
from tiny_models import tiny_model

from knlib.errors import InputError
from knlib.multiple_choice import LETTERS
from knlib.query_relevant import predictors
from knlib.query_relevant.concentration import class_overlap, gini, layer_concentration
from knlib.query_relevant.last_position import readout, record
from knlib.query_relevant.letters import with_letter_sets
from knlib.query_relevant.predictors import predict_from_neurons, predictor_sets, predictor_table
from knlib.sites import make_sites


@pytest.fixture(scope="module")
def prompts():
    return tiny_prompts()


def test_the_planted_neuron_votes_for_its_letter(prompts):
    model = planted_model()
    behind = prompts.head(4).assign(prompt="nu")
    assert predict_from_neurons(model, behind, [PLANTED]).tolist() == [0] * 4


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_votes_of_all_neurons_are_what_the_ffns_write(kind, prompts):
    """The final norm's scale is the same for all letters, and drops out."""
    model, some = tiny_model(kind), prompts.head(5)
    pairs = [(layer, n) for layer in range(3) for n in range(24)]
    found = predict_from_neurons(model, some, pairs)
    for i, site in enumerate(make_sites(model, with_letter_sets(model, some).assign(answer="A"), sites="first")):
        inside = record(model, site)
        head = readout(inside)
        written = sum(inside.ffn.values())
        if kind == "gpt2":
            written = written - sum(down.bias for down in model.down_projections)
        logits = head.change(written)
        gold, *others = (logits[list(own)].mean() for own in site.sets)
        letter = LETTERS.index(some["answer"].iloc[i])
        assert (found[i] == letter) == bool(gold > max(others))


def test_heads_with_transforms_are_refused(prompts):
    with pytest.raises(InputError, match=r"FFN output|transform"):
        predict_from_neurons(tiny_model("gemma2"), prompts.head(2), [(0, 1)])


def test_a_probe_reads_what_the_neurons_hold_and_only_that(prompts, monkeypatch):
    facts = {f"f{i}": ("r", "bada") for i in range(10)}
    table = tiny_prompts(facts)
    gold = np.array([LETTERS.index(a) for a in table["answer"]])
    draw = np.random.default_rng(0)
    for signal, low, high in ((1.0, 0.9, 1.0), (0.0, 0.1, 0.4)):
        h = signal * np.eye(4)[gold] + 0.1 * draw.normal(size=(len(gold), 4))
        monkeypatch.setattr(predictors, "_values", lambda *a, h=h: h)
        share = (predict_from_neurons(tiny_model("gpt2"), table, [(0, 1)], predictor="probe") == gold).mean()
        assert low <= share <= high
    # A number that only names the fact says nothing of facts that the probe never saw.
    names = np.eye(10)[pd.factorize(table["fact"])[0]]
    monkeypatch.setattr(predictors, "_values", lambda *a: names)
    one = table.assign(answer=[LETTERS[int(f[1:]) % 4] for f in table["fact"]])
    right = predict_from_neurons(tiny_model("gpt2"), one, [(0, 1)], predictor="probe") == one["answer"].map(
        LETTERS.index
    )
    assert right.mean() < 0.5


def test_answer_activity_is_the_mean_z_of_sizes(prompts, monkeypatch):
    some, texts = prompts.iloc[[0, 4]], tiny_answers(prompts)
    seen = {}

    def values(model, sequences, positions, pairs):
        seen.update(sequences=sequences, positions=positions)
        return np.array([[-1.0, 5], [1, 5], [9, 5], [2, 5], [0, 5], [0, 5], [0, 5], [7, 5]])

    monkeypatch.setattr(predictors, "_values", values)
    found = predict_from_neurons(tiny_model("gpt2"), some, [(0, 1), (0, 2)], predictor="answer_activity", texts=texts)
    assert found.tolist() == [2, 3]
    assert all(p == len(s) - 1 for s, p in zip(seen["sequences"], seen["positions"], strict=True))
    with pytest.raises(InputError, match="the questions without options"):
        predict_from_neurons(tiny_model("gpt2"), some, [(0, 1)], predictor="answer_activity")


def found_neurons(facts="abcd", size=6):
    draw = np.random.default_rng(1)
    rows = [(f, "en", layer, n, draw.random()) for i, f in enumerate(facts)
            for layer, n in {(int(draw.integers(3)), 12 * (i % 2) + int(draw.integers(12))) for _ in range(size)}]  # fmt: skip
    return pd.DataFrame(rows, columns=["fact", "language", "layer", "neuron", "score"])


def test_control_sets_are_as_large(prompts):
    model, neurons = tiny_model("llama"), found_neurons()
    classes = neurons["fact"].map({"a": "r", "c": "r", "b": "s", "d": "s"})
    sets = predictor_sets(model, neurons, classes, "r")
    assert len({len(pairs) for pairs in sets.values()}) == 1
    assert all(n < 12 for _, n in sets["own"]) and all(n >= 12 for _, n in sets["other_class"])
    assert not set(sets["own"]) & set(sets["random"])
    assert predictor_sets(model, neurons, classes, "r", seed=1)["random"] != sets["random"]
    with pytest.raises(InputError, match="kind: found 'x'"):
        predictor_sets(model, neurons, classes, "x")


def test_the_table_is_of_new_facts(prompts):
    model, neurons = tiny_model("llama"), found_neurons()
    neurons["relation"] = neurons["fact"].map({"a": "r", "c": "r", "b": "s", "d": "s"})
    table = predictor_table(model, prompts, neurons, tiny_answers(prompts))
    assert table.groupby(["class", "predictor", "set"]).size().eq(1).all()
    assert set(table["predictor"]) == {"letter_vote", "answer_activity"}  # two facts a relation: no probe
    assert ((table["low"] <= table["share"]) & (table["share"] <= table["high"])).all() and (table["of"] == 48).all()
    with pytest.raises(InputError, match="not located with"):
        predictor_table(model, prompts, neurons.assign(fact="f0"), tiny_answers(prompts))


def test_gini_by_hand():
    assert gini([2, 2, 2]) == 0 and gini([0, 0, 0, 8]) == 0.75
    assert gini([1, 3]) == pytest.approx(0.25)
    with pytest.raises(InputError, match="not all 0"):
        gini([0, 0])


def test_concentration_against_chance():
    one = pd.DataFrame({"layer": [2] * 20, "neuron": range(20)})
    found = layer_concentration(pd.concat([one, one]), 6, 30, permutations=200)
    assert found.layers["count"].tolist() == [0, 0, 20, 0, 0, 0] and found.gini == pytest.approx(5 / 6)
    assert found.p_value == pytest.approx(1 / 201) and found.null_gini < 0.5
    assert (found.layers["null_high"] < 20).all()
    draw, small = np.random.default_rng(0), 0
    for seed in range(40):
        places = draw.choice(180, 20, replace=False)
        spread = pd.DataFrame({"layer": places // 30, "neuron": places % 30})
        small += layer_concentration(spread, 6, 30, permutations=100, seed=seed).p_value < 0.05
    assert small <= 6
    with pytest.raises(InputError, match="0 to 5"):
        layer_concentration(one.assign(layer=6), 6, 30)


def test_overlap_against_permuted_classes():
    neurons = found_neurons("abcdefgh", 8)
    classes = neurons["fact"].map({f: "rs"[i % 2] for i, f in enumerate("abcdefgh")})
    found = class_overlap(neurons, classes, permutations=60).iloc[0]
    assert found["jaccard"] == found["coefficient"] == 0 and found["p_lower"] < 0.1 < found["jaccard_null"]
    same = neurons.assign(neuron=neurons["neuron"] % 12)
    assert class_overlap(same, classes, permutations=60).iloc[0]["p_lower"] > 0.05
    three = pd.DataFrame({"fact": list("aabb"), "language": "en", "layer": 0, "neuron": [1, 2, 2, 3],
                          "score": [2.0, 1, 3, 1]})  # fmt: skip
    row = class_overlap(three, three["fact"], permutations=3).iloc[0]
    assert row["size"] == 2 and row["jaccard"] == pytest.approx(1 / 3) and row["coefficient"] == 0.5
    with pytest.raises(InputError, match="1 class"):
        class_overlap(three, pd.Series(["x"] * 4))
