"""FT-L and FT-M: the box, the two losses, and that training leaves nothing behind."""

import edit_tables
import pytest
import torch
from edit_losses import examples_loss
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.fine_tuning import answer_examples, ft_l, ft_m
from knlib.editing.requests import prompt_rows
from knlib.errors import InputError
from knlib.models import by_input
from knlib.prediction import answer_tokens, score_answers


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def requests(*facts):
    table = edit_tables.queries("request")
    return table[table["fact"].isin(facts)].assign(edit=table["fact"])


ONE = requests("r:B")
TWO = requests("r:B", "r:C")


def weights(model):
    return {name: w.clone() for name, w in model.network.state_dict().items()}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("find", [ft_l, ft_m])
def test_the_change_found_is_what_training_did_and_the_model_is_as_before(kind, find):
    model = tiny_model(kind)
    before, hash_before = weights(model), model.hash
    change = find(model, TWO, layer=1, lr=1e-2, steps=4, box=None)
    assert change.edits == ["r:B", "r:C"] and change.model_hash == hash_before == model.hash
    assert all(w.equal(before[name]) for name, w in model.network.state_dict().items())
    assert not any(p.requires_grad for p in model.network.parameters())
    with change.applied(model):
        changed = {name for name, w in model.network.state_dict().items() if not w.equal(before[name])}
        assert len(changed) == 1
        # The last edit's losses were those of the model as it is now.
        own = prompt_rows(model, TWO[TWO["fact"] == "r:C"])
        now = examples_loss(model, answer_examples(model, own, at_once=find is ft_l)).item()
        assert change.report["tuned"][1]["loss"] == pytest.approx(now, rel=1e-6)
    assert all(w.equal(before[name]) for name, w in model.network.state_dict().items())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_no_entry_leaves_the_box_at_any_step(kind):
    model = tiny_model(kind)
    for steps in (1, 2, 5):
        (part,) = ft_l(model, ONE, layer=0, lr=3e-3, steps=steps, box=4e-3).parts
        change = part.outputs @ part.keys.T
        assert change.abs().max() <= 4e-3 * (1 + 1e-9)
    assert (change.abs() > 3.99e-3).any()  # the box was felt
    (part,) = ft_l(model, ONE, layer=0, lr=3e-3, steps=5, box=None).parts
    assert (part.outputs @ part.keys.T).abs().max() > 4e-3


def test_ft_m_is_the_likelihood_and_ft_l_is_not_unless_the_answer_is_one_token():
    model = tiny_model("llama")
    rows = prompt_rows(model, ONE)
    sizes = [len(answer_tokens(model, r.prompt, r.space, r.new)) for r in rows.itertuples()]
    assert min(sizes) > 1
    scores = score_answers(model, *(rows[c] for c in ("prompt", "space", "new", "suffix")))
    expected = -sum(score / size for score, size in zip(scores, sizes, strict=True)) / len(rows)
    assert examples_loss(model, answer_examples(model, rows)).item() == pytest.approx(expected, rel=1e-6)
    at_once = examples_loss(model, answer_examples(model, rows, at_once=True)).item()
    assert at_once != pytest.approx(expected, rel=1e-3)
    # One token: the blank that the tiny tokenizer puts before a word.
    short = rows.assign(space="", new=" ")
    assert {len(answer_tokens(model, r.prompt, r.space, r.new)) for r in short.itertuples()} == {1}
    losses = [examples_loss(model, answer_examples(model, short, at_once=which)).item() for which in (False, True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_training_stops_where_nothing_is_left_to_learn(monkeypatch):
    model = tiny_model("gpt2")
    monkeypatch.setattr("knlib.editing.fine_tuning.STOP", 1e9)
    change = ft_m(model, ONE, layer=0)
    (part,) = change.parts
    assert change.report["tuned"][0]["steps"] == 0 and not (part.outputs @ part.keys.T).any()


def test_the_loss_falls_and_the_weight_moves_by_what_was_found():
    for kind in ("gpt2", "llama"):
        model = tiny_model(kind)
        start = examples_loss(model, answer_examples(model, prompt_rows(model, ONE))).item()
        change = ft_m(model, ONE, layer=1, lr=1e-2, steps=8)
        assert change.report["tuned"][0]["loss"] < start - 0.05
        (part,) = change.parts
        projection = model.down_projections[1]
        before = by_input(projection, projection.weight).clone()
        with change.applied(model):
            after = by_input(projection, projection.weight)
            assert torch.allclose(after - before, part.keys @ part.outputs.T, atol=1e-12)


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(InputError, match="layer: found 9"):
        ft_m(tiny_model("gpt2"), ONE, layer=9)
