"""query_relevant/baselines.py: every score against a loop of its own, and on a model with a planted neuron."""

import numpy as np
import pytest
import torch
from letter_models import A_PROMPT, PLANTED, PROMPTS, planted_model
from tiny_models import KeepFloat64, tiny_model

from knlib.errors import InputError
from knlib.models import by_input
from knlib.query_relevant import baselines
from knlib.query_relevant.baselines import SCORES, register, score
from knlib.query_relevant.last_position import readout, record
from knlib.query_relevant.letters import with_letter_sets
from knlib.query_relevant.norms import Norm
from knlib.sites import make_sites, neuron_vectors

NAMES = ["knowledge_neurons", "grad_x_act", "neg", "activation", "nlka", "dla", "relp", "oracle", "random"]


@pytest.fixture(scope="module")
def planted():
    return planted_model()


def test_all_are_registered():
    assert set(NAMES) <= set(SCORES)


@pytest.mark.parametrize("name", ["knowledge_neurons", "grad_x_act", "nlka", "dla", "relp", "oracle"])
def test_the_planted_neuron_comes_first(planted, name):
    """Spec test 9."""
    scores = score(name, planted, A_PROMPT).values[0]
    assert np.unravel_index(scores.argmax(), scores.shape) == PLANTED and scores.max() > 0


def site_of(model):
    return make_sites(model, with_letter_sets(model, PROMPTS.iloc[[2]]), sites="first")[0]


def stream_before_ffn(model, site):
    """Behind each layer's attention, at the last position; and what goes into the final norm."""
    blocks = model.network.transformer.h if hasattr(model.network, "transformer") else model.layers
    norms = [getattr(b, "post_attention_layernorm", None) or b.ln_2 for b in blocks]
    final = model.network.transformer.ln_f if hasattr(model.network, "transformer") else model.network.model.norm
    seen = {}
    hooks = [
        m.register_forward_hook(lambda m, i, o, k=k: seen.update({k: i[0][0, -1]}))
        for k, m in enumerate([*norms, final])
    ]
    model.network(torch.tensor([site.ids]))
    for hook in hooks:
        hook.remove()
    return [seen[k] for k in range(len(norms))], seen[len(norms)], final


def normed(x, final, last, *, bias=True):
    """The final norm of x by hand, with the variance of the stream at the model's end."""
    if isinstance(final, torch.nn.LayerNorm):
        y = (x - x.mean()) / (last.var(unbiased=False) + final.eps).sqrt() * final.weight
        return y + final.bias if bias else y
    return x / (last.pow(2).mean() + final.variance_epsilon).sqrt() * final.weight


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("name", ["nlka", "dla"])
def test_readings_of_the_stream_are_those_of_a_loop_over_neurons(kind, name):
    model = tiny_model(kind)
    site = site_of(model)
    found = score(name, model, PROMPTS.iloc[[2]]).values[0]
    streams, last, final = stream_before_ffn(model, site)
    h = neuron_vectors(model, [site.ids], [site.position])[0]
    table, (gold, *others) = model.network.get_output_embeddings().weight, site.sets
    assert len(gold) > 0 and len(others) == 3

    def log_p(x):
        return (normed(x, final, last) @ table.T).softmax(-1)[list(gold)].sum().log()

    for layer in range(model.n_layers):
        for neuron in range(model.n_neurons):
            written = h[layer, neuron] * model.column(layer, neuron)
            if name == "nlka":
                expected = log_p(streams[layer] + written) - log_p(streams[layer])
            else:
                rows = [table[list(own)].mean(0) for own in (gold, *others)]
                expected = normed(written, final, last, bias=False) @ (rows[0] - sum(rows[1:]) / 3)
            assert found[layer, neuron] == pytest.approx(float(expected), abs=1e-5 * np.abs(found).max())


def test_nlka_in_small_parts_is_the_same(monkeypatch):
    model = tiny_model("gpt2")
    whole = score("nlka", model, PROMPTS.iloc[[0]]).values
    monkeypatch.setattr(baselines, "LOGITS", 1000)
    assert np.allclose(whole, score("nlka", model, PROMPTS.iloc[[0]]).values, rtol=1e-12)


@pytest.mark.parametrize(("kind", "layer"), [("llama", 2), ("gpt2", 2), ("llama", 1), ("gpt2", 1)])
def test_relp_is_a_backward_pass_by_hand(kind, layer):
    """Layers from `layer` on, written out; their attention is the model's own, earlier positions included."""
    model = tiny_model(kind)
    site = site_of(model)
    with KeepFloat64():
        found = score("relp", model, PROMPTS.iloc[[2]]).values[0, layer]
        expected = relp_by_hand(model, site, layer)
    assert np.allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=0)


