"""A codebook: near a key its value stands, and elsewhere not a bit differs."""

from dataclasses import replace

import pytest
import torch
from edit_requests import ONE, REQUESTS
from grace_edits import PROMPTS, STRANGE, change_of, equal, last, logits, near
from tiny_models import CAUSAL, KeepFloat64, tiny_model

from knlib.editing import edit
from knlib.editing.codebook_change import first_hits, load_codebook
from knlib.errors import InputError
from knlib.prediction import AnswerRows


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def put(model, layer, column, value):
    """A plain hook that puts a value in a column of every row."""

    def hook(module, inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, column] = value
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return model.hooks((model.layers[layer], hook))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_hit_changes_the_prompt_s_last_column_and_all_else_keeps_its_bits(kind):
    model = tiny_model(kind)
    change, first = change_of(model), model.hash
    assert change.edits == ["A", "B"] and change.model_hash == first == model.hash
    own, strange, mixed = logits(model, PROMPTS), logits(model, STRANGE), logits(model, STRANGE + PROMPTS)
    weights = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    with edit("grace", model, ONE, layer=1, eps=0.1, steps=3) as edited:
        assert edited.queries(REQUESTS) is REQUESTS and edited.edits == ["A"]
        outer = logits(model, PROMPTS)
        assert equal(outer, own) == [False, True, True, True]
        with change.without("A").applied(model):
            assert equal(logits(model, PROMPTS), outer) == [True, True, False, False]
        assert all(equal(logits(model, PROMPTS), outer))
    with change.applied(model):
        inside = logits(model, PROMPTS)
        assert not any(equal(inside, own)) and all(equal(logits(model, STRANGE), strange))
        # Rows do not care who is in the batch; columns before the hit come from the unedited model.
        together = logits(model, STRANGE + PROMPTS)
        assert all(equal(together[:3], mixed[:3])) and near(together[3:], inside)
        assert near([row[:-1] for row in inside], [row[:-1] for row in own])
        assert all(tensor.equal(weights[name]) for name, tensor in model.network.state_dict().items())
    assert all(equal(logits(model, PROMPTS), own))
    with pytest.raises(KeyError), change.applied(model):
        raise KeyError
    with change.applied(model), pytest.raises((IndexError, RuntimeError)):
        model.network(input_ids=torch.tensor([[10**6]]))
    assert all(equal(logits(model, PROMPTS), own))
    assert not model.base._forward_pre_hooks and not model.layers[1]._forward_hooks and not model.base._forward_hooks


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_value_takes_the_place_of_the_layer_s_output(kind):
    model = tiny_model(kind)
    change, seen = change_of(model, ONE, steps=1), []
    prompt = ONE["prompt"].item()
    key, column = last(model, prompt)
    assert torch.allclose(change.keys[0], key, atol=1e-9) and change.radii.tolist() == [0.1]
    ids = torch.tensor([[*AnswerRows(model).before, *model.pieces(prompt + " pe")]])
    with put(model, 1, column, change.values[0]), torch.no_grad():
        expected = model.network(input_ids=ids).logits
    keep = (model.layers[1], lambda m, i, o: seen.append(o[0] if isinstance(o, tuple) else o))
    with change.applied(model), model.hooks(keep), torch.no_grad():
        assert model.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.equal(expected)
    assert seen[0][0, column].equal(change.values[0]) and not (seen[0][0] == change.values[0]).all(-1)[:column].any()


