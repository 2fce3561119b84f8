"""Products of clean tokens are handed out only where they are the same."""

from dataclasses import replace

import torch
from tiny_models import tiny_model
from transformers.cache_utils import DynamicCache

from knlib.clean_products import CleanProducts

IDS = torch.tensor([[1, 9, 12, 20]])


def logits(model, ids=IDS):
    with torch.no_grad():
        return model.network(input_ids=ids).logits


def counted(model):
    """How often a layer's down-projection multiplies, as a list that grows."""
    calls, module = [], type(model.down_projections[0])
    plain = module.forward

    def forward(self, hidden):
        if self is model.down_projections[0]:
            calls.append(hidden.shape)
        return plain(self, hidden)

    return calls, module, forward


def kept_of(model):
    kept = CleanProducts(model)
    with kept.recorded():
        logits(model)
    return kept


def last(model, ids=IDS):
    """Logits behind the last token alone, as in a pass behind a prefix."""
    cache = DynamicCache()
    with torch.no_grad():
        model.network(input_ids=ids[:, :-1], past_key_values=cache)
        return model.network(input_ids=ids[:, -1:], past_key_values=cache).logits


def test_the_second_pass_multiplies_nothing_and_gives_the_same(monkeypatch):
    model = tiny_model("llama")
    calls, module, forward = counted(model)
    monkeypatch.setattr(module, "forward", forward)
    kept, expected = kept_of(model), last(model)
    before = len(calls)
    with kept.reused(lambda: False):
        assert torch.allclose(last(model), expected, atol=1e-6)
    assert [shape[1] for shape in calls[before:]] == [3]  # the prefix alone
    assert all("forward" not in vars(m) for layer in model.layers for m in layer.modules())


def seen_by(*modules):
    """How many tokens modules are called with, as a list that grows, and the hooks that see it."""
    calls = []
    return calls, [(module, lambda module, inputs, output: calls.append(output.shape[-2])) for module in modules]


def test_attention_is_handed_out_whole():
    for kind, inner in (("llama", "self_attn.q_proj"), ("gpt2", "attn.c_attn"), ("bloom", "self_attention.dense")):
        model = tiny_model(kind)
        kept, expected = kept_of(model), last(model)
        calls, hooks = seen_by(model.layers[1].get_submodule(inner))
        with model.hooks(*hooks), kept.reused(lambda: False):
            assert torch.allclose(last(model), expected, atol=1e-6)
        assert calls == [3]  # the prefix alone


def test_the_last_ffn_multiplies_the_last_token_alone_where_products_are_recorded(monkeypatch):
    for kind in ("llama", "gpt2", "falcon", "gemma2"):
        model, shapes = tiny_model(kind), []
        expected, module = logits(model), type(model.down_projections[0])
        plain = module.forward

        def forward(self, hidden, plain=plain, model=model, shapes=shapes):
            if any(self is down for down in model.down_projections):
                shapes.append(hidden.shape[1])
            return plain(self, hidden)

        with monkeypatch.context() as patch:
            patch.setattr(module, "forward", forward)
            kept = CleanProducts(model)
            with kept.recorded():
                found = logits(model)
        assert shapes == [4, 4, 1]
        assert torch.allclose(found[:, -1], expected[:, -1], atol=1e-6)


def test_a_last_layer_that_is_also_an_earlier_one_multiplies_all_tokens():
    model = tiny_model("gpt2")
    assert len(CleanProducts(model).last_token_only) == 2
    model.network.transformer.h[2] = model.network.transformer.h[1]
    assert not CleanProducts(replace(model)).last_token_only


def test_models_that_add_in_place_do_not_spoil_what_is_kept():
    model = tiny_model("falcon")
    kept, expected = kept_of(model), last(model)
    for _ in range(3):
        with kept.reused(lambda: False):
            assert torch.allclose(last(model), expected, atol=1e-6)


def test_rows_and_other_shapes_are_computed():
    model = tiny_model("gpt2")
    kept, other = kept_of(model), torch.tensor([[1, 7, 8, 22]])
    expected, whole = last(model, other), logits(model, other)
    with kept.reused(lambda: True):
        assert torch.equal(last(model, other), expected)
    with kept.reused(lambda: False):
        assert not torch.allclose(last(model, other), expected, atol=1e-6)  # handed out, as asked
        assert torch.equal(logits(model, other), whole)
    two = torch.cat([IDS, other])
    expected = last(model, two)
    with kept.reused(lambda: False):
        assert torch.equal(last(model, two), expected)


def test_hooks_of_others_act_once():
    """What is kept is the product, before hooks change it."""
    model = tiny_model("gpt2")
    with model.hooks((model.down_projections[0], lambda module, inputs, output: output + 1)):
        kept, expected = kept_of(model), last(model)
        with kept.reused(lambda: False):
            assert torch.allclose(last(model), expected, atol=1e-6)


def test_modules_called_twice_in_a_pass_are_left_alone():
    model = tiny_model("llama")
    kept = CleanProducts(model)
    with kept.recorded():
        logits(model)
        logits(model, torch.tensor([[1, 7, 8, 22]]))
    assert kept.outputs == {}


def test_modules_are_as_before_after_an_error():
    model = tiny_model("gpt2")
    kept = kept_of(model)
    for block in (kept.recorded(), kept.reused(lambda: False)):
        try:
            with block:
                raise RuntimeError
        except RuntimeError:
            pass
        assert all("forward" not in vars(m) for layer in model.layers for m in layer.modules())