def relp_by_hand(model, site, layer):
    """d(logit)/dh times h, from layer outputs on, each norm and FFN as the formula says."""
    ids, seen = torch.tensor([site.ids]), {}
    handles = [b.register_forward_pre_hook(lambda m, a, k, i=i: seen.update({i: (a, k)}), with_kwargs=True)
               for i, b in enumerate(model.layers)]  # fmt: skip
    model.network(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    gpt2 = hasattr(model.network, "transformer")

    def norm(m, x):
        if gpt2:
            x = x - x.mean(-1, keepdim=True)
            return x / (x.pow(2).mean(-1, keepdim=True) + m.eps).sqrt().detach() * m.weight + m.bias
        return x / (x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon).sqrt().detach() * m.weight

    def attention(b, x, k):
        k = {name: v for name, v in k.items() if name not in ("hidden_states", "past_key_values", "use_cache")}
        if gpt2:
            return x + b.attn(norm(b.ln_1, x), **{n: v for n, v in k.items() if n == "attention_mask"})[0]
        return x + b.self_attn(hidden_states=norm(b.input_layernorm, x), **k)[0]

    def neurons(b, x):
        if gpt2:
            z = b.mlp.c_fc(norm(b.ln_2, x))
            return z * (b.mlp.act(z) / z).detach()
        y = norm(b.post_attention_layernorm, x)
        z, f = b.mlp.gate_proj(y), b.mlp.up_proj(y)
        g = z * z.sigmoid().detach()
        return 0.5 * g * f.detach() + 0.5 * g.detach() * f

    with torch.enable_grad():
        x = (seen[layer][0] or (seen[layer][1]["hidden_states"],))[0].detach()
        for i in range(layer, model.n_layers):
            block = model.layers[i]
            x = attention(block, x, seen[i][1])
            h = neurons(block, x)
            if i == layer:
                start = h = h.detach().requires_grad_()
            x = x + (block.mlp.c_proj(h) if gpt2 else block.mlp.down_proj(h))
        final = model.network.transformer.ln_f if gpt2 else model.network.model.norm
        logits = model.network.get_output_embeddings()(norm(final, x[:, -1:]))[0, 0]
        slope = torch.autograd.grad(logits[list(site.sets[0])].mean(), start)[0][0, -1]
    return (slope * start[0, -1]).detach().numpy()


def test_relp_leaves_values_and_hooks_as_they_are():
    model = tiny_model("qwen3")
    site = site_of(model)
    linear, plain = record(model, site, linear=True), record(model, site)
    assert torch.allclose(linear.logits, plain.logits, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(linear.here, plain.here, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())


@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt2"])
def test_neg_is_the_derivative_by_the_value_in_its_own_direction(kind):
    """By a difference quotient: the value grows by a little in the direction of its sign."""
    model, row = tiny_model(kind), PROMPTS.iloc[[2]]
    site, found = site_of(model), score("neg", model, row).values[0]
    gold, step = list(site.sets[0]), 1e-5

    def probability(layer, neuron, change):
        def up(module, inputs, output):
            output = output.clone()
            half = model.n_neurons if kind == "phi3" else 0
            output[0, -1, half + neuron] += change
            return output

        def down(module, inputs):
            h = inputs[0].clone()
            h[0, -1, neuron] += change
            return (h,)

        block = model.layers[layer]
        if kind == "gpt2":
            handle = block.mlp.c_proj.register_forward_pre_hook(down)
        else:
            handle = (block.mlp.up_proj if kind == "llama" else block.mlp.gate_up_proj).register_forward_hook(up)
        try:
            return float(model.network(torch.tensor([site.ids])).logits[0, -1].softmax(-1)[gold].sum())
        finally:
            handle.remove()

    def value(layer, neuron):
        if kind == "gpt2":
            return float(neuron_vectors(model, [site.ids], [site.position])[0, layer, neuron])
        seen, n = [], neuron + (model.n_neurons if kind == "phi3" else 0)
        module = model.layers[layer].mlp
        module = module.up_proj if kind == "llama" else module.gate_up_proj
        with model.hooks((module, lambda m, i, o: seen.append(float(o[0, -1, n])))):
            model.network(torch.tensor([site.ids]))
        return seen[0]

    with KeepFloat64():
        for layer, neuron in [(0, 3), (0, 11), (1, 0), (1, 20), (2, 5), (2, 9)]:
            slope = (probability(layer, neuron, step) - probability(layer, neuron, -step)) / (2 * step)
            sign = 1 if value(layer, neuron) > 0 else -1
            assert found[layer, neuron] == pytest.approx(sign * slope, rel=1e-3, abs=1e-4 * np.abs(found).max())


def test_gradient_by_activation_and_activation():
    model = tiny_model("gpt2")
    site = site_of(model)
    h = neuron_vectors(model, [site.ids], [site.position])[0].numpy()
    row = PROMPTS.iloc[[2]]
    assert np.allclose(score("activation", model, row).values[0], np.abs(h))
    # Without a gate: s dP/dh times |h| is h dP/dh.
    assert np.allclose(
        score("neg", model, row).values[0] * np.abs(h), score("grad_x_act", model, row).values[0], atol=1e-8
    )


def test_random_depends_on_seed_and_prompt_alone():
    model = tiny_model("gpt2")
    one, two = score("random", model, PROMPTS), score("random", model, PROMPTS.iloc[::-1])
    assert np.array_equal(one.values, two.values[::-1])
    assert not np.array_equal(one.values, score("random", model, PROMPTS, seed=1).values)


@pytest.mark.parametrize("kind", ["gemma2", "granite", "olmo2", "cohere", "bert"])
@pytest.mark.parametrize("name", ["dla", "nlka"])
def test_heads_and_layers_with_transforms_are_refused(kind, name):
    prompts = PROMPTS.iloc[[0]].assign(suffix="")
    with pytest.raises(InputError, match=r"FFN output|transform"):
        score(name, tiny_model(kind, **({"logit_scale": 0.3} if kind == "cohere" else {})), prompts)


@pytest.mark.parametrize(
    "kind", ["gpt_neox", "qwen2", "qwen3", "gemma", "phi", "phi3", "mistral", "stablelm", "bloom", "opt", "eurobert"]
)
def test_many_architectures_have_all_scores(kind):
    model = tiny_model(kind)
    for name in ("nlka", "dla", "relp", "neg"):
        assert np.abs(score(name, model, PROMPTS.iloc[[1]]).values).max() > 0
    found = record(model, site_of(model))
    head = readout(found)
    assert torch.allclose(head.logits(found.streams[model.n_layers - 1]), found.logits, atol=1e-4)


@pytest.mark.parametrize("width", [15, 16])
def test_norms_are_read_without_knowing_them(width):
    torch.manual_seed(0)
    x, module = torch.randn(3, width).double(), torch.nn.LayerNorm(width).double()
    torch.nn.init.normal_(module.weight)
    torch.nn.init.normal_(module.bias)
    norm = Norm.of(module, x[0])
    assert norm.centres
    assert torch.allclose(norm.gain, module.weight, atol=1e-5) and torch.allclose(norm.bias, module.bias)
    assert torch.allclose(norm.directions(x) * norm.scale(x, module(x)) + norm.bias, module(x), atol=1e-6)
    module = torch.nn.RMSNorm(width).double()
    assert not Norm.of(module, x[0]).centres


def test_unknown_names_and_options_raise():
    model = tiny_model("gpt2")
    with pytest.raises(InputError, match="one of knowledge_neurons"):
        score("magic", model, PROMPTS)
    with pytest.raises(InputError, match="options: found 'seed'"):
        score("dla", model, PROMPTS, seed=1)
    with pytest.raises(InputError, match="baselines has this one"):
        register("dla")(lambda model, prompts: None)
    with pytest.raises(InputError, match="column answer"):
        score("dla", model, PROMPTS.drop(columns="answer"))


def test_a_new_score_is_one_function(monkeypatch):
    monkeypatch.setattr(baselines, "SCORES", dict(SCORES))
    model = tiny_model("gpt2")
    register("ones")(lambda model, prompts: np.ones((len(prompts), model.n_layers, model.n_neurons)))
    assert score("ones", model, PROMPTS).dims == ("query", "layer", "neuron")
    register("short")(lambda model, prompts: np.ones(3))
    with pytest.raises(InputError, match="shape"):
        score("short", model, PROMPTS)


def test_a_neurons_column_is_the_rows_that_are_read():
    model = tiny_model("gpt2")
    down = model.down_projections[1]
    assert torch.equal(by_input(down, down.weight)[4], model.column(1, 4))
