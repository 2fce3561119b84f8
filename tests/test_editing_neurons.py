"""Edits of columns do what the formula says, are all in force together, and leave no bit behind."""

import pandas as pd
import pytest
import torch
from test_localization_model import AGNOSTIC, LAST, SPECIFIC, planted_model
from tiny_models import KeepFloat64, tiny_model

from knlib.editing import answer_directions, enhance, scale_columns, suppress, value_edit
from knlib.errors import InputError
from knlib.intervention import scale
from knlib.prediction import score_answers

KINDS = ["gpt2", "llama", "bert", "opt"]
PAIRS = [(0, 3), (1, 7), (1, 20), (2, 11)]
# Two languages of the fact a: their old and new answers begin with different syllables.
EDITS = pd.DataFrame(
    [("a", "en", "bada kilo", " ", "pe", "mota"), ("b", "en", "nu sipo", " ", "mola", "morito"),
     ("a", "ja", "sipo", "", "suda", "ki")],
    columns=["fact", "language", "prompt", "space", "answer", "new"],
)  # fmt: skip
NEURONS = pd.DataFrame(
    [("a", 0, 3), ("a", 1, 7), ("b", 1, 7), ("b", 2, 11), ("c", 2, 5)], columns=["fact", "layer", "neuron"]
)


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def logits(model):
    ids = torch.arange(5, 19).reshape(2, 7)
    return model.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def weights(model):
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def same(model, before):
    return all(tensor.equal(before[name]) for name, tensor in model.network.state_dict().items())


def token(model, text):
    return model.tokenizer.convert_tokens_to_ids(text)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.0, 1.5, 2.0])
def test_scaled_columns_are_scaled_neurons(kind, factor):
    model = tiny_model(kind)
    before = logits(model)
    with scale(model, PAIRS, factor, "all"):
        expected = logits(model)
    with scale_columns(model, PAIRS * 2, factor):
        found = logits(model)
    assert torch.allclose(found, expected, atol=1e-12) and (found - before).abs().max() > 1e-4


def test_suppress_and_enhance_are_factors_0_and_2():
    model = tiny_model("llama")
    column = model.column(1, 7).clone()
    with suppress(model, pd.DataFrame({"layer": [1], "neuron": [7]})):
        assert (model.column(1, 7) == 0).all()
    with enhance(model, [(1, 7)]):
        assert model.column(1, 7).equal(2 * column)


@pytest.mark.parametrize("kind", KINDS)
def test_restored_bit_for_bit_however_the_block_ends(kind):
    model = tiny_model(kind)
    before = weights(model)
    with value_edit(model, EDITS, NEURONS), scale_columns(model, PAIRS, 1.7):
        with value_edit(model, EDITS.head(1), NEURONS), suppress(model, PAIRS):
            assert (model.column(1, 20) == 0).all()
        assert not same(model, before)
    assert same(model, before)
    with pytest.raises(KeyError), value_edit(model, EDITS, NEURONS), enhance(model, PAIRS):
        raise KeyError
    assert same(model, before)
    with pytest.raises(InputError), value_edit(model, EDITS, NEURONS), scale_columns(model, [(9, 0)], 2.0):
        pass
    assert same(model, before)


def test_the_block_does_not_track_or_stop_tracking_gradients():
    model = tiny_model("gpt2")
    model.network.requires_grad_()
    before = model.column(1, 7).clone()
    with value_edit(model, EDITS, NEURONS):
        assert torch.is_grad_enabled() and logits(model).requires_grad
    assert model.column(1, 7).equal(before)


def test_the_hash_is_that_of_the_weights_inside_and_after():
    model = tiny_model("gpt2")
    first = model.hash
    with suppress(model, PAIRS):
        inside = model.hash
    assert inside != first and model.hash == first


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_the_formula_by_hand(kind):
    """One language, one fact: 'mola' -> 'morito' differ in their second syllables, la and ri."""
    model = tiny_model(kind)
    rows = model.network.get_output_embeddings().weight
    if kind == "gpt2":
        assert rows is model.network.transformer.wte.weight
    old, new = rows[token(model, "la")], rows[token(model, "ri")]
    v = model.column(2, 11).clone()
    with value_edit(model, EDITS, NEURONS[NEURONS["fact"] == "b"], l1=0.5, l2=3.0):
        found = model.column(2, 11).clone()
    expected = v - 0.5 * v.norm() / old.norm() * old + 3.0 * v.norm() / new.norm() * new
    assert torch.allclose(found, expected, atol=1e-12)


