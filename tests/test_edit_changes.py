"""Changes are data: applied and undone exactly, saved whole, loaded for the same weights only."""

import dataclasses

import pytest
import torch
from edit_requests import as_linear, down, same, weights
from tiny_models import tiny_model

from knlib.editing import WeightChange, changes, load_change
from knlib.editing.changes import Part
from knlib.errors import InputError


def some_change(model, *, seed=0):
    draw = torch.Generator().manual_seed(seed)
    width = len(model.column(0, 0))
    parts = [
        Part(edit, layer, torch.randn(width, rank, generator=draw), torch.randn(model.n_neurons, rank, generator=draw))
        for edit, layer, rank in (("a", 0, 1), ("a", 2, 2), ("b", 2, 1), ("c", 1, 3))
    ]
    return WeightChange("test", {"lr": 0.5}, model.name, model.hash, tuple(parts), {"n": 3})


# Shapes tell nothing where there are as many neurons as the stream is wide: 16.
TINY = [("gpt2", {}), ("gpt2", {"n_inner": 16}), ("llama", {}), ("llama", {"intermediate_size": 16})]


@pytest.mark.parametrize("kind, options", TINY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_sum_of_the_parts_is_added(kind, options, dtype):
    model = tiny_model(kind, dtype=dtype, **options)
    change, before = some_change(model), [down(model, layer) for layer in range(3)]
    key = torch.linspace(-1, 1, model.n_neurons, dtype=dtype)
    plain = model.down_projections[2].forward(key)
    with change.applied(model) as edited:
        assert edited is change
        for layer in range(3):
            added = sum(p.outputs.double() @ p.keys.double().T for p in change.parts if p.layer == layer)
            assert torch.allclose(down(model, layer), (before[layer].double() + added).to(dtype), atol=1e-6)
        written = sum(p.outputs.to(dtype) @ (p.keys.to(dtype).T @ key) for p in change.parts if p.layer == 2)
        assert torch.allclose(model.down_projections[2].forward(key), plain + written, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"n_inner": 16}])
def test_twins_get_the_same_change(options):
    one, other = tiny_model("gpt2", **options), tiny_model("gpt2", **options)
    as_linear(other)
    ids = torch.arange(5, 15)[None]
    assert torch.allclose(one.network(input_ids=ids).logits, other.network(input_ids=ids).logits, atol=1e-12)
    change = some_change(one)
    with change.applied(one), change.applied(other):
        assert torch.allclose(one.network(input_ids=ids).logits, other.network(input_ids=ids).logits, atol=1e-12)
        assert all(torch.allclose(down(one, layer), down(other, layer), atol=1e-12) for layer in range(3))


def test_bits_are_restored_after_blocks_nesting_and_exceptions():
    model = tiny_model("llama", dtype=torch.float32)
    before, first = weights(model), model.hash
    one, two = some_change(model), some_change(model, seed=1)
    with one.applied(model):
        inside, second = weights(model), model.hash
        with two.applied(model), two.applied(model):
            assert not same(model, inside) and model.hash != second
        assert same(model, inside) and model.hash == second != first
    assert same(model, before) and model.hash == first
    with pytest.raises(KeyError), one.applied(model), two.applied(model):
        raise KeyError
    assert same(model, before) and model.hash == first


def test_gradients_are_left_as_they_are():
    model = tiny_model("gpt2")
    model.network.requires_grad_()
    with some_change(model).applied(model):
        assert torch.is_grad_enabled() and model.down_projections[0].weight.requires_grad
        assert model.down_projections[0].weight.grad_fn is None


def test_one_edit_can_be_taken_away():
    model = tiny_model("gpt2")
    change = some_change(model)
    assert change.edits == ["a", "b", "c"] and change.without("b").edits == ["a", "c"]
    only = change.without("a").without("c")
    with only.applied(model):
        found = down(model, 2)
    part = change.parts[2]
    assert torch.allclose(found - down(model, 2), part.outputs.double() @ part.keys.double().T, atol=1e-12)
    with pytest.raises(InputError, match="edit: found 'd', expected one of a b c"):
        change.without("d")


def test_saved_and_loaded_to_the_last_bit(tmp_path):
    model = tiny_model("gpt2", dtype=torch.float32)
    change, path = some_change(model), tmp_path / "change.safetensors"
    # Parts whose tensors are views of one.
    wide = torch.randn(16, 4)
    parts = (
        *change.parts,
        Part("ü", 0, wide[:, :2], torch.randn(24, 2)),
        Part("ü", 1, wide[:, 2:], torch.randn(24, 2)),
    )
    change = dataclasses.replace(change, parts=parts)
    change.save(path)
    with change.applied(model):
        expected = weights(model)
    loaded = load_change(path, model)
    with loaded.applied(model):
        assert same(model, expected)
    assert loaded.edits == ["a", "b", "c", "ü"]
    for name in ("editor", "options", "model", "model_hash", "report"):
        assert getattr(loaded, name) == getattr(change, name)
    first = path.read_bytes()
    loaded.save(path)
    assert path.read_bytes() == first and [file.name for file in tmp_path.iterdir()] == ["change.safetensors"]


def test_another_models_change_is_refused_naming_both(tmp_path):
    model, other = tiny_model("gpt2"), tiny_model("gpt2", seed=1)
    some_change(model).save(tmp_path / "change")
    with pytest.raises(InputError) as error:
        load_change(tmp_path / "change", other)
    assert model.hash in str(error.value) and other.hash in str(error.value) and "tiny-gpt2" in str(error.value)
    with some_change(model).applied(model), pytest.raises(InputError, match=model.hash):
        load_change(tmp_path / "change", model)


def test_a_change_of_other_shapes_touches_nothing():
    model, wide = tiny_model("gpt2"), tiny_model("gpt2", n_inner=32)
    before = weights(model)
    with (
        pytest.raises(
            InputError, match="edit a: found layer 0, width 16, 32 neurons, expected one for tiny-gpt2: 3 layers"
        ),
        some_change(wide).applied(model),
    ):
        pass
    assert same(model, before)


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    model, path = tiny_model("gpt2"), tmp_path / "change"
    some_change(model).save(path)
    first = path.read_bytes()

    def killed(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(changes, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        some_change(model, seed=1).save(path)
    assert path.read_bytes() == first


def test_other_files_are_refused(tmp_path):
    model = tiny_model("gpt2")
    (tmp_path / "text").write_text("no tensors")
    changes.save_file({"a": torch.zeros(2)}, tmp_path / "plain")
    for name in ("text", "plain", "missing"):
        with pytest.raises(InputError, match=r"expected a file of WeightChange\.save"):
            load_change(tmp_path / name, model)
