"""Runs from the place of a change on give what runs of whole rows give, forward and backward."""

import pytest
import torch
from tiny_models import CAUSAL, KeepFloat64, tiny_model

from knlib.editing import suffix_pass
from knlib.editing.lafn_values import shifted
from knlib.editing.states import changed_output
from knlib.editing.suffix_pass import SuffixPass
from knlib.sites import padded

# Prefixes of 0 to 8 tokens and suffixes of 1 to 7: some have both in common, some are the whole row.
ROWS = [(1, 9, 12, 20, 7, 31, 40, 22, 11), (1, 8, 33), (15, 8, 9, 30, 61, 17), (1, 44, 45, 46, 47, 48, 49, 50, 51, 52), (60,),
        (1, 9, 12, 20, 7, 18)]  # fmt: skip
POSITIONS = [2, 2, 0, 8, 0, 3]
PLACES = [(3, 9), (0, 2), (0, 8), (1, 2), (2, 3), (2, 5), (4, 0), (5, 4), (5, 4), (3, 8)]


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def batch(model):
    at = torch.tensor(PLACES).T
    return *padded(ROWS, model.tokenizer.pad_token_id, "right", model.device), at[0], at[1]


def changes(model, layer, where):
    """A change per row that needs a gradient, and the context that makes it."""
    delta = torch.randn(len(ROWS), 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()

    def change(shape, rows, columns):
        if where != "neurons":
            return changed_output(model, layer, where, shape, list(range(len(rows))), columns, delta[rows])
        return shifted(model, {layer: (list(range(16)), delta[0])}, shape, list(range(len(rows))), columns)

    return delta, change


def log_probabilities_and_gradient(logits, delta):
    found = logits.log_softmax(-1)
    weight = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).reshape(found.shape)
    return found.detach(), torch.autograd.grad((found * weight).sum(), delta)[0]


def compare(model, layer, where):
    delta, change = changes(model, layer, where)
    passes = SuffixPass(model, *batch(model), POSITIONS, fixed=layer + (where == "block"))
    ids = batch(model)[0]
    with change(tuple(ids.shape), list(range(len(ROWS))), POSITIONS):
        expected = log_probabilities_and_gradient(model.logits_at(*batch(model)), delta)
    for _ in range(2):  # what is kept stays as it is
        found = log_probabilities_and_gradient(passes.logits(change), delta)
        assert all(
            torch.allclose(ours, whole, atol=1e-9, rtol=1e-9) for ours, whole in zip(found, expected, strict=True)
        )
    return passes


@pytest.mark.parametrize("where", ["mlp", "block", "neurons"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "gemma2", "opt"])
def test_log_probabilities_and_gradients_are_those_of_whole_rows(kind, where):
    model = tiny_model(kind)
    for layer in range(3):
        passes = compare(model, layer, where)
        # Two rows have no token before their change, and run apart.
        assert {row for b in passes.batches if b.prefix is None for row in b.rows} == {2, 4}
        assert all((b.known is not None) == (layer + (where == "block") > 0) for b in passes.batches)


@pytest.mark.parametrize("kind", sorted(CAUSAL))
def test_every_architecture_gives_the_right_answer_with_a_prefix_or_without(kind):
    compare(tiny_model(kind), 1, "mlp")


def test_only_the_rows_that_are_kept_run(monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr(suffix_pass, "PADDING", 2)
    _, change = changes(model, 1, "mlp")
    passes, shapes = SuffixPass(model, *batch(model), POSITIONS, fixed=1), []

    def noted(shape, rows, columns):
        shapes.append((shape, rows, columns))
        return change(shape, rows, columns)

    everything = passes.logits(noted)
    # By length, longest first, at most two tokens of padding; the change is where the suffix begins.
    assert shapes == [((1, 7), [0], [0]), ((2, 3), [5, 3], [0, 0]), ((1, 1), [1], [0]),
                      ((1, 6), [2], [0]), ((1, 1), [4], [0])]  # fmt: skip
    shapes.clear()
    some = passes.logits(noted, {0, 3, 2})
    assert [rows for _, rows, _ in shapes] == [[0], [3], [2]]
    assert torch.allclose(some, everything[[i for i, (row, _) in enumerate(PLACES) if row in (0, 2, 3)]], atol=1e-9)


def test_whole_rows_run_where_a_prefix_is_not_exact_or_raises(monkeypatch):
    model = tiny_model("gpt2")
    right = suffix_pass.positions_argument

    def wrong(*args, **options):
        return {name: positions + 1 for name, positions in right(*args, **options).items()}

    def raises(*args, **options):
        raise KeyError("an architecture's own")

    for broken in (wrong, raises):
        monkeypatch.setattr(suffix_pass, "positions_argument", broken)
        passes = compare(model, 1, "mlp")
        assert all(b.prefix is None and b.known is None for b in passes.batches)


def test_layers_with_a_forward_of_their_own_are_not_replaced():
    model = tiny_model("gpt2")
    for layer in model.layers:
        layer.forward = lambda *args, plain=layer.forward, **named: plain(*args, **named)
    passes = compare(model, 2, "mlp")
    assert all(b.known is None for b in passes.batches) and all("forward" in vars(layer) for layer in model.layers)


def test_nothing_is_left_behind_after_an_exception():
    model = tiny_model("gpt2")
    passes = SuffixPass(model, *batch(model), POSITIONS, fixed=1)

    def failing(module, inputs, output):
        raise ValueError("in the last layer")

    before = model.network(input_ids=batch(model)[0]).logits
    with model.hooks((model.layers[2], failing)), pytest.raises(ValueError, match="in the last layer"):
        passes.logits(changes(model, 1, "mlp")[1])
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.network.modules())
    assert all(b.prefix.rows is None for b in passes.batches if b.prefix is not None)
    assert model.network(input_ids=batch(model)[0]).logits.equal(before)
