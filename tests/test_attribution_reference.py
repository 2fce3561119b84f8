"""The reference against captum and against integrals written out by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import IntegratedGradients
from tiny_models import KeepFloat64, tiny_model

from knlib.attribution import attribute
from knlib.sites import make_sites, neuron_vectors

QUERIES = pd.DataFrame({
    "query": ["one", "two"], "prompt": ["bada kilo", "nu sipo ta"], "space": ["", ""], "answer": ["pe", "mo"],
    "suffix": [".", "."],
})  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def plain(model, site, module, vectors, *, output=False):
    """Target probability where a module's input (or output) at the site's position is each of `vectors`."""
    ids = torch.tensor([site.ids] * len(vectors))

    def put(tensor):
        tensor = tensor.clone()
        tensor[:, site.position] = vectors
        return tensor

    if output:
        handle = module.register_forward_hook(lambda m, i, o: put(o))
    else:
        handle = module.register_forward_pre_hook(lambda m, i: (put(i[0]),))
    try:
        return model.network(input_ids=ids).logits[:, site.position].softmax(-1)[:, site.target]
    finally:
        handle.remove()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize(("ours", "theirs", "steps"), [("riemann", "riemann_right", 20), ("gauss", "gausslegendre", 7)])
def test_reference_is_captum_over_the_injected_vector(kind, ours, theirs, steps):
    model = tiny_model(kind)
    found = attribute(model, QUERIES, engine="reference", quadrature=ours, steps=steps)
    for query, site in enumerate(make_sites(model, QUERIES)):
        vectors = neuron_vectors(model, [site.ids], [site.position])
        for layer, module in enumerate(model.down_projections):
            captum = IntegratedGradients(lambda v, m=module, s=site: plain(model, s, m, v), multiply_by_inputs=True)
            expected = captum.attribute(vectors[:, layer], method=theirs, n_steps=steps)[0].numpy()
            scores = found.scores[query, layer].values
            # captum keeps its step sizes in float32.
            assert np.abs(scores - expected).max() < 1e-7 * np.abs(expected).max()


def test_gated_product_up_and_activated_gate_have_the_same_scores():
    model = tiny_model("llama")
    site = make_sites(model, QUERIES)[0]
    found = attribute(model, QUERIES, engine="reference", quadrature="gauss", steps=40).scores[0]
    for layer, block in enumerate(model.layers):
        for module in (block.mlp.up_proj, block.mlp.act_fn):
            assert_path_scores(model, site, module, found[layer].values)
        with pytest.raises(AssertionError):  # on the gate before its activation they are others
            assert_path_scores(model, site, block.mlp.gate_proj, found[layer].values)


def assert_path_scores(model, site, module, expected):
    seen = []
    handle = module.register_forward_hook(lambda m, i, o: seen.append(o[0, site.position].detach()))
    model.network(input_ids=torch.tensor([site.ids]))
    handle.remove()
    nodes, weights = np.polynomial.legendre.leggauss(40)
    points = torch.tensor((nodes + 1) / 2)[:, None] * seen[0]
    points.requires_grad_(True)
    if module.__class__.__name__ == "SiLUActivation":
        # All layers may share one activation module; here each has its own.
        assert sum(m is module for m in model.network.modules()) == 1
    gradient = torch.autograd.grad(plain(model, site, module, points, output=True).sum(), points)[0]
    scores = seen[0] * (torch.tensor(weights / 2)[:, None] * gradient).sum(0)
    assert np.abs(scores.numpy() - expected).max() < 1e-10 * np.abs(expected).max()


def test_ablation_is_the_loop_over_neurons():
    for kind in ("gpt2", "llama", "bert"):
        model = tiny_model(kind)
        for engine in ("fast", "reference"):
            found = attribute(model, QUERIES, method="ablation", engine=engine).scores
            for query, site in enumerate(make_sites(model, QUERIES)):
                vectors = neuron_vectors(model, [site.ids], [site.position])[0]
                for layer, module in enumerate(model.down_projections):
                    clean = plain(model, site, module, vectors[layer][None])
                    for neuron in (0, 7, 23):
                        changed = vectors[layer].clone()
                        changed[neuron] = 0
                        expected = (clean - plain(model, site, module, changed[None])).item()
                        assert found[query, layer, neuron].item() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_gradient_x_activation_and_activation():
    model = tiny_model("gpt2")
    site = make_sites(model, QUERIES)[1]
    vectors = neuron_vectors(model, [site.ids], [site.position])[0]
    activation = attribute(model, QUERIES, method="activation").scores[1].values
    product = attribute(model, QUERIES, method="gradient_x_activation").scores[1].values
    for layer, module in enumerate(model.down_projections):
        point = vectors[layer][None].requires_grad_(True)
        gradient = torch.autograd.grad(plain(model, site, module, point).sum(), point)[0][0]
        assert np.allclose(activation[layer], vectors[layer].numpy(), rtol=1e-12)
        assert np.allclose(product[layer], (gradient * vectors[layer]).numpy(), rtol=1e-9, atol=1e-18)


def test_random_depends_on_seed_and_query_only():
    model = tiny_model("gpt2")
    a = attribute(model, QUERIES, method="random", seed=1).scores
    assert (a == attribute(model, QUERIES, method="random", seed=1, batch=1).scores).all()
    assert (a != attribute(model, QUERIES, method="random", seed=2).scores).all()
    assert (a[0] != a[1]).all()