def test_defaults_are_those_of_dai_et_al():
    model = tiny_model("gpt2")
    with value_edit(model, EDITS.head(1), NEURONS):
        found = model.column(0, 3).clone()
    with value_edit(model, EDITS.head(1), NEURONS, l1=1.0, l2=8.0):
        assert model.column(0, 3).equal(found)


def test_directions_are_a_mean_of_unit_rows_over_languages():
    model = tiny_model("llama")
    rows = model.network.get_output_embeddings().weight
    rows = rows / rows.norm(dim=1, keepdim=True)
    # Behind a blank the answer begins with a word mark of its own, the same for both: the syllables differ.
    old, new = answer_directions(model, EDITS[EDITS["fact"] == "a"])
    assert torch.allclose(old, (rows[token(model, "pe")] + rows[token(model, "su")]) / 2, atol=1e-12)
    assert torch.allclose(new, (rows[token(model, "mo")] + rows[token(model, "ki")]) / 2, atol=1e-12)
    old, new = answer_directions(model, EDITS.head(1))
    assert torch.allclose(old, rows[token(model, "pe")]) and torch.allclose(new.norm(), torch.ones(()).double())


def test_all_edits_are_in_force_together_in_any_order():
    model = tiny_model("gpt2")
    v = {pair: model.column(*pair).clone() for pair in ((0, 3), (1, 7), (2, 11), (2, 5))}
    changes = []
    for fact in ("a", "b"):
        with value_edit(model, EDITS[EDITS["fact"] == fact], NEURONS):
            changes.append({pair: model.column(*pair) - column for pair, column in v.items()})
    for order in (EDITS, EDITS[::-1]):
        with value_edit(model, order, NEURONS.sample(frac=1, random_state=1)):
            for pair, column in v.items():
                assert torch.allclose(model.column(*pair), column + changes[0][pair] + changes[1][pair], atol=1e-12)
    assert changes[0][1, 7].abs().max() > 0 and changes[1][1, 7].abs().max() > 0
    assert not changes[0][2, 5].any() and not changes[1][0, 3].any()


def test_duplicates_count_once():
    model = tiny_model("gpt2")
    with value_edit(model, EDITS, NEURONS):
        once = weights(model)
    with value_edit(model, EDITS, pd.concat([NEURONS, NEURONS])):
        assert same(model, once)


def test_planted_neurons_carry_an_edit_to_the_languages_that_they_serve():
    """Agnostic neurons edited in English change the answer everywhere, a neuron of English alone only there."""
    model = planted_model()
    edit = pd.DataFrame([("f", "en", "bada ki", "", "mo", "so")], columns=EDITS.columns)

    def advantage():
        prompts = [f"bada {last}" for last in LAST.values()]
        scores = [score_answers(model, prompts, [""] * 3, [text] * 3, ["."] * 3) for text in ("so", "mo")]
        return pd.Series(scores[0] - scores[1], LAST)

    before = advantage()
    assert (before < 0).all()
    with value_edit(model, edit, pd.DataFrame(list(AGNOSTIC), columns=["layer", "neuron"]).assign(fact="f")):
        assert (advantage() > 0).all()
    with value_edit(model, edit, pd.DataFrame([("f", *SPECIFIC["en"])], columns=NEURONS.columns)):
        change = advantage() - before
    assert change["en"] > 0.1 and change[["ru", "ja"]].abs().max() < 1e-3


def test_bad_input_is_named():
    model = tiny_model("gpt2")
    cases = [
        (EDITS.drop(columns="new"), NEURONS, "edits: found"),
        (EDITS, NEURONS.drop(columns="fact"), "neurons: found"),
        (EDITS, NEURONS.assign(neuron=99), r"neurons: found \(0, 99\)"),
        (EDITS.head(1).assign(new="pela"), NEURONS, "fact a: found 'pe' -> 'pela', expected answers, neither of which"),
    ]
    for edits, neurons, message in cases:
        with pytest.raises(InputError, match=message), value_edit(model, edits, neurons):
            pass
    electra = tiny_model("electra", embedding_size=8)
    with (
        pytest.raises(InputError, match="output embedding: found rows of 8 numbers, expected 16"),
        value_edit(electra, EDITS, NEURONS),
    ):
        pass
