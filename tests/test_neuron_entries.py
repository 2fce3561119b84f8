"""Which parameters belong to a neuron: checked with gradients in every architecture that the tests know."""

import pytest
import torch
from tiny_models import CAUSAL, MASKED, KeepFloat64, tiny_model

from knlib.errors import InputError
from knlib.models import find_up_projections

LAYER, NEURON = 1, 7
ALL = pytest.mark.parametrize("kind", [*CAUSAL, *MASKED])


def ffn_input_gradient(model, neuron):
    """d(sum over positions of a neuron's value) / d(every parameter of its layer's FFN), by name."""
    down, seen = model.down_projections[LAYER], []
    handle = down.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    ups = {id(p) for up in model.up_projections[LAYER] for p in up.parameters()}
    chosen = {name: p for name, p in model.network.named_parameters() if id(p) in ups}
    for parameter in chosen.values():
        parameter.requires_grad_()
    model.network(input_ids=torch.arange(20, 27)[None])
    handle.remove()
    gradients = torch.autograd.grad(seen[0][..., neuron].sum(), list(chosen.values()))
    return dict(zip(chosen, gradients, strict=True))


@ALL
def test_a_neurons_value_depends_on_its_own_rows_and_biases_alone(kind):
    with KeepFloat64():
        model = tiny_model(kind)
        entries = model.neuron_entries([(LAYER, NEURON)])
        gradients = ffn_input_gradient(model, NEURON)
    assert gradients
    for name, gradient in gradients.items():
        assert (gradient[~entries[name]] == 0).all(), name
        assert (gradient[entries[name]] != 0).any(), name


@ALL
def test_a_neuron_adds_its_column(kind):
    with KeepFloat64(), torch.no_grad():
        model = tiny_model(kind)
        down, column = model.down_projections[LAYER], model.column(LAYER, NEURON)
        one = torch.zeros(1, model.n_neurons, dtype=torch.float64)
        nothing, one_hot = down(one), one.index_fill(1, torch.tensor(NEURON), 1.0)
        assert torch.allclose(down(one_hot)[0] - nothing[0], column, atol=1e-12)
        name = next(n for n, p in model.network.named_parameters() if p is down.weight)
        mask = model.neuron_entries([(LAYER, NEURON)])[name]
    assert mask.sum() == len(column) and set(down.weight[mask].tolist()) == set(column.tolist())
    assert column.data_ptr() != column.clone().data_ptr() and column._base is not None


@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi3", "bert"])
def test_entries_of_several_neurons_are_the_union(kind):
    model = tiny_model(kind)
    parts = [model.neuron_entries([pair]) for pair in ((0, 3), (1, 7), (1, 20))]
    whole = model.neuron_entries([(1, 20), (0, 3), (1, 7)])
    assert set(whole) == {name for part in parts for name in part}
    for name, mask in whole.items():
        assert mask.dtype == torch.bool and mask.sum() == sum(int(part[name].sum()) for part in parts if name in part)
        assert all((mask | part[name]).equal(mask) for part in parts if name in part)
    per_neuron = {"gpt2": 2 * 16 + 1, "llama": 3 * 16, "phi3": 3 * 16, "bert": 2 * 16 + 1}[kind]
    assert sum(int(mask.sum()) for mask in whole.values()) == 3 * per_neuron
    assert model.neuron_entries([]) == {}


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_orientation_follows_the_type_of_the_module_where_shapes_cannot_tell(kind):
    options = {"n_inner": 16} if kind == "gpt2" else {"intermediate_size": 16}
    model = tiny_model(kind, **options)
    assert model.n_neurons == 16
    down = model.down_projections[0]
    stored = down.weight[3] if kind == "gpt2" else down.weight[:, 3]
    assert model.column(0, 3).equal(stored) and not model.column(0, 3).equal(down.weight.T[3 if kind == "gpt2" else 0])


def test_unembedding_rows_are_what_logits_are_read_with():
    model = tiny_model("gpt2")
    hidden = torch.randn(16, dtype=torch.float64)
    head = model.network.get_output_embeddings()
    assert torch.allclose(head(hidden)[41], hidden @ model.unembedding(41))


def test_ffn_matrices_that_do_not_make_neurons_are_named():
    model = tiny_model("llama")
    layer = model.layers[0]
    layer.mlp.extra = torch.nn.Linear(16, 5)
    with pytest.raises(InputError, match=r"FFN matrices with \[24, 24, 5\] outputs, expected one or two with 24"):
        find_up_projections(layer, layer.mlp.down_proj)
