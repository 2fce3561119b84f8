"""Attention after the softmax: an edit that changes nothing changes no bit, every query head has its own, nothing is left behind."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_model

from knlib.errors import InputError
from knlib.query_localization.attention import captured_attention, edited_attention
from knlib.sites import padded, uncached

OPEN = ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "gemma2", "opt", "phi3", "bert", "xlm-roberta", "distilbert",
        "eurobert", "modernbert"]  # fmt: skip
HIDDEN = ["bloom", "gptj", "gpt_neo", "deberta-v2"]
ROWS = [(5, 9, 30, 44, 77, 61, 12, 8), (5, 33, 10, 60, 7)]


def logits(model, rows=ROWS):
    ids, mask = padded(rows, model.tokenizer.pad_token_id, "right", "cpu")
    with torch.no_grad():
        found = model.network(input_ids=ids, attention_mask=mask, **uncached(model)).logits
    return [found[i, : len(row)] for i, row in enumerate(rows)]


def ones(model, rows=2, columns=8):
    return torch.ones(rows, model.n_layers, 4, columns)


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())


@pytest.mark.parametrize("kind", OPEN)
def test_an_edit_that_changes_nothing_is_bit_equal_to_eager_attention(kind):
    model = tiny_model(kind, dtype=torch.float32)
    before, implementation = logits(model), model.network.config._attn_implementation
    with captured_attention(model) as seen:
        captured = logits(model)
    with edited_attention(model, ones(model)):
        identity = logits(model)
    factors = ones(model)
    factors[1, 1, 2, 1] = 0.0
    with edited_attention(model, factors):
        one_edited = logits(model)
    assert model.network.config._attn_implementation == implementation
    assert all(torch.equal(a, b) for a, b in zip(logits(model), before, strict=True))
    model.network.set_attn_implementation("eager")
    eager = logits(model)
    for found in (captured, identity):
        assert all(torch.equal(a, b) for a, b in zip(found, eager, strict=True))
    # A row beside an edited one, and layers around it, run through the edit without a change.
    assert torch.equal(one_edited[0], eager[0])
    assert not torch.allclose(one_edited[1], eager[1], atol=1e-4)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(eager, before, strict=True))
    assert [w.shape for w in seen.weights] == [(2, 4, 8, 8)] * 3


def heads_read(model, layer, rows):
    """What the output projection of a layer's attention gets, and the values it is made of, [row, heads, tokens, width]."""
    module = model.layers[layer].self_attn if hasattr(model.layers[layer], "self_attn") else model.layers[layer].attn
    projection = module.o_proj if hasattr(module, "o_proj") else module.c_proj
    source, found = module.v_proj if hasattr(module, "v_proj") else module.c_attn, {}
    handles = [
        projection.register_forward_pre_hook(lambda m, inputs: found.update(heads=inputs[0])),
        source.register_forward_hook(lambda m, inputs, output: found.update(values=output)),
    ]
    logits(model, rows)
    for handle in handles:
        handle.remove()
    values = found["values"][..., -16:] if source is not getattr(module, "v_proj", None) else found["values"]
    return found["heads"].unflatten(-1, (4, -1)).transpose(1, 2), values.unflatten(-1, (-1, 4)).transpose(1, 2)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2"])
@pytest.mark.parametrize("head", range(4))
def test_a_factor_acts_on_one_query_head_alone(kind, head):
    # Llama and Qwen2 have two query heads for each key head; the reference knows nothing of the library's edit.
    model, layer, column, factor = tiny_model(kind), 1, 2, 0.25
    rows = ROWS[:1]
    with captured_attention(model) as seen:
        before, values = heads_read(model, layer, rows)
    weights = seen.weights[layer]
    factors = ones(model, rows=1)
    factors[0, layer, head, column] = factor
    with edited_attention(model, factors) as edited:
        after, _ = heads_read(model, layer, rows)
    expected = before.clone()
    own = values[:, head // (4 // values.shape[1]), column]
    expected[:, head] -= (1 - factor) * weights[:, head, :, column, None] * own[:, None]
    assert torch.allclose(after, expected, atol=1e-12)
    assert torch.allclose(edited.weights[layer][0, head, :, column], factor * weights[0, head, :, column])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "eurobert"])
