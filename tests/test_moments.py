"""Second moments are those of every token of the texts, and are computed once for the same weights and texts."""

import pytest
import torch
from edit_requests import TEXTS, naive_moment
from tiny_models import KeepFloat64, tiny_model

from knlib.editing import moments, scale_columns
from knlib.editing.changes import kept_weights
from knlib.editing.moments import eigen_moments, second_moments, text_hash
from knlib.errors import InputError


@pytest.fixture(autouse=True)
def float64():
    moments._moments.clear()
    moments._eigen.clear()
    with KeepFloat64():
        yield


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_equal_to_one_token_at_a_time(kind, monkeypatch):
    model = tiny_model(kind)
    monkeypatch.setattr(moments, "TOKENS_PER_BATCH", 25)  # several batches
    found = second_moments(model, [0, 2], TEXTS, ridge=1e-3)
    assert list(found) == [0, 2] and found[0].dtype == torch.float64
    for layer, moment in found.items():
        assert torch.allclose(moment, naive_moment(model, layer, 1e-3), rtol=1e-9, atol=1e-12)
        plain = second_moments(model, [layer], TEXTS, ridge=0.0)[layer]
        assert torch.linalg.matrix_rank(moment) == len(moment) and moment.trace() > plain.trace()


def test_computed_once_per_weights_layer_and_text(monkeypatch):
    model, calls, computed = tiny_model("gpt2"), [], moments._computed
    monkeypatch.setattr(
        moments, "_computed", lambda m, layers, texts: calls.append(layers) or computed(m, layers, texts)
    )
    first = second_moments(model, [0, 1], TEXTS)
    first[0].zero_()  # the caller's own
    assert second_moments(model, [0, 2], TEXTS, ridge=0.5)[0].any() and calls == [[0, 1], [2]]
    with scale_columns(model, [(0, 3)], 3.0):
        edited = second_moments(model, [1], TEXTS)[1]
    assert not torch.allclose(edited, first[1]) and second_moments(model, [1], TEXTS)[1].equal(first[1])
    second_moments(model, [1], TEXTS[:-1])
    assert calls == [[0, 1], [2], [1], [1]]


def test_memory_is_bounded():
    model = tiny_model("gpt2")
    for end in range(1, 7):
        second_moments(model, [0], TEXTS[:end])
    assert len(moments._moments) == moments.REMEMBERED


def test_text_hash_tells_texts_apart():
    assert text_hash(["ab", "c"]) != text_hash(["a", "bc"]) != text_hash(["abc"])
    with pytest.raises(InputError, match="texts: found 'kilo', expected a list"):
        text_hash("kilo")
    with pytest.raises(InputError, match="texts: found 0 texts without a token"):
        second_moments(tiny_model("gpt2"), [0], [])


def test_remembered_eigenvectors_are_those_of_the_moment():
    model = tiny_model("llama")
    moment = second_moments(model, [1], TEXTS, ridge=0.0)[1]
    values, directions = eigen_moments(model, [1], TEXTS)[1]
    assert torch.allclose(directions * values @ directions.T, moment, atol=1e-10) and (values.diff() >= 0).all()
    assert eigen_moments(model, [1], TEXTS)[1][0] is values
    with kept_weights(model, [0]):
        model.down_projections[0].weight.mul_(2)
        assert not torch.allclose(eigen_moments(model, [1], TEXTS)[1][0], values)
