"""The critics' checks: planted scores and effects, and a tiny model."""

import numpy as np
import pandas as pd
import pytest
from tiny_study import tiny_study

from knlib.errors import InputError
from knlib.query_localization.checks import explained, layers_suppressed, redundancy, without_relation_neurons


@pytest.fixture(scope="module")
def study():
    return tiny_study()


@pytest.fixture(scope="module")
def scores(study):
    model = study.model
    return np.random.default_rng(0).uniform(0.1, 1, (len(study.queries), model.n_layers, model.n_neurons))


def test_what_explains_an_effect_is_found():
    draw = np.random.default_rng(1)
    layer, score = np.repeat(np.arange(4), 50), draw.normal(size=200)
    by_layer = explained(pd.DataFrame({"layer": layer, "score": score, "d_log_p": layer**2.0}))
    assert by_layer["layer"] == pytest.approx(1) and by_layer["score"] < 0.1
    by_score = explained(pd.DataFrame({"layer": layer, "score": score, "d_log_p": -2 * score}))
    assert by_score["score"] == pytest.approx(1) and by_score["layer"] < 0.1
    assert by_score["layer and score"] == pytest.approx(1)
    with pytest.raises(InputError, match="one and the same"):
        explained(pd.DataFrame({"layer": [0, 1], "score": [1.0, 2.0], "d_log_p": [0.0, 0.0]}))


def test_every_layer_of_every_fact_is_suppressed(study, scores):
    table = layers_suppressed(study, scores, size=3)
    assert len(table) == len(study.names) * study.model.n_layers and not table.duplicated(["fact", "layer"]).any()
    assert (table["d_log_p"] != 0).any() and (table["score"] > 0.5).all()
    assert layers_suppressed(study, scores, size=3).equals(table)
    with pytest.raises(InputError, match="of the study"):
        layers_suppressed(study, scores[1:])


def test_two_sets_and_what_they_do_together(study, scores):
    table = redundancy(study, scores, size=3)
    value = table["estimate"]
    assert value["both less the sum"] == pytest.approx(value["both"] - value["first"] - value["second"])
    assert (table["low"] <= value).all() and (value <= table["high"]).all()


def test_neurons_of_a_relation_are_left_out(study):
    """Every query has two neurons of its fact and two of its relation; fact neurons alone remain."""
    queries, model = study.queries, study.model
    scores = np.random.default_rng(2).uniform(0, 0.1, (len(queries), model.n_layers, model.n_neurons))
    for place, row in enumerate(queries.itertuples()):
        fact = study.names.index(row.fact)
        scores[place, 0, ["rs".index(row.relation), 2 + "rs".index(row.relation)]] = 2
        scores[place].reshape(-1)[model.n_neurons + 2 * fact + np.arange(2)] = 1
    table = without_relation_neurons(study, scores, size=4)
    assert table["dropped"].tolist() == [2, 2]
    assert (table["jaccard"] == 1).all() and np.allclose(table["other"], 2 / 6)
    small = without_relation_neurons(study, scores, size=2)
    assert (small["jaccard_without"] == 1).all() and (small["other_without"] < 0.05).all()
    assert (small["other"] == 1).all()
