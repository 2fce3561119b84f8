"""Editors by name: known names and options, what the block gives, what it leaves."""

import pytest
from edit_requests import ONE, REQUESTS, TEXTS, down, same, weights
from tiny_models import KeepFloat64, tiny_model

from knlib.editing import EDITORS, ValueOptions, WeightChange, edit, find_change, register
from knlib.errors import InputError

QUICK = {"texts": TEXTS, "value": ValueOptions(steps=3)}
OPTIONS = {"rome": QUICK | {"layer": 1}, "memit": QUICK | {"layers": [1, 2], "lam": 1.0},
           "alphaedit": QUICK | {"layers": [0, 1], "ridge": 1e-3}}  # fmt: skip


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def test_the_editors():
    assert set(OPTIONS) <= set(EDITORS)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("name", OPTIONS)
def test_bit_identical_after_search_block_exception_and_nesting(name, kind):
    model = tiny_model(kind)
    before, first = weights(model), model.hash
    change = find_change(name, model, REQUESTS, **OPTIONS[name])
    assert same(model, before) and model.hash == first == change.model_hash and change.editor == name
    assert change.edits == ["A", "B"] and change.report["last_prompt"] == 0
    with edit(name, model, ONE, **OPTIONS[name]) as edited:
        assert edited.queries(REQUESTS) is REQUESTS and edited.edits == ["A"]
        inside = weights(model)
        assert not same(model, before) and model.hash != first
        with edit(name, model, REQUESTS.tail(2), **OPTIONS[name]):
            assert not same(model, inside)
        assert same(model, inside)
    assert same(model, before) and model.hash == first
    with pytest.raises(KeyError), edit(name, model, ONE, **OPTIONS[name]):
        raise KeyError
    assert same(model, before)


@pytest.mark.parametrize("name", OPTIONS)
def test_bit_identical_when_the_search_fails_halfway(name, monkeypatch):
    model, module = tiny_model("gpt2"), __import__(f"knlib.editing.{name}", fromlist=["x"])
    before, calls = weights(model), []
    home = module if name == "rome" else __import__("knlib.editing.memit", fromlist=["x"])
    add = home.add_parts

    def failing(*args):
        add(*args)
        calls.append(not same(model, before))
        if len(calls) == 2:
            raise KeyError

    monkeypatch.setattr(home, "add_parts", failing)
    with pytest.raises(KeyError):
        find_change(name, model, REQUESTS, **OPTIONS[name])
    assert calls == [True, True] and same(model, before)


@pytest.mark.parametrize("name", OPTIONS)
def test_deterministic(name):
    model = tiny_model("llama")
    first, second = (find_change(name, model, REQUESTS, **OPTIONS[name]) for _ in range(2))
    assert all(a.outputs.equal(b.outputs) and a.keys.equal(b.keys)
               for a, b in zip(first.parts, second.parts, strict=True))  # fmt: skip
    assert first.report == second.report and first.options == second.options


def test_a_new_editor_is_one_function(monkeypatch):
    monkeypatch.setattr("knlib.editing.registry.EDITORS", dict(EDITORS))
    model = tiny_model("gpt2")
    before = down(model, 0)

    @register("nothing")
    def nothing(model, requests, *, strength=1.0):
        return WeightChange("nothing", {"strength": strength}, model.name, model.hash, ())

    register("nothing")(nothing)
    with edit("nothing", model, REQUESTS, strength=2.0) as edited:
        assert edited.options == {"strength": 2.0} and edited.edits == [] and down(model, 0).equal(before)
    with pytest.raises(InputError, match=r"register: found 'rome', expected a new name: knlib\.editing\.rome"):
        register("rome")(nothing)


def test_unknown_names_are_answered_with_the_known_ones():
    model = tiny_model("gpt2")
    with pytest.raises(InputError, match=r"editor: found 'roma', expected one of .*rome"):
        find_change("roma", model, REQUESTS)
    with pytest.raises(
        InputError, match="editor rome, options: found 'lr', expected one of layer texts contexts essence value"
    ):
        find_change("rome", model, REQUESTS, layer=1, texts=None, lr=0.1)
    with pytest.raises(
        InputError, match=r"editor rome, options: found \['texts'\], expected layer, which has no default"
    ):
        find_change("rome", model, REQUESTS, texts=None)
    with pytest.raises(InputError, match="two requests in en"):
        find_change("rome", model, REQUESTS.assign(language="en"), layer=1, texts=None)
    with (
        pytest.raises(InputError, match="layer: found 3, expected a number from 0 to 2"),
        edit("rome", model, ONE, layer=3, texts=None),
    ):
        pass
