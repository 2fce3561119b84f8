"""MEMIT equals its formula, ROME in the limit, and nothing where nothing is left to write."""

import pytest
import torch
from edit_requests import ENDS, ONE, REQUESTS, TEXTS, as_linear, down, naive_moment, naive_states
from tiny_models import KeepFloat64, tiny_model
from transformers.pytorch_utils import Conv1D

from knlib.editing import ValueOptions, find_change, memit
from knlib.editing.requests import prompt_rows, with_prefixes
from knlib.editing.values import optimise_values
from knlib.errors import InputError

TINY = [("gpt2", {}), ("gpt2", {"n_inner": 16}), ("llama", {}), ("llama", {"intermediate_size": 16})]
# The same search at a down-projection's and a block's output: bounds and decay would see other norms.
FREE = ValueOptions(weight_decay=0.0, clamp=1e9)


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def edit(model, requests=REQUESTS, **options):
    return find_change("memit", model, requests, **({"layers": [0, 1], "texts": TEXTS, "lam": 3.0} | options))


def update(change, layer):
    return sum(part.outputs @ part.keys.T for part in change.parts if part.layer == layer)


@pytest.mark.parametrize("kind, options", TINY)
def test_one_edit_in_one_layer_is_romes_as_lambda_vanishes(kind, options):
    model = tiny_model(kind, **options)
    rome = find_change("rome", model, ONE, layer=1, texts=TEXTS, value=FREE)
    gaps = []
    for lam in (1.0, 1e-3, 1e-10):
        found = update(edit(model, ONE, layers=[1], lam=lam, value=FREE), 1)
        gaps.append(float((found - update(rome, 1)).norm() / update(rome, 1).norm()))
    assert gaps[0] > 1e-3 > gaps[1] > gaps[2] and gaps[2] < 1e-7


def test_no_residual_no_change():
    model = tiny_model("gpt2")
    change = edit(model, value=ValueOptions(steps=0))
    assert len(change.parts) == 4
    for layer in (0, 1):
        assert update(change, layer).abs().max() < 1e-12
    assert all(part.keys.abs().max() > 1e-6 for part in change.parts)


def add(model, layer, change):
    weight = model.down_projections[layer].weight
    weight += change.T if type(model.down_projections[layer]) is Conv1D else change


@pytest.mark.parametrize("kind, options", TINY)
def test_equal_to_the_formula_layer_by_layer(kind, options):
    """D = R K^T (lam C + K K^T)^-1, R = (z - h) / (L - l + 1), on a twin whose weights are changed as we go."""
    model, twin = tiny_model(kind, **options), tiny_model(kind, **options)
    layers, lam, value = [0, 1, 2], 2.0, ValueOptions(steps=5)
    change = edit(model, layers=layers, lam=lam, value=value)
    moments = [naive_moment(twin, layer, 1e-3) for layer in layers]
    places = [(row.prompt, ENDS[row.edit][row.language]) for row in REQUESTS.itertuples()]
    delta = optimise_values(twin, prompt_rows(twin, REQUESTS), 2, where="block", options=value).delta
    aim = torch.stack([naive_states(twin, *place, 2)[2] for place in places]) + delta
    for layer in layers:
        keys = torch.stack([naive_states(twin, *place, layer)[0] for place in places]).T
        now = torch.stack([naive_states(twin, *place, 2)[2] for place in places])
        residual = ((aim - now) / (2 - layer + 1)).T
        expected = residual @ keys.T @ torch.linalg.inv(lam * moments[layer] + keys @ keys.T)
        assert expected.norm() > 1e-3
        assert torch.allclose(update(change, layer), expected, rtol=1e-7, atol=1e-8)
        add(twin, layer, expected)
    with change.applied(model):
        assert all(torch.allclose(down(model, layer), down(twin, layer), atol=1e-7) for layer in layers)


def test_every_language_is_a_request_of_its_own():
    model = tiny_model("llama")
    change = edit(model)
    assert [(p.edit, p.layer, p.outputs.shape[1]) for p in change.parts] == [
        ("A", 0, 2), ("B", 0, 2), ("A", 1, 2), ("B", 1, 2)
    ]  # fmt: skip
    assert [(e["edit"], e["language"]) for e in change.report["values"]] == [
        ("A", "en"), ("A", "ja"), ("B", "en"), ("B", "ja")
    ]  # fmt: skip


def test_written_where_lambda_is_small():
    """With little weight on other keys every request's output is the one that was sought."""
    model, layer = tiny_model("gpt2"), 1
    delta = optimise_values(model, prompt_rows(model, REQUESTS), layer, where="block", options=memit.VALUE).delta
    places = [(row.prompt, ENDS[row.edit][row.language]) for row in REQUESTS.itertuples()]
    before = [naive_states(model, *place, layer)[2] for place in places]
    with edit(model, layers=[layer], lam=1e-9).applied(model):
        for number, place in enumerate(places):
            assert torch.allclose(naive_states(model, *place, layer)[2], before[number] + delta[number], atol=1e-5)


def test_contexts_make_means():
    model = tiny_model("gpt2")
    contexts = with_prefixes(ONE, {"en": ["mira. ", "so lu "]})
    rows = prompt_rows(model, ONE, contexts)
    key = torch.stack([naive_states(model, r.prompt, r.position, 1)[0] for r in rows.itertuples()]).mean(0)
    found = edit(model, ONE, layers=[1], texts=None, lam=2.0, contexts=contexts).parts[0].keys[:, 0]
    assert torch.allclose(found, key / (2.0 + key @ key), atol=1e-10)


def test_batches_follow_one_another():
    model = tiny_model("llama")
    change = edit(model, texts=None, batch=1)
    with change.without("B").applied(model):
        then = edit(model, REQUESTS.tail(2), texts=None)
    for layer in (0, 1):
        assert torch.allclose(update(change.without("A"), layer), update(then, layer), atol=1e-8)
        assert not torch.allclose(update(change, layer), update(edit(model, texts=None), layer), atol=1e-3)


def test_twins_get_the_same_edit():
    for options in ({}, {"n_inner": 16}):
        one, other = tiny_model("gpt2", **options), tiny_model("gpt2", **options)
        as_linear(other)
        a, b = edit(one), edit(other)
        assert all(torch.allclose(update(a, layer), update(b, layer), atol=1e-7) for layer in (0, 1))


def test_bad_input_is_named():
    model = tiny_model("gpt2")
    cases = [({"layers": []}, r"layers: found \[\]"), ({"layers": [1, 0]}, "each above the one before"),
             ({"layers": [1, 3]}, "layer: found 3"), ({"batch": 0}, "batch: found 0")]  # fmt: skip
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            edit(model, **options)
