"""Factual neurons that languages share: states against hooks by hand, sets and lifts on made-up activations."""

import edit_tables
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.lafn_locate import LocateOptions, language_sets, neuron_states, pairwise_lift, shared_neurons
from knlib.editing.requests import prompt_rows
from knlib.errors import InputError

LAYERS, NEURONS, LANGUAGES = 3, 200, ("en", "ja", "ar", "ru")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi3"])
def test_states_are_those_of_the_modules(kind):
    with KeepFloat64():
        model = tiny_model(kind)
        rows = prompt_rows(model, edit_tables.queries("request").assign(edit=lambda t: t["fact"]))
        on, written = neuron_states(model, rows)
        row = rows.iloc[3]
        before, _ = model.specials
        ids = torch.tensor([[*before, *model.pieces(row["prompt"])]])
        seen = {}
        up, down = model.up_projections[1][0], model.down_projections[1]
        hooks = (up, lambda m, i, o: seen.update(gate=o)), (down, lambda m, i, o: seen.update(a=i[0]))
        with model.hooks(*hooks), torch.no_grad():
            model.network(input_ids=ids)
        gate = seen["gate"][0, row["position"], : model.n_neurons]
        a = seen["a"][0, row["position"]]
        assert (on[3, 1] == (gate > 0).numpy()).all() and 0 < on[3, 1].sum() < model.n_neurons
        size = [float(model.column(1, j).norm()) for j in range(model.n_neurons)]
        assert np.allclose(written[3, 1], a.abs().numpy() * size, rtol=1e-5)


def made_up(planted, seed=0, prompts=5):
    """Activations of one fact: chance, and neurons `planted` (layer, neuron, languages) that are on and write much there."""
    draw = np.random.default_rng(seed)
    languages = pd.Series(np.repeat(LANGUAGES, prompts))
    on = draw.random((len(languages), LAYERS, NEURONS)) < 0.9
    written = draw.random((len(languages), LAYERS, NEURONS))
    for layer, neuron, codes in planted:
        rows = languages.isin(codes).to_numpy()
        on[rows, layer, neuron] = True
        written[rows, layer, neuron] = 5 + draw.random(rows.sum())
    return on, written, languages


def test_planted_neurons_are_found_and_those_of_one_language_are_not():
    shared = [(1, neuron, LANGUAGES) for neuron in range(10, 20)]
    own = [(1, 50 + i, (code,)) for i, code in enumerate(LANGUAGES)]
    options = LocateOptions(kappa=0.06, fewest=8, most=0.05)
    members, score = language_sets(*made_up(shared + own), options)
    assert all(set(np.flatnonzero(members[i, 1])) >= {*range(10, 20), 50 + i} for i in range(4))
    assert members.sum(-1).max() <= 12
    table = shared_neurons(members, score, options)
    found = table[table["layer"] == 1]
    assert sorted(found["neuron"]) == list(range(10, 20)) and (found["rho"] == 1).all()
    assert found["score"].is_monotonic_decreasing and len(found) <= 10


def test_a_neuron_must_be_on_and_large():
    on, written, languages = made_up([(0, 7, LANGUAGES), (0, 8, LANGUAGES)])
    on[::2, 0, 7] = False
    written[:, 0, 9] = 0.0
    members, _ = language_sets(on, written, languages, LocateOptions())
    assert members[:, 0, 8].all() and not members[:, 0, 7].any() and not members[:, 0, 9].any()


def test_fewer_languages_vote_where_all_agree_on_too_few():
    three = [(2, neuron, LANGUAGES[:3]) for neuron in range(30, 39)]
    options = LocateOptions(kappa=0.045, fewest=8, most=0.05)
    members, score = language_sets(*made_up(three), options)
    found = shared_neurons(members, score, options)
    found = found[found["layer"] == 2]
    assert set(found["neuron"]) >= set(range(30, 39)) and found["rho"].unique().tolist() == [0.7]  # 3 of 4
    few = shared_neurons(members, score, LocateOptions(kappa=0.045, fewest=2, most=0.01))
    assert (few.groupby("layer").size() <= 2).all()


def test_lift_is_one_by_chance_and_the_planted_sets_stand_out():
    draw = np.random.default_rng(3)
    random = np.stack([draw.random((LAYERS, 2000)) < 0.1 for _ in range(6)])
    assert np.allclose(pairwise_lift(random), 1, atol=0.15)
    same = np.repeat(random[:1], 6, axis=0)
    assert np.allclose(pairwise_lift(same), 2000 / same[0].sum(-1))
    # Facts that share nothing but what is always on.
    other = np.stack([draw.random((LAYERS, 2000)) < 0.1 for _ in range(6)])
    always = np.zeros((LAYERS, 2000), bool)
    always[:, :50] = True
    lifted, plain = pairwise_lift(random | always, other | always), pairwise_lift(random, other)
    assert (lifted > plain + 0.5).all() and np.allclose(plain, 1, atol=0.15)


def test_empty_sets_have_no_lift_and_other_shapes_are_refused():
    none = np.zeros((3, LAYERS, 10), bool)
    assert np.isnan(pairwise_lift(none)).all()
    with pytest.raises(InputError, match="others"):
        pairwise_lift(none, none[:2])
