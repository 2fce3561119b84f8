"""Interventions do what they say and leave no trace; effects equal a loop over queries and conditions."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.controls import activation_matched, generator, layer_matched, random_neurons
from knlib.errors import InputError
from knlib.intervention import effects, enhance, neuron_pairs, replace, scale, suppress
from knlib.prediction import score_answers

KINDS = ["gpt2", "llama", "opt", "bloom", "bert", "distilbert"]
PAIRS = [(0, 3), (1, 7), (1, 20), (2, 11)]


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def inputs(model):
    ids = torch.arange(5, 19).reshape(2, 7)
    mask = torch.ones_like(ids)
    ids[1, 5:], mask[1, 5:] = model.tokenizer.pad_token_id, 0
    if model.kind == "masked":
        ids[0, 2] = ids[1, 3] = ids[1, 4] = model.tokenizer.mask_token_id
    return {"input_ids": ids, "attention_mask": mask}


def logits(model):
    return model.network(**inputs(model)).logits


def column(projection, neuron):
    """The part of the down-projection's weight that the neuron multiplies (a view)."""
    return projection.weight[neuron] if type(projection).__name__ == "Conv1D" else projection.weight[:, neuron]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_scaling_everywhere_is_scaling_columns(kind, factor):
    model = tiny_model(kind)
    before = logits(model)
    with scale(model, PAIRS, factor, "all"):
        changed = logits(model)
    assert torch.equal(logits(model), before)
    for layer, neuron in PAIRS:
        column(model.down_projections[layer], neuron).mul_(factor)
    assert torch.allclose(changed, logits(model), atol=1e-12)
    assert (changed - before).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_enhancing_doubles_what_the_neuron_adds(kind):
    """The neuron is after the non-linearity: doubling it adds its activation times its column once more."""
    model, (layer, neuron) = tiny_model(kind), (1, 7)
    projection, seen = model.down_projections[layer], []
    handle = projection.register_forward_hook(lambda m, i, o: seen.append((i[0], o)))
    logits(model)
    with enhance(model, [(layer, neuron)], "all"):
        logits(model)
    handle.remove()
    (activation, before), (_, after) = seen
    assert torch.allclose(after - before, activation[..., neuron, None] * column(projection, neuron), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_answer_positions_and_explicit_ones(kind):
    model = tiny_model(kind)
    where = [[6], [4]] if model.kind == "causal" else [[2], [3, 4]]
    projection, seen = model.down_projections[1], []
    handle = projection.register_forward_hook(lambda m, i, o: seen.append(i[0].reshape(2, 7, -1)[..., 7]))
    logits(model)
    for positions in ("answer", where):
        with replace(model, [(1, 7)], 5.0, positions):
            logits(model)
    handle.remove()
    expected = seen[0].clone()
    for row, columns in enumerate(where):
        expected[row, columns] = 5.0
    assert torch.equal(seen[1], expected) and torch.equal(seen[2], expected)


def test_replace_takes_one_value_per_neuron_and_the_first_of_duplicates():
    model, seen = tiny_model("llama"), []
    handle = model.down_projections[1].register_forward_hook(lambda m, i, o: seen.append(i[0][..., [7, 20]]))
    with replace(model, [(1, 20), (1, 7), (1, 20)], np.array([1.0, 2.0, 3.0]), "all"):
        logits(model)
    handle.remove()
    assert torch.equal(seen[0], torch.tensor([2.0, 1.0], dtype=torch.float64).expand_as(seen[0]))
    with pytest.raises(InputError, match="values"), replace(model, [(1, 20), (1, 7)], np.ones(3)):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_restored_bit_for_bit_however_the_block_ends(kind):
    model = tiny_model(kind)
    before = logits(model)
    with suppress(model, PAIRS), enhance(model, [(0, 1)], "all"):
        inside = logits(model)
    assert torch.equal(logits(model), before) and not torch.equal(inside, before)
    with pytest.raises(KeyError), suppress(model, PAIRS), enhance(model, PAIRS):
        raise KeyError
    with pytest.raises(InputError, match="positions"), suppress(model, PAIRS, [[99], [0]]):
        logits(model)
    assert torch.equal(logits(model), before)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.network.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_empty_set_duplicates_and_nesting(kind):
    model = tiny_model(kind)
    before = logits(model)
    with suppress(model, [], "all"):
        assert torch.equal(logits(model), before)
    with scale(model, PAIRS, 3.0):
        once = logits(model)
    table = pd.DataFrame(PAIRS * 2, columns=["layer", "neuron"])
    with scale(model, table, 3.0):
        assert torch.equal(logits(model), once)
    with scale(model, PAIRS, 1.5), scale(model, PAIRS, 2.0):
        assert torch.allclose(logits(model), once, atol=1e-12)


@pytest.mark.parametrize("neurons", [[(3, 0)], [(0, 24)], [(-1, 0)], pd.DataFrame({"layer": [0]})])
def test_neurons_that_the_model_lacks_are_refused(neurons):
    with pytest.raises(InputError, match="neurons"):
        neuron_pairs(tiny_model("gpt2"), neurons)


QUERIES = pd.DataFrame({
    "query": ["f1|x", "f1|y", "f2|x"], "fact": ["f1", "f1", "f2"], "language": ["en", "de", "en"], "relation": ["r"] * 3,
    "subject": ["kilo", "kilo", "sipo"], "prompt": ["bada kilo", "nu kilo ma", "sipo ta"], "space": [""] * 3,
    "answer": ["pe", "lati", "mo"], "suffix": ["."] * 3,
})  # fmt: skip
NEURONS = pd.DataFrame({"fact": ["f1", "f1", "f1", "f2"], "language": ["en", "en", "de", "en"], "layer": [0, 1, 2, 1],
                        "neuron": [3, 7, 11, 20], "score": 1.0})  # fmt: skip
FACTS = pd.DataFrame({"relation": ["r"] * 3, "object": [
    {"en": ["pe"], "de": ["lati"]}, {"en": ["mo"], "de": ["ka"]}, {"en": ["su"], "de": ["di"]}]})  # fmt: skip


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_effects_are_those_of_zeroed_columns(kind):
    """Positions `all`: the same as a model whose columns are zero, query by query."""
    model = tiny_model(kind)
    found = effects(model, QUERIES, NEURONS, controls=(), positions="all", facts=FACTS).set_index("query")
    for row in QUERIES.itertuples():
        own = NEURONS[(NEURONS["fact"] == row.fact) & (NEURONS["language"] == row.language)]
        other = tiny_model(kind)
        for pair in own.itertuples():
            column(other.down_projections[pair.layer], pair.neuron).zero_()
        options = [names[row.language][0] for names in FACTS["object"]]
        for name, network in (("before", model), ("after", other)):
            scores = dict(
                zip(options, score_answers(network, [row.prompt] * 3, [""] * 3, options, ["."] * 3), strict=True)
            )
            assert found.loc[row.query, f"log_p_{name}"] == pytest.approx(scores[row.answer], rel=1e-9)
            assert found.loc[row.query, f"rank_{name}"] == 1 + sum(s > scores[row.answer] for s in scores.values())
        assert found.loc[row.query, "n"] == len(own)


def test_effects_at_the_answer_and_at_the_subject():
    model = tiny_model("llama")
    query = QUERIES.iloc[[0]]
    ids = [*model.specials[0], *model.pieces("bada kilo")]
    assert model.tokenizer.convert_ids_to_tokens(ids) == ["<s>", "▁", "ba", "da", "▁", "ki", "lo"]
    target = model.tokenizer.convert_tokens_to_ids("pe")
    for positions, columns in (("answer", [6]), ("subject", [5, 6])):
        found = effects(model, query, NEURONS, factor=2.0, controls=(), positions=positions)
        with enhance(model, [(0, 3), (1, 7)], [columns]):
            expected = model.network(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)[target]
        assert found["log_p_after"].item() == pytest.approx(expected.item(), rel=1e-9)


def test_effects_match_by_fact_and_language_or_by_fact():
    model = tiny_model("gpt2")
    assert effects(model, QUERIES, NEURONS, controls=())["n"].tolist() == [2, 1, 1]
    assert effects(model, QUERIES, NEURONS, controls=(), match=("fact",))["n"].tolist() == [3, 3, 1]
    assert effects(model, QUERIES, NEURONS.drop(columns="language"), controls=())["n"].tolist() == [3, 3, 1]


def test_controls_match_and_exclude():
    draw = generator(0, "a")
    pairs = ((0, 3), (1, 7), (1, 20))
    activations = np.arange(72.0).reshape(3, 24)
    for found in (
        random_neurons(pairs, 3, 24, draw),
        layer_matched(pairs, 24, draw),
        activation_matched(pairs, activations, draw),
    ):
        assert len(set(found)) == 3 and not set(found) & set(pairs)
    for found in (layer_matched(pairs, 24, draw), activation_matched(pairs, activations, draw)):
        assert [layer for layer, _ in found] == [0, 1, 1]
    crowd = tuple((0, n) for n in range(12))
    assert set(layer_matched(crowd, 24, draw)) == {(0, n) for n in range(12, 24)}
    with pytest.raises(InputError, match="at most half"):
        layer_matched((*crowd, (0, 12)), 24, draw)


def test_activation_matched_takes_similar_sizes():
    activations = np.concatenate([np.full(50, 0.1), np.full(30, -5.0)])[None]
    found = activation_matched(tuple((0, n) for n in (50, 60, 70)), activations, generator(0))
    assert all(neuron >= 50 for _, neuron in found)


def test_effects_with_controls_depend_on_the_seed_and_not_on_the_order():
    model = tiny_model("gpt2")
    controls = ("random", "layer_matched", "activation_matched")
    first = effects(model, QUERIES, NEURONS, controls=controls, seed=1)
    assert first["condition"].tolist() == ["neurons", *controls] * 3
    again = effects(model, QUERIES[::-1], NEURONS, controls=controls, seed=1)
    key = ["query", "condition"]
    a, b = (t.set_index(key).sort_index() for t in (first, again))
    assert np.allclose(a["log_p_after"], b["log_p_after"], rtol=1e-12)
    other = effects(model, QUERIES, NEURONS, controls=controls, seed=2)
    assert (other["p_after"] != first["p_after"])[first["condition"] == "random"].all()


def test_other_fact_is_a_fact_of_the_relation_and_language():
    model = tiny_model("gpt2")
    pair = QUERIES.iloc[[0, 2]]
    found = effects(model, pair, NEURONS, controls=("other_fact",)).set_index(["query", "condition"])
    swapped = NEURONS.assign(fact=NEURONS["fact"].map({"f1": "f2", "f2": "f1"}))
    expected = effects(model, pair, swapped, controls=()).set_index("query")
    for query in ("f1|x", "f2|x"):
        assert found.loc[(query, "other_fact"), "log_p_after"] == pytest.approx(expected.loc[query, "log_p_after"])
    with pytest.raises(InputError, match="another fact"):
        effects(model, QUERIES, NEURONS, controls=("other_fact",))  # the German query has none
    with pytest.raises(InputError, match="controls"):
        effects(model, QUERIES, NEURONS, controls=("lucky",))


def test_empty_neuron_sets_change_nothing():
    found = effects(tiny_model("bert"), QUERIES, NEURONS.iloc[:0].assign(fact=""), controls=("layer_matched",))
    assert (found["n"] == 0).all() and np.allclose(found["p_before"], found["p_after"], rtol=1e-12)
