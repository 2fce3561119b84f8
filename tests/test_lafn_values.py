"""The shared shift: what it adds, what it is optimised for, and its limits."""

import edit_tables
import numpy as np
import pandas as pd
import pytest
import torch
from edit_losses import examples_loss
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.fine_tuning import answer_examples
from knlib.editing.lafn_values import ShiftOptions, optimise_shifts, shifted
from knlib.editing.memory import remembered
from knlib.editing.requests import prompt_rows
from knlib.editing.states import subject_keys
from knlib.models import by_input
from knlib.sites import padded


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def rows_of(model, *contexts):
    requests = edit_tables.queries("request").assign(edit=lambda t: t["fact"])
    requests = requests[requests["fact"] == "r:B"]
    more = edit_tables.queries(*contexts).assign(edit=lambda t: t["fact"]) if contexts else None
    return prompt_rows(model, requests, None if more is None else more[more["fact"] == "r:B"].drop(columns="template"))


def scale_of(model, value=0.3):
    return {layer: torch.full((model.n_neurons,), value) for layer in range(model.n_layers)}


def optimise_shift(model, rows, pairs, scale, options, watch=True):
    return optimise_shifts(model, rows.assign(part="x"), {"x": pairs}, scale, options, watch=watch)["x"]


PAIRS = tuple((layer, neuron) for layer in (0, 2) for neuron in (1, 4, 5, 9))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_shift_of_neurons_adds_their_columns_to_the_output_there_and_nowhere_else(kind):
    model = tiny_model(kind)
    ids, mask = padded([(1, 9, 12, 20, 7), (1, 8, 3)], model.tokenizer.pad_token_id, "right", model.device)
    neurons, shift = [2, 7, 11], torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    seen, down = [], model.down_projections[1]
    for values in ({}, {1: (neurons, shift)}):
        with (
            shifted(model, values, ids.shape, [1], [2]),
            model.hooks((down, lambda m, i, o: seen.append(o.view(2, 5, -1)))),
            torch.no_grad(),
        ):
            model.network(input_ids=ids, attention_mask=mask)
    change = seen[1] - seen[0]
    assert torch.allclose(change[1, 2], by_input(down, down.weight)[neurons].T @ shift, atol=1e-12)
    change[1, 2] = 0
    assert not change.any()
    assert not any(d._forward_pre_hooks for d in model.down_projections)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_new_answers_get_likelier_in_both_languages(kind):
    model = tiny_model(kind)
    rows = rows_of(model)
    before = {c: examples_loss(model, answer_examples(model, own)).item() for c, own in rows.groupby("language")}
    shift = optimise_shift(model, rows, PAIRS, scale_of(model), ShiftOptions(kl_weight=0.0, clamp=50.0))
    assert set(shift.values) == {0, 2} and shift.steps > 0
    after = {}
    for code, own in rows.groupby("language"):
        examples = answer_examples(model, own)
        with shifted(model, shift.values, examples[0][0].shape, [0], own["position"].tolist()):
            after[code] = examples_loss(model, examples).item()
    assert all(after[code] < before[code] - 0.1 for code in before)
    assert shift.loss == pytest.approx(np.mean(list(after.values())), rel=1e-9)  # no context: the requests are watched
    again = optimise_shift(model, rows, PAIRS, scale_of(model), ShiftOptions(kl_weight=0.0, clamp=50.0))
    assert all(again.values[i][1].equal(shift.values[i][1]) for i in (0, 2))


def test_languages_weigh_alike_and_the_last_context_is_only_watched(monkeypatch):
    model = tiny_model("llama")
    rows = rows_of(model, "locate", "held0")
    one_step = ShiftOptions(steps=1, kl_weight=0.0, weight_decay=0.0)
    found = optimise_shift(model, rows, PAIRS, scale_of(model), one_step)
    # A context more of one language changes nothing in its weight; another watched context nothing at all.
    last = rows.duplicated("language", keep="last")
    without = optimise_shift(model, rows[last], PAIRS, scale_of(model), one_step, watch=False)
    assert all(found.values[i][1].equal(without.values[i][1]) for i in (0, 2))
    doubled = pd.concat([rows[last], rows[last & (rows["language"] == "en")]], ignore_index=True)
    same = optimise_shift(model, doubled, PAIRS, scale_of(model), one_step, watch=False)
    assert all(torch.allclose(same.values[i][1], without.values[i][1], atol=1e-9) for i in (0, 2))


