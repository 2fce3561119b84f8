"""The ablation oracle is a loop over neurons, and pairs a loop over pairs."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import tiny_model

from knlib.errors import InputError
from knlib.ground_truth import ablation_oracle, pair_interactions
from knlib.intervention import suppress
from knlib.prediction import score_answers

QUERIES = pd.DataFrame({
    "query": ["a", "b"], "prompt": ["bada kilo", "sipo ta mira lenu do"], "space": " ", "answer": ["go", "mi"], "suffix": "",
})  # fmt: skip


def one_token(model) -> pd.DataFrame:
    """The queries with answers of one token: one site each, so that zero at the answer is zero in one place."""
    names = model.tokenizer.convert_ids_to_tokens([30, 41])
    return QUERIES.assign(answer=names, space="")


def log_p(model, queries):
    return score_answers(model, *(queries[c] for c in ("prompt", "space", "answer", "suffix")))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_the_oracle_is_a_loop_over_neurons(kind):
    """Spec test 10."""
    model = tiny_model(kind, dtype=torch.float32)
    queries = one_token(model)
    found = ablation_oracle(model, queries, layers=[1])
    clean = log_p(model, queries)
    for neuron in range(0, model.n_neurons, 5):
        with suppress(model, [(1, neuron)]):
            without = log_p(model, queries)
        assert np.allclose(found["logprob"].values[:, 0, neuron], clean - without, atol=2e-5)
        assert np.allclose(found["prob"].values[:, 0, neuron], np.exp(clean) - np.exp(without), atol=2e-5)


def test_pairs_are_a_loop_over_pairs():
    model = tiny_model("llama", dtype=torch.float32)
    queries = one_token(model).head(1)
    table = pair_interactions(model, queries, ablation_oracle(model, queries)["prob"], top=4)
    assert len(table) == 6
    for row in table.head(3).itertuples():
        a, b, drops = (row.layer_a, row.neuron_a), (row.layer_b, row.neuron_b), []
        for dead in ([a], [b], [a, b]):
            with suppress(model, dead):
                drops.append(log_p(model, queries)[0])
        clean = log_p(model, queries)[0]
        assert np.allclose([row.logprob_a, row.logprob_b, row.logprob_both], clean - np.array(drops), atol=2e-5)
        assert row.logprob_interaction == pytest.approx(row.logprob_both - row.logprob_a - row.logprob_b, abs=1e-6)
        assert row.prob_both == pytest.approx(np.exp(clean) - np.exp(drops[2]), abs=1e-5)


def test_one_neuron_has_no_pair():
    model = tiny_model("llama", dtype=torch.float32)
    with pytest.raises(InputError, match="2 to"):
        pair_interactions(model, QUERIES.head(1), ablation_oracle(model, QUERIES.head(1), layers=[0])["prob"], top=1)
