"""query_relevant/letter_scores.py: the fast pass against loops of hooks written here."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from letter_models import PROMPTS
from tiny_models import KeepFloat64, tiny_model

from knlib import methods
from knlib.attribution import attribute
from knlib.errors import InputError
from knlib.probe import best_plan
from knlib.query_relevant.letter_scores import PAPER, letter_ablation, letter_scores
from knlib.query_relevant.letters import letter_sets
from knlib.rules import rule
from knlib.sites import make_sites
from knlib.staircase import Plan, StaircaseBatch

# Grouped heads, a window shorter than the prompt, biases, query and key norms, post-activation GELU; tied and untied.
MODELS = [("llama", False), ("llama", True), ("mistral", False), ("qwen2", True), ("qwen3", False), ("gpt2", True),
          ("gpt2", False)]  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


@cache
def model_of(kind, tied=False, dtype=torch.float64):
    return tiny_model(kind, dtype=dtype, tie_word_embeddings=tied)


def with_sets(model, prompts=PROMPTS):
    """Sets of two tokens a letter: the tiny tokenizer has only one."""
    rows = [[(int(letter_sets(model, "nu")[i][0]), 40 + i) for i in range(4)] for _ in range(len(prompts))]
    gold = ["ABCD".index(letter) for letter in prompts["answer"]]
    ordered = [(r[g], *(s for i, s in enumerate(r) if i != g)) for r, g in zip(rows, gold, strict=True)]
    return prompts.assign(token_sets=ordered, space="", suffix="")


def one_token_sets(queries):
    """The rows with the sets that the tiny tokenizer really has."""
    return [row._replace(token_sets=tuple(own[:1] for own in row.token_sets)) for row in queries.itertuples()]


def objective_of(logits, sets, objective):
    p = [logits.softmax(-1)[:, list(own)].sum(-1) for own in sets]
    return p[0] if objective == "prob" else p[0].log() - torch.stack(p[1:]).log().mean(0)


def hooked(model, row, layer, change, objective="prob", module=None, rows=1):
    """The objective [rows] where `change` of a module's input (or `module`'s output) at the last token is in its place."""
    ids = torch.tensor([[*model.specials[0], *model.pieces(row.prompt)]] * rows)

    def put(hidden):
        hidden = hidden.clone()
        hidden[:, -1] = change(hidden[:, -1])
        return hidden

    if module is None:
        handle = model.down_projections[layer].register_forward_pre_hook(lambda m, i: (put(i[0]),))
    else:
        handle = module.register_forward_hook(lambda m, i, output: put(output))
    try:
        return objective_of(model.network(input_ids=ids).logits[:, -1], row.token_sets, objective)
    finally:
        handle.remove()


def by_hand(model, row, layer, nodes, weights, objective="prob", module=None):
    """Path scores of one layer: value times the weighted gradients at nodes of the path from 0."""
    kept = []
    with torch.no_grad():
        hooked(model, row, layer, lambda v: kept.append(v.clone()) or v, module=module)
    nodes, weights = (torch.tensor(np.array(x))[:, None] for x in (nodes, weights))
    points = (nodes * kept[0]).requires_grad_()
    values = hooked(model, row, layer, lambda v: points, objective, module, rows=len(nodes))
    gradient = torch.autograd.grad(values.sum(), points)[0]
    return (kept[0][0] * (weights * gradient).sum(0)).numpy()


def test_gate_times_up_up_and_gate_have_the_same_scores():
    """Spec test 1: along the path the other factor is constant."""
    model, nodes = model_of("llama"), rule("gauss", 8)
    row = next(with_sets(model).itertuples())
    for layer in range(3):
        mlp = model.layers[layer].mlp
        neurons = by_hand(model, row, layer, *nodes)
        for module in (mlp.up_proj, mlp.act_fn):
            found = by_hand(model, row, layer, *nodes, module=module)
            assert np.abs(found - neurons).max() <= 1e-6 * np.abs(neurons).max()


@pytest.mark.parametrize(("kind", "tied"), MODELS)
@pytest.mark.parametrize("objective", ["prob", "margin"])
def test_the_fast_pass_is_the_hook_path(kind, tied, objective):
    """Spec test 2, in float32."""
    model, exact = model_of(kind, tied, torch.float32), model_of(kind, tied)
    queries = with_sets(model)
    found = attribute(model, queries, objective=objective, sites="first", quadrature="gauss", steps=4, engine="fast")
    assert found.provenance["path"].startswith("staircase (prefix shared")
    for number, row in enumerate(queries.itertuples()):
        expected = np.stack([by_hand(exact, row, layer, *rule("gauss", 4), objective) for layer in range(3)])
        assert np.abs(found.scores.values[number] - expected).max() <= 1e-5 * np.abs(expected).max()


def test_probability_is_the_sum_over_the_set():
    model = model_of("llama")
    queries = with_sets(model)
    for objective in ("prob", "margin"):
        found = attribute(model, queries, objective=objective, sites="first", quadrature="gauss", steps=2)
        expected = [float(hooked(model, row, 0, lambda v: v).detach()) for row in queries.itertuples()]
        assert np.allclose(found.probability, expected, rtol=1e-12)


def test_four_letters_in_one_pass_are_four_passes():
    model = model_of("qwen2")
    four = pd.concat([PROMPTS.head(1)] * 4).assign(answer=list("ABCD"), query=list("ABCD"))
    together = letter_scores(model, four, batch=4).scores.values
    for k in range(4):
        alone = letter_scores(model, four.iloc[[k]]).scores.values
        assert np.abs(alone[0] - together[k]).max() <= 1e-10 * np.abs(alone).max()


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_any_chunk_and_any_number_of_points(kind, monkeypatch):
    """Spec test 2 and R15: points need not be a multiple of a batch."""
    model = model_of(kind)
    for steps in (3, 7):
        whole = letter_scores(model, PROMPTS, steps=steps).scores.values
        for batch, rows in ((1, 4096), (3, 5), (4, 17)):
            monkeypatch.setitem(methods.ROWS, "cpu", rows)
            found = letter_scores(model, PROMPTS, steps=steps, batch=batch).scores.values
            assert np.abs(found - whole).max() <= 1e-6 * np.abs(whole).max()


@pytest.mark.parametrize(("kind", "tied"), MODELS)
def test_scores_of_a_layer_sum_to_what_its_neurons_change(kind, tied):
    """Spec test 3 and R5."""
    model = model_of(kind, tied)
    found = letter_scores(model, PROMPTS, steps=16)
    assert float(found.completeness_gap.max()) <= 0.01
    row = one_token_sets(with_sets(model))[0]
    with torch.no_grad():
        clean = hooked(model, row, 0, lambda v: v)
        changes = [float(clean - hooked(model, row, layer, torch.zeros_like)) for layer in range(3)]
    assert np.abs(found.scores.values[0].sum(-1) - changes).max() <= 0.01 * np.abs(changes).max()


@pytest.mark.parametrize(("kind", "tied"), MODELS)
def test_the_row_at_zero_is_a_run_with_a_layers_neurons_at_zero(kind, tied):
    """Spec test 3."""
    model = model_of(kind, tied)
    queries = with_sets(model)
    sites = make_sites(model, queries, sites="first")
    batch = StaircaseBatch(model, sites, [0, 1, 2], "prob", best_plan(model))
    values, _ = batch.measure(np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4), np.zeros(12))
    expected = [float(hooked(model, row, layer, torch.zeros_like).detach()) for row in queries.itertuples()
                for layer in range(3)]  # fmt: skip
    assert np.allclose(np.exp(values), expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "nodes"), [
    ("riemann", [k / 16 for k in range(1, 17)]), ("linspace", [k / 15 for k in range(16)]),
])  # fmt: skip
def test_paper_rules_are_plain_loops(name, nodes):
    """Spec test 4 and R5: linspace, as the reference code, gives both ends the full weight 1/16."""
    model = model_of("llama")
    queries = with_sets(model).head(2)
    found = attribute(model, queries, sites="first", quadrature=name, steps=16)
    for number, row in enumerate(queries.itertuples()):
        expected = np.stack([by_hand(model, row, layer, nodes, [1 / 16] * 16) for layer in range(3)])
        assert np.abs(found.scores.values[number] - expected).max() <= 1e-9 * np.abs(expected).max()


def test_the_papers_settings_have_one_name():
    model = model_of("llama")
    found = letter_scores(model, PROMPTS.head(1), **PAPER)
    assert found.provenance["options"]["quadrature"] == "riemann" and found.provenance["options"]["steps"] == 16


@pytest.mark.parametrize(("kind", "tied"), MODELS)
@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_the_oracle_is_the_hooked_ablation(kind, tied, factor):
    """Spec test 5: 54 seeded neurons."""
    model = model_of(kind, tied)
    found = letter_ablation(model, PROMPTS.head(2), factor=factor)
    draw, width = np.random.default_rng(0), model.n_neurons
    for number, row in enumerate(one_token_sets(with_sets(model).head(2))):
        for layer in range(3):
            neurons = draw.choice(width, 9, replace=False)

            def change(v, neurons=neurons):
                v = v.clone()
                v[np.arange(9), neurons] *= factor
                return v

            with torch.no_grad():
                clean = hooked(model, row, 0, lambda v: v)
                expected = (clean - hooked(model, row, layer, change, rows=9)).numpy()
            assert np.abs(found.scores.values[number, layer, neurons] - expected).max() <= 1e-5 * float(clean)


def test_the_oracle_of_a_margin():
    model = model_of("llama")
    found = letter_ablation(model, PROMPTS.head(1), objective="margin")
    slow = letter_ablation(model, PROMPTS.head(1), objective="margin", engine="reference")
    assert np.allclose(found.scores, slow.scores, rtol=1e-9, atol=1e-13)


def test_a_masked_model_equals_its_hook_path():
    """Spec test 6: a change at the mask reaches every position, so rows carry the whole sequence."""
    model = model_of("bert")
    for objective in ("prob", "margin"):
        found = letter_scores(model, PROMPTS, objective=objective)
        slow = letter_scores(model, PROMPTS, objective=objective, engine="reference")
        assert np.allclose(found.scores, slow.scores, rtol=1e-9, atol=1e-15)
        assert "prefix none" in found.provenance["path"]


def test_the_suffix_pass_refuses_a_masked_model():
    """Spec test 6."""
    model = model_of("bert")
    sites = make_sites(model, with_sets(model), sites="first")
    with pytest.raises(ValueError, match="a shared prefix needs the answer's position to be the last"):
        StaircaseBatch(model, sites, [0, 1, 2], "prob", Plan("shared", True, True))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_an_exception_inside_leaves_the_model_as_it_was(kind, monkeypatch):
    """R13."""
    model = model_of(kind)
    ids = torch.arange(5, 14)[None]
    before = model.network(input_ids=ids).logits
    letter_scores(model, PROMPTS.head(1))
    last = model.down_projections[-1]
    monkeypatch.setattr(type(last), "forward", _failing(type(last).forward, last))
    with pytest.raises(ZeroDivisionError):
        letter_scores(model, PROMPTS)
    monkeypatch.undo()
    assert torch.equal(model.network(input_ids=ids).logits, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.network.modules())


def _failing(forward, module):
    def fail(self, *args):
        if self is module:
            raise ZeroDivisionError
        return forward(self, *args)

    return fail


def test_bad_input_is_named():
    model = model_of("llama")
    with pytest.raises(InputError, match="objective: found 'logprob', expected one of prob margin"):
        letter_scores(model, PROMPTS, objective="logprob")
    with pytest.raises(InputError, match="objective: found 'p'"):
        letter_ablation(model, PROMPTS, objective="p")
    sets = with_sets(model)
    for bad in ([(5,), ()], [(5, 6), (6,)], [(5,)]):
        with pytest.raises(InputError, match=r"query 0, token_sets.*disjoint sets"):
            attribute(model, sets.head(1).assign(token_sets=[bad]), sites="first")
    with pytest.raises(InputError, match="sites: found 'mean', expected first with a column `token_sets`"):
        attribute(model, sets)
    with pytest.raises(InputError, match="different numbers of sets"):
        attribute(model, sets.assign(token_sets=[[(5,), (6,)]] * 3 + [[(5,), (6,), (7,)]]), sites="first")
    with pytest.raises(InputError, match="baseline: found shape"):
        attribute(model, sets, sites="first", baseline=np.zeros(3))