def test_renormalised_rows_sum_to_one_and_equal_those_masked_before_the_softmax(kind):
    model = tiny_model(kind)
    factors = ones(model)
    factors[:, 1, 2, [1, 3]] = 0.0
    factors[:, 2, 0, 4] = 2.0
    found = {}
    for operator in ("renormalised", "masked", "plain"):
        with edited_attention(model, factors, operator=operator) as seen:
            found[operator] = logits(model)
        if operator != "plain":
            assert torch.allclose(seen.weights[1].sum(-1), torch.ones(()).double(), atol=1e-6)
            assert seen.weights[1][:, 2, :, [1, 3]].abs().max() == 0
    pairs = zip(found["renormalised"], found["masked"], found["plain"], strict=True)
    for renormalised, masked, plain in pairs:
        assert torch.allclose(renormalised, masked, atol=1e-5)
        assert not torch.allclose(renormalised, plain, atol=1e-3)


@pytest.mark.parametrize("operator", ["plain", "renormalised", "masked"])
def test_a_token_that_sees_only_suppressed_columns_looks_at_nothing(operator):
    model = tiny_model("llama")
    factors = ones(model)
    factors[:, 0, 1, 0] = 0.0
    with edited_attention(model, factors, operator=operator) as seen:
        found = logits(model)
    assert seen.weights[0][:, 1, 0].abs().max() == 0  # the first token sees itself alone
    assert not torch.triu(seen.weights[0][0, 1], 1).any()
    assert all(torch.isfinite(x).all() for x in found)


def test_the_same_factor_everywhere_renormalises_away():
    model = tiny_model("llama")
    with captured_attention(model) as clean:
        before = logits(model)
    with edited_attention(model, ones(model) * 0.5, operator="renormalised") as seen:
        after = logits(model)
    assert torch.allclose(seen.weights[0], clean.weights[0], atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(after, before, strict=True))


def test_visible_columns_are_those_that_mask_window_and_padding_leave():
    model = tiny_model("mistral")  # sees 5 columns
    with captured_attention(model) as seen:
        logits(model)
    visible = seen.visible[0][:, 0].numpy()
    rows, columns = np.indices((8, 8))
    assert (visible[0] == ((columns <= rows) & (rows - columns < 5))).all()
    assert not visible[1, :5, 5:].any() and visible[1, 4, :5].all()


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_hooks_and_kernel_are_as_before_after_an_exception(kind):
    model = tiny_model(kind, dtype=torch.float32)
    before, hooks, implementation = logits(model), hooks_of(model), model.network.config._attn_implementation
    factors = ones(model)
    factors[:, 0, 0, 0] = 0.0
    with pytest.raises(KeyError), edited_attention(model, factors):
        assert model.network.config._attn_implementation != implementation
        raise KeyError
    assert hooks_of(model) == hooks and model.network.config._attn_implementation == implementation
    assert all(torch.equal(a, b) for a, b in zip(logits(model), before, strict=True))
    with captured_attention(model):  # no block is thought to be open
        pass


@pytest.mark.parametrize("kind", HIDDEN)
def test_attention_in_code_of_its_own_is_refused_with_words(kind):
    model = tiny_model(kind, dtype=torch.float32)
    before, hooks = logits(model), hooks_of(model)
    name = type(model.network).__name__
    words = f"attention of {name}: found weights hidden .* eager attention"
    with pytest.raises(InputError, match=words), captured_attention(model):
        logits(model)
    assert hooks_of(model) == hooks
    assert all(torch.equal(a, b) for a, b in zip(logits(model), before, strict=True))


def test_bad_factors_are_refused():
    model = tiny_model("gpt2")
    with pytest.raises(InputError, match="operator: found 'x2'"), edited_attention(model, ones(model), operator="x2"):
        pass
    for wrong in (ones(model)[0], ones(model)[:, :2]):
        with pytest.raises(InputError, match="3 layers, heads, columns"), edited_attention(model, wrong):
            pass
    for wrong in (ones(model) * -1, ones(model) * torch.inf):
        with pytest.raises(InputError, match="finite factors from 0 on"), edited_attention(model, wrong):
            pass
    with (
        pytest.raises(InputError, match=r"factors: found \(2, 4, 5\)"),
        edited_attention(model, ones(model, columns=5)),
    ):
        logits(model)
    with pytest.raises(InputError, match="one block at a time"), captured_attention(model), captured_attention(model):
        pass
