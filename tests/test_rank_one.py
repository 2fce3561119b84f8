"""The rank-one edit writes what a value edit writes at the edited prompt, and as little as it can elsewhere."""

import edit_tables
import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.editing import prompt_keys, rank_one_edit, value_edit
from knlib.editing.neurons import differing_tokens
from knlib.errors import InputError
from knlib.sites import make_sites, neuron_vectors


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


EDIT = edit_tables.queries("request", languages=("en",)).iloc[[1]]
NEURONS = pd.DataFrame([("r:B", 1, 4), ("r:B", 1, 9), ("r:B", 2, 3)], columns=["fact", "layer", "neuron"])


def keys_of(model):
    return prompt_keys(model, edit_tables.queries("locate"))


def projected(model, layer, keys):
    return model.down_projections[layer].forward(torch.as_tensor(keys[:, layer]))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_it_writes_the_same_at_the_request_and_is_undone_bit_for_bit(kind):
    model = tiny_model(kind)
    before = {name: w.clone() for name, w in model.network.state_dict().items()}
    old, _ = differing_tokens(model, next(EDIT.itertuples()))
    site = next(site for site in make_sites(model, EDIT) if site.target == old)
    assert site != make_sites(model, EDIT)[0]  # both answers begin with the same token
    here = neuron_vectors(model, [site.ids], [site.position])
    plain = [projected(model, layer, here) for layer in range(model.n_layers)]
    with value_edit(model, EDIT, NEURONS):
        wanted = [projected(model, layer, here) for layer in range(model.n_layers)]
    with rank_one_edit(model, EDIT, NEURONS, keys_of(model)):
        found = [projected(model, layer, here) for layer in range(model.n_layers)]
        changed = [n for n, w in model.network.state_dict().items() if not w.equal(before[n])]
    for layer in range(model.n_layers):
        assert torch.allclose(found[layer], wanted[layer], rtol=1e-9, atol=1e-12)
        assert found[layer].equal(plain[layer]) == (layer == 0)
    assert len(changed) == 2
    assert all(w.equal(before[name]) for name, w in model.network.state_dict().items())


def test_other_keys_change_less_than_when_one_neuron_writes_the_same():
    """A value edit of one neuron is of rank one too, and writes the same at the request."""
    model = tiny_model("gpt2")
    keys = keys_of(model)
    one = NEURONS[NEURONS["layer"] == 2]
    plain = projected(model, 2, keys)

    def moved():
        return float((projected(model, 2, keys) - plain).square().sum())

    with value_edit(model, EDIT, one):
        alone = moved()
    with rank_one_edit(model, EDIT, one, keys):
        least = moved()
    assert least < alone


def test_keys_are_those_of_every_answer_token():
    model, queries = tiny_model("gpt2"), edit_tables.queries("locate").head(2)
    site = make_sites(model, queries)[-1]
    keys = prompt_keys(model, queries)
    assert len(keys) == len(make_sites(model, queries))
    assert np.allclose(keys[-1], neuron_vectors(model, [site.ids], [site.position])[0])


def test_bad_input_is_named():
    model = tiny_model("gpt2")
    two = edit_tables.queries("request", languages=("en",)).head(2)
    with pytest.raises(InputError, match="edits: found '2 rows'"), rank_one_edit(model, two, NEURONS, keys_of(model)):
        pass
    with pytest.raises(InputError, match="keys: found"), rank_one_edit(model, EDIT, NEURONS, np.zeros((3, 2))):
        pass
