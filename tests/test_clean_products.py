"""Products of clean tokens are handed out only where they are the same."""

import torch
from tiny_models import tiny_model

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


def test_the_second_pass_multiplies_nothing_and_gives_the_same(monkeypatch):
    model = tiny_model("llama")
    kept, expected = CleanProducts(model), logits(model)
    calls, module, forward = counted(model)
    monkeypatch.setattr(module, "forward", forward)
    for _ in range(2):
        with kept.reused(lambda: False):
            assert torch.equal(logits(model), expected)
    assert len(calls) == 1
    assert all("forward" not in vars(m) for layer in model.layers for m in layer.modules())


def test_models_that_add_in_place_do_not_spoil_what_is_kept():
    model = tiny_model("falcon")
    kept, expected = CleanProducts(model), logits(model)
    for _ in range(3):
        with kept.reused(lambda: False):
            assert torch.equal(logits(model), expected)


def test_rows_and_other_shapes_are_computed():
    model = tiny_model("gpt2")
    kept, other = CleanProducts(model), torch.tensor([[1, 7, 8, 22]])
    with kept.reused(lambda: False):
        logits(model)
    expected, longer = logits(model, other), torch.cat([IDS, other], dim=1)
    with kept.reused(lambda: True):
        assert torch.equal(logits(model, other), expected)
    with kept.reused(lambda: False):
        assert not torch.equal(logits(model, other), expected)  # handed out, as asked
    expected = logits(model, longer)
    with kept.reused(lambda: False):
        assert torch.equal(logits(model, longer), expected)


def test_modules_called_twice_in_a_pass_are_left_alone():
    model = tiny_model("llama")
    kept = CleanProducts(model)
    with kept.reused(lambda: False):
        logits(model)
        logits(model, torch.tensor([[1, 7, 8, 22]]))
    assert kept.outputs == {}


def test_modules_are_as_before_after_an_error():
    model = tiny_model("gpt2")
    kept = CleanProducts(model)
    try:
        with kept.reused(lambda: False):
            raise RuntimeError
    except RuntimeError:
        pass
    assert kept.outputs is None
    assert all("forward" not in vars(m) for layer in model.layers for m in layer.modules())