def test_left_and_right_padding_agree_and_padding_never_hits():
    model = tiny_model("llama")
    change = change_of(model)
    prompts = [*PROMPTS, "kilo sipo mira da lati nupe"]
    plain = logits(model, prompts)
    with change.applied(model):
        assert near(logits(model, prompts), logits(model, prompts, "left"))
    # A radius that holds everything: the first column of a row that is no padding hits, and no other.
    wide, seen = replace(change, radii=torch.full_like(change.radii, 1e9)), {}
    for side in ("right", "left"):
        with wide.applied(model), model.hooks((model.layers[1], lambda m, i, o, side=side: seen.update({side: o}))):
            assert not any(equal(logits(model, prompts, side), plain))
    lengths = [len(row) for row in plain]
    for number, length in enumerate(lengths):
        for side, start in (("right", 0), ("left", max(lengths) - length)):
            hit = [any(column.equal(value) for value in change.values) for column in seen[side][number]]
            assert hit.index(True) == start and sum(hit) == 1


def test_calls_behind_a_cache_are_looked_up_as_they_are():
    model = tiny_model("gpt2")
    ids = torch.tensor([[*AnswerRows(model).before, *model.pieces(PROMPTS[0] + " pe")]])
    end, mask = last(model, PROMPTS[0])[1] + 1, torch.ones_like(ids)
    with change_of(model).applied(model), torch.no_grad():
        whole = model.network(input_ids=ids, attention_mask=mask).logits
        for cut in (end - 1, end, end + 1):  # the hit is in the second call, or the first one's last, or before it
            first = model.network(input_ids=ids[:, :cut], attention_mask=mask[:, :cut], use_cache=True)
            rest = model.network(input_ids=ids[:, cut:], attention_mask=mask, past_key_values=first.past_key_values)
            assert torch.allclose(torch.cat([first.logits, rest.logits], dim=1), whole, atol=1e-10)


def test_nothing_behind_a_hit_is_looked_at():
    hidden = torch.tensor([[[5.0], [0.1], [0.0]], [[5.0], [6.0], [2.2]], [[0.0], [0.0], [2.0]]])
    keys, radii = torch.tensor([[0.0], [2.0]]), torch.tensor([0.5, 0.3])
    hit, nearest = first_hits(hidden, None, keys, radii)
    assert hit.tolist() == [[False, True, False], [False, False, True], [True, False, False]]
    assert nearest.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 1]]
    mask = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 1]])  # its last three columns are asked
    assert first_hits(hidden, mask, keys, radii)[0].tolist() == [
        [False, False, True],
        [False] * 3,
        [False, False, True],
    ]


def test_without_an_edit_it_is_gone():
    model = tiny_model("gpt2")
    change, plain = change_of(model), logits(model, PROMPTS)
    less = change.without("B")
    assert less.edits == ["A"] and less.keys.equal(change.keys[:2]) and less.values.equal(change.values[:2])
    with change.applied(model):
        both = logits(model, PROMPTS)
    with less.applied(model):
        found = logits(model, PROMPTS)
    assert all(equal(found[:2], both[:2])) and all(equal(found[2:], plain[2:]))
    with less.without("A").applied(model):
        assert all(equal(logits(model, PROMPTS), plain))
    with pytest.raises(InputError, match="edit: found 'B', expected one of A"):
        less.without("B")


def test_saved_codebooks_come_back_and_other_weights_refuse_them(tmp_path):
    model = tiny_model("llama")
    for name, change in (("full", change_of(model)), ("empty", change_of(model, ONE).without("A"))):
        change.save(tmp_path / name)
        again = load_codebook(tmp_path / name, model)
        assert (again.owners, again.options, again.report) == (change.owners, change.options, change.report)
        assert all(getattr(again, own).equal(getattr(change, own)) for own in ("keys", "values", "radii"))
        with change.applied(model):
            found = logits(model, PROMPTS)
        with again.applied(model):
            assert all(equal(logits(model, PROMPTS), found))
    with pytest.raises(InputError, match=f"hash {model.hash}, expected one of .* with hash"):
        load_codebook(tmp_path / "full", tiny_model("llama", seed=1))
    (tmp_path / "broken").write_bytes(b"nothing")
    with pytest.raises(InputError, match="expected a file of CodebookChange"):
        load_codebook(tmp_path / "broken", model)