def test_the_norm_stays_below_the_clamp_and_the_divergence_holds_back():
    model = tiny_model("gpt2")
    rows = rows_of(model)
    shift = optimise_shift(model, rows, PAIRS, scale_of(model), ShiftOptions(clamp=0.4, lr=2.0, steps=6))
    for layer, (_, values) in shift.values.items():
        size = float(subject_keys(model, rows, layer).norm(dim=1).mean())
        assert float(values.norm()) <= 0.4 * size * (1 + 1e-9)
    free = optimise_shift(model, rows, PAIRS, scale_of(model), ShiftOptions(kl_weight=0.0, clamp=50.0))
    held = optimise_shift(model, rows, PAIRS, scale_of(model), ShiftOptions(kl_weight=100.0, clamp=50.0))
    sizes = [sum(float(values.norm()) for _, values in found.values.values()) for found in (held, free)]
    assert sizes[0] < sizes[1]


def test_a_remembered_search_goes_on():
    """More steps after fewer, and fewer after more, are what each is alone; other options are another search."""
    model = tiny_model("gpt2")
    rows, scale = rows_of(model), scale_of(model)

    def search(steps, **options):
        found = optimise_shift(model, rows, PAIRS, scale, ShiftOptions(steps=steps, **options))
        return found.steps, found.loss, [found.values[i][1] for i in (0, 2)]

    reached = search(5)[1] * 1.0001
    runs = [(2, {}), (5, {}), (3, {}), (3, {"lr": 0.1}), (60, {"stop": reached})]
    alone = [search(steps, **options) for steps, options in runs]
    with remembered():
        found = [search(steps, **options) for steps, options in runs]
        again = search(60, stop=reached)
    assert [steps for steps, *_ in alone[:4]] == [2, 5, 3, 3] and alone[4][0] == 5
    for (steps, loss, values), expected in zip([*found, again], [*alone, alone[4]], strict=True):
        assert (steps, loss) == expected[:2]
        assert all(a.equal(b) for a, b in zip(values, expected[2], strict=True))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_parts_that_run_together_find_what_each_finds_alone(kind):
    """Each with its own neurons, its own end, and watched prompts or none."""
    model = tiny_model(kind)
    rows = rows_of(model, "locate", "held0")
    rows = rows.assign(part=rows["language"])
    rows = rows[rows["part"].eq("en") | ~rows.duplicated(["part"])].reset_index(drop=True)
    pairs = {"en": PAIRS, "ja": ((0, 2), (1, 4), (1, 3))}
    scale = {layer: torch.linspace(0.2, 0.6, model.n_neurons) for layer in range(model.n_layers)}
    begin = {part: optimise_shift(model, own, pairs[part], scale, ShiftOptions(steps=0)).loss
             for part, own in rows.groupby("part")}  # fmt: skip
    steps = set()
    for options in (
        ShiftOptions(steps=4, kl_weight=0.5, weight_decay=0.3, clamp=0.5),
        ShiftOptions(steps=4, stop=np.mean(list(begin.values()))),
    ):
        found = optimise_shifts(model, rows, pairs, scale, options)
        for part, own in rows.groupby("part"):
            alone = optimise_shift(model, own.reset_index(drop=True), pairs[part], scale, options)
            assert found[part].steps == alone.steps and found[part].loss == pytest.approx(alone.loss, abs=1e-9)
            for layer, (neurons, values) in alone.values.items():
                assert found[part].values[layer][0] == neurons
                assert torch.allclose(found[part].values[layer][1], values, atol=1e-9)
            steps.add(alone.steps)
    assert len(steps) > 1
    assert not any(down._forward_pre_hooks for down in model.down_projections)


def test_no_neurons_no_shift_and_nothing_is_left_behind():
    model = tiny_model("gpt2")
    before = {name: w.clone() for name, w in model.network.state_dict().items()}
    assert optimise_shift(model, rows_of(model), (), scale_of(model), ShiftOptions()).values == {}
    optimise_shift(model, rows_of(model), PAIRS, scale_of(model), ShiftOptions(steps=2))
    assert all(w.equal(before[name]) for name, w in model.network.state_dict().items())
    assert not any(d._forward_pre_hooks for d in model.down_projections)
