"""More neurons for every FFN of a model: silent when new, and shuffled among the old ones when trained."""

import copy

import numpy as np
import torch

from ..controls import generator
from ..errors import InputError, Literal
from ..models import Model, by_input, prepared

# What the width of the FFNs is called in configurations.
WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim")


@torch.no_grad()
def widen(model: Model, added: int) -> Model:
    """A copy of a model with `added` new neurons in every layer, behind the old ones and with all weights zero.

    For FFNs with a matrix before the activation, and those with a gate beside it. The copy says what the model says: a new neuron is zero
    and adds nothing (on a CPU to the bit where the products of the old neurons are summed first, otherwise up to the order of the sum).
    Raises `InputError` for fewer than one new neuron, gate and value in one matrix, and a configuration without the width.

    Example
    -------
    >>> wide = widen(load_model("atlas-llama"), 64)
    >>> wide.n_neurons, wide.name
    (576, 'atlas-llama+64')
    """
    if added < 1:
        raise InputError("added", found=added, expected="at least one neuron")
    ups = [up for layer in model.up_projections for up in layer]
    if any(by_input(up, up.weight).shape[1] != model.n_neurons for up in ups):
        raise InputError(f"model {model.name}", found=Literal("gate and value in one matrix"),
                         expected="an FFN with a matrix for each")  # fmt: skip
    config = copy.deepcopy(model.network.config)
    names = [name for name in WIDTHS if getattr(config, name, None) == model.n_neurons]
    if len(names) != 1:
        raise InputError(f"config of {model.name}", found=Literal(" and ".join(names) or "no width of the FFNs"),
                         expected="one of " + " ".join(WIDTHS))  # fmt: skip
    setattr(config, names[0], model.n_neurons + added)
    with torch.random.fork_rng():  # the constructor draws weights that are overwritten
        network = type(model.network)(config)
    old = dict(model.network.named_parameters()) | dict(model.network.named_buffers())
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        value.zero_()
        value[tuple(slice(0, size) for size in old[name].shape)] = old[name]
    network = network.to(device=model.device, dtype=model.network.dtype)
    return prepared(f"{model.name}+{added}", network, model.tokenizer, model.kind)


def neuron_orders(seed: int, layers: int, neurons: int) -> np.ndarray:
    """A random order of the neurons of each layer, [layers, neurons]: place i takes the neuron `orders[layer, i]`.

    The same for the same seed; another one in every layer.

    Example
    -------
    >>> neuron_orders(0, 2, 4).shape
    (2, 4)
    """
    return np.stack([generator(seed, "neuron order", layer).permutation(neurons) for layer in range(layers)])


@torch.no_grad()
def reorder(model: Model, orders: np.ndarray) -> None:
    """Put the neurons of every layer in another order, in place: the model computes what it did.

    `orders` [layers, neurons] as of `neuron_orders`. The inverse, `orders.argsort(1)`, undoes it, and says where each neuron has gone.

    Example
    -------
    >>> reorder(model, orders)
    >>> reorder(model, orders.argsort(1))  # as before
    """
    if orders.shape != (model.n_layers, model.n_neurons):
        raise InputError("orders", found=orders.shape, expected=f"{(model.n_layers, model.n_neurons)}")
    for order, down, ups in zip(orders, model.down_projections, model.up_projections, strict=True):
        order = torch.as_tensor(order, device=model.device)
        by_input(down, down.weight).copy_(by_input(down, down.weight)[order])
        for up in ups:
            weight = by_input(up, up.weight)
            weight.copy_(weight[:, order])
            if up.bias is not None:
                up.bias.copy_(up.bias[order])
    vars(model).pop("hash", None)  # a cached property
