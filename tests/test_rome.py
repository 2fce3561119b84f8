"""ROME writes the value at the key, by a change of rank one that equals the closed form."""

import numpy as np
import pytest
import torch
from edit_requests import ENDS, ONE, REQUESTS, TEXTS, as_linear, down, naive_moment, naive_states, same, weights
from tiny_models import KeepFloat64, tiny_model

from knlib.editing import find_change
from knlib.editing.changes import WeightChange
from knlib.editing.requests import prompt_rows, with_prefixes
from knlib.editing.rome import VALUE
from knlib.editing.states import subject_outputs
from knlib.editing.values import optimise_values
from knlib.prediction import score_answers

TINY = [("gpt2", {}), ("gpt2", {"n_inner": 16}), ("llama", {}), ("llama", {"intermediate_size": 16})]


def rome(model, requests=ONE, **options):
    return find_change("rome", model, requests, **({"layer": 1, "texts": TEXTS} | options))


@pytest.mark.parametrize("kind, options", TINY)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_the_key_has_the_value(kind, options, dtype, tolerance):
    with KeepFloat64():
        model = tiny_model(kind, dtype=dtype, **options)
        key, old, _ = naive_states(model, ONE["prompt"].item(), ENDS["A"]["en"], 1)
        delta = optimise_values(model, prompt_rows(model, ONE), 1, where="mlp", options=VALUE).delta[0]
        aim = old.double() + delta
        with rome(model).applied(model):
            new, *_ = naive_states(model, ONE["prompt"].item(), ENDS["A"]["en"], 1), None
        assert (new[1].double() - aim).norm() <= tolerance * aim.norm() and delta.norm() > 0.1
        assert new[0].equal(key)


@pytest.mark.parametrize("kind, options", TINY)
def test_equal_to_the_closed_form(kind, options):
    """W' = W + Lambda (C^-1 k)^T, Lambda = (v - W k) / ((C^-1 k)^T k): the spec's, step by step."""
    with KeepFloat64():
        model = tiny_model(kind, **options)
        before, moment = down(model, 1), naive_moment(model, 1, 1e-3)
        key, _, _ = naive_states(model, ONE["prompt"].item(), ENDS["A"]["en"], 1)
        delta = optimise_values(model, prompt_rows(model, ONE), 1, where="mlp", options=VALUE).delta[0]
        value = before @ key + delta
        direction = torch.linalg.inv(moment) @ key
        expected = before + torch.outer((value - before @ key) / (direction @ key), direction)
        with rome(model).applied(model):
            found = down(model, 1)
            others = [down(model, layer) for layer in (0, 2)]
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)
        assert torch.linalg.matrix_rank(found - before, rtol=1e-9) == 1
        assert all(other.equal(down(model, layer)) for layer, other in zip((0, 2), others, strict=True))


def test_without_texts_the_moment_is_the_identity():
    with KeepFloat64():
        model = tiny_model("llama")
        key, *_ = naive_states(model, ONE["prompt"].item(), ENDS["A"]["en"], 1)
        change = rome(model, texts=None)
        assert torch.allclose(change.parts[0].keys[:, 0], key / (key @ key), atol=1e-10)
        assert change.options["texts"] is None and rome(model).options["texts"] is not None


def test_keys_are_means_over_the_prompts():
    with KeepFloat64():
        model = tiny_model("gpt2")
        contexts = with_prefixes(ONE, {"en": ["mira. ", "so lu "]})
        rows = prompt_rows(model, ONE, contexts)
        keys = [naive_states(model, row.prompt, row.position, 1)[0] for row in rows.itertuples()]
        key = torch.stack(keys).mean(0)
        part = rome(model, texts=None, contexts=contexts).parts[0]
        assert torch.allclose(part.keys[:, 0], key / (key @ key), atol=1e-10)
        assert not torch.allclose(key, keys[0], atol=1e-3)


def test_twins_get_the_same_edit():
    with KeepFloat64():
        for options in ({}, {"n_inner": 16}):
            one, other = tiny_model("gpt2", **options), tiny_model("gpt2", **options)
            as_linear(other)
            for a, b in zip(rome(one, REQUESTS).parts, rome(other, REQUESTS).parts, strict=True):
                assert torch.allclose(a.outputs @ a.keys.T, b.outputs @ b.keys.T, atol=1e-7)


def test_languages_follow_one_another():
    """The second request is sought on the model that has the first."""
    with KeepFloat64():
        model = tiny_model("llama")
        both = rome(model, REQUESTS, texts=None)
        assert [part.edit for part in both.parts] == ["A", "A", "B", "B"]
        assert [entry["language"] for entry in both.report["values"]] == ["en", "ja", "en", "ja"]
        with both.without("B").applied(model):
            then = rome(model, REQUESTS.tail(2), texts=None)
        for a, b in zip(both.parts[2:], then.parts, strict=True):
            assert torch.allclose(a.outputs @ a.keys.T, b.outputs @ b.keys.T, atol=1e-9)
        alone = rome(model, REQUESTS.tail(2), texts=None)
        assert not torch.allclose(alone.parts[0].outputs, both.parts[2].outputs, atol=1e-3)


def test_values_that_were_sought_together_are_all_there_in_the_end():
    """Each request's value is that of the unedited model, and inserting one moves the aim of the next accordingly."""
    with KeepFloat64():
        model = tiny_model("llama")
        rows = prompt_rows(model, REQUESTS)
        aim = optimise_values(model, rows, 1, where="mlp", options=VALUE)
        found = rome(model, REQUESTS, layer=1, texts=None, together=True)
        assert [entry["loss"] for entry in found.report["values"]] == [entry["loss"] for entry in aim.log]
        for number in range(len(rows)):
            # After its own turn a request has its value, whatever came before.
            parts = WeightChange("rome", {}, model.name, model.hash, found.parts[: number + 1])
            with parts.applied(model):
                reached = subject_outputs(model, rows.iloc[[number]], 1, "mlp")[0]
            assert torch.allclose(reached, aim.start[number] + aim.delta[number], atol=1e-8)


def test_the_new_answer_gets_probable_and_all_is_undone():
    model = tiny_model("gpt2", dtype=torch.float32)
    before = weights(model)
    # The answer stands behind the subject: a random model hardly moves what it says later.
    last = ONE.assign(prompt="kilo bada", space="", new="ki")

    def scores():
        return score_answers(model, last["prompt"], last["space"], last["new"], last["suffix"])[0]

    plain = scores()
    change = rome(model, last)
    with change.applied(model):
        assert scores() > plain + 1
    entry = change.report["values"][0]
    assert np.log(entry["p_new"]) > plain + 1 and entry["steps"] > 0 and change.report["last_prompt"] == 0
    assert same(model, before)


def test_a_prompt_without_its_subject_is_counted():
    model = tiny_model("gpt2")
    assert rome(model, ONE.assign(subject="lulu"), texts=None).report["last_prompt"] == 1
