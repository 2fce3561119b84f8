"""Optimised values: their loss is that of the edited model, and they keep to their bounds."""

import numpy as np
import pytest
import torch
from edit_requests import ENDS, ONE, REQUESTS, naive_states
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.changes import Part, add_parts, kept_weights
from knlib.editing.memory import remembered, remembers
from knlib.editing.requests import prompt_rows, with_prefixes
from knlib.editing.states import group_means, subject_keys, subject_outputs
from knlib.editing.values import ValueOptions, optimise_values
from knlib.errors import InputError
from knlib.prediction import answer_tokens, score_answers

FREE = ValueOptions(kl_weight=0.0, weight_decay=0.0, clamp=1e9, stop=0.0)


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def mean_log_p(model, rows):
    scores = score_answers(model, rows["prompt"], rows["space"], rows["new"], rows["suffix"])
    return scores / [len(answer_tokens(model, r.prompt, r.space, r.new)) for r in rows.itertuples()]


def added(model, layer, where, position, delta):
    """A plain hook, for rows that have their subject at one position."""
    module = (model.down_projections if where == "mlp" else model.layers)[layer]

    def hook(module, inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[..., position, :] += delta
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return model.hooks((module, hook))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gpt_neox", "opt"])
def test_states_are_those_at_the_subjects_last_token(kind):
    model = tiny_model(kind)
    rows = prompt_rows(model, REQUESTS)
    for layer in range(3):
        found = [subject_keys(model, rows, layer), *(subject_outputs(model, rows, layer, w) for w in ("mlp", "block"))]
        for number, row in enumerate(REQUESTS.itertuples()):
            expected = naive_states(model, row.prompt, ENDS[row.edit][row.language], layer)
            for ours, naive in zip(found, expected, strict=True):
                assert torch.allclose(ours[number], naive, atol=1e-10)


def test_group_means():
    values = torch.tensor([[1.0, 0.0], [2.0, 4.0], [3.0, 2.0]], dtype=torch.float64)
    assert group_means(values, torch.tensor([0, 1, 0])).tolist() == [[2.0, 1.0], [2.0, 4.0]]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("where", ["mlp", "block"])
def test_the_loss_is_that_of_the_model_with_the_value(kind, where):
    model = tiny_model(kind)
    rows = prompt_rows(model, REQUESTS)
    none = optimise_values(model, rows, 1, where=where, options=ValueOptions(steps=0))
    # Unedited: no divergence and no size.
    assert np.allclose([entry["loss"] for entry in none.log], -mean_log_p(model, rows), atol=1e-6)
    assert not none.delta.any()
    values = optimise_values(model, rows, 1, where=where, options=FREE)
    for number, entry in enumerate(values.log):
        row = rows.iloc[[number]]
        assert (entry["edit"], entry["language"]) == (row["edit"].item(), row["language"].item())
        with added(model, 1, where, row["position"].item(), values.delta[number]):
            after = mean_log_p(model, row).item()
        assert entry["loss"] == pytest.approx(-after, rel=1e-4, abs=1e-7) and entry["steps"] == FREE.steps
        assert entry["p_new"] == pytest.approx(np.exp(after), rel=1e-4)
        assert after > mean_log_p(model, row).item() + 0.05


def test_all_parts_of_the_loss_by_hand():
    """One prompt, essence 'S nupe': both terms at the delta found."""
    model, options = tiny_model("gpt2"), ValueOptions(steps=4, lr=0.1, kl_weight=0.7, weight_decay=0.3)
    rows = prompt_rows(model, ONE)
    values = optimise_values(model, rows, 1, where="mlp", essence={"en": "{S} nupe"}, options=options)
    delta, start = values.delta[0], naive_states(model, ONE["prompt"].item(), 6, 1)[1]
    assert torch.allclose(values.start[0], start, atol=1e-10)
    ids = torch.tensor([[1, *model.pieces("bada nupe")]])
    at = [1, *model.pieces("bada")].__len__() - 1
    old = model.network(input_ids=ids).logits[0, at].log_softmax(-1)
    with added(model, 1, "mlp", at, delta):
        new = model.network(input_ids=ids).logits[0, at].log_softmax(-1)
    with added(model, 1, "mlp", 6, delta):
        likelihood = -mean_log_p(model, rows).item()
    divergence = (new.exp() * (new - old)).sum().item()
    expected = likelihood + 0.7 * divergence + 0.3 * (delta.norm() / start.norm() ** 2).item()
    assert divergence > 1e-6 and values.log[0]["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_first_step_is_adams_down_the_gradient():
    """Adam's first step is its rate along the gradient's signs: by finite differences of the scores."""
    model = tiny_model("llama")
    rows = prompt_rows(model, ONE)
    one = ValueOptions(steps=1, lr=1e-3, kl_weight=0.0, weight_decay=0.0, stop=0.0)
    delta = optimise_values(model, rows, 1, where="block", options=one).delta[0]
    for i in range(0, 16, 5):
        step = torch.zeros(16, dtype=torch.float64)
        step[i] = 1e-4
        with added(model, 1, "block", 6, step):
            up = mean_log_p(model, rows).item()
        with added(model, 1, "block", 6, -step):
            down = mean_log_p(model, rows).item()
        assert delta[i].item() == pytest.approx(1e-3 * np.sign(up - down), rel=1e-3)


def test_groups_are_independent_of_each_other(monkeypatch):
    model, options = tiny_model("gpt2"), ValueOptions(stop=5.0)
    rows = prompt_rows(model, REQUESTS, with_prefixes(REQUESTS, {"en": ["mira. "]}))
    together = optimise_values(model, rows, 1, where="mlp", options=options)
    # Some are done before others, and are left alone then.
    assert len({entry["steps"] for entry in together.log}) > 1
    monkeypatch.setattr("knlib.editing.values.TOKENS_PER_BATCH", 1)
    alone = optimise_values(model, rows, 1, where="mlp", options=options)
    assert torch.allclose(together.delta, alone.delta, atol=1e-9) and torch.allclose(together.start, alone.start)
    for number, entry in enumerate(together.log):
        assert entry["steps"] == alone.log[number]["steps"]
        assert (entry["loss"] < 5.0) == (entry["steps"] < options.steps)
    assert [(entry["edit"], entry["language"]) for entry in together.log] == [
        ("A", "en"), ("A", "ja"), ("B", "en"), ("B", "ja")
    ]  # fmt: skip


def test_one_value_for_all_languages_of_an_edit():
    """Its loss is the mean over the edit's rows, whose values of their own do better."""
    model = tiny_model("llama")
    rows = prompt_rows(model, REQUESTS)
    shared = optimise_values(model, rows, 1, where="mlp", by=["edit"], options=FREE)
    assert shared.delta.shape == (2, 16) and [entry["edit"] for entry in shared.log] == ["A", "B"]
    for number, edit in enumerate("AB"):
        own, losses = rows[rows["edit"] == edit], []
        for k in range(2):
            row = own.iloc[[k]]
            with added(model, 1, "mlp", row["position"].item(), shared.delta[number]):
                losses.append(-mean_log_p(model, row).item())
        assert shared.log[number]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert torch.allclose(shared.start, group_means(subject_outputs(model, rows, 1, "mlp"), torch.tensor([0, 0, 1, 1])))


def test_bounds_and_weights_hold():
    model = tiny_model("gpt2")
    rows = prompt_rows(model, REQUESTS)
    tight = optimise_values(model, rows, 1, where="block", options=ValueOptions(clamp=0.1, stop=0.0))
    ratio = tight.delta.norm(dim=1) / tight.start.norm(dim=1)
    assert (ratio <= 0.1 + 1e-9).all() and ratio.max() > 0.099
    free = optimise_values(model, rows, 1, where="block", options=FREE)
    assert (free.delta.norm(dim=1) / free.start.norm(dim=1)).min() > 0.1
    heavy = optimise_values(model, rows, 1, where="block", options=ValueOptions(weight_decay=50.0, clamp=1e9, stop=0.0))
    assert (heavy.delta.norm(dim=1) < free.delta.norm(dim=1)).all()


def test_deterministic_and_in_the_models_precision():
    model = tiny_model("llama", dtype=torch.bfloat16)
    rows = prompt_rows(model, REQUESTS)
    first, second = (optimise_values(model, rows, 1, where="mlp", options=ValueOptions()) for _ in range(2))
    assert first.delta.equal(second.delta) and first.log == second.log and first.delta.isfinite().all()


def test_bad_input_is_named():
    model = tiny_model("gpt2")
    rows = prompt_rows(model, ONE)
    with pytest.raises(InputError, match="where: found 'ffn', expected mlp or block"):
        optimise_values(model, rows, 1, where="ffn", options=FREE)
    with pytest.raises(InputError, match="layer: found 3"):
        optimise_values(model, rows, 3, where="mlp", options=FREE)


def test_remembered_values_are_those_of_a_search():
    """Alone, together with others, and on other weights; outside the block nothing is remembered."""
    model = tiny_model("gpt2")
    rows, options = prompt_rows(model, REQUESTS), ValueOptions(steps=3)

    def search(part):
        return optimise_values(model, part.reset_index(drop=True), 1, where="block", options=options)

    plain = search(rows)
    with remembered():
        alone = search(rows[rows["edit"] == "B"])
        both = search(rows)
        assert both.delta[2:].equal(alone.delta) and [entry["edit"] for entry in both.log] == ["A", "A", "B", "B"]
        with kept_weights(model, [1]):
            add_parts(model, [Part("x", 1, torch.ones(plain.delta.shape[1], 1), torch.ones(model.n_neurons, 1))])
            assert not search(rows).delta.equal(both.delta)
        assert search(rows).delta.equal(both.delta)
    assert torch.allclose(both.delta, plain.delta, atol=1e-5) and not remembers()
