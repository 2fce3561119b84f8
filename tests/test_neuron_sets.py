"""Sizes, overlaps and layers of neuron sets, counted by hand."""

import numpy as np
import pandas as pd

from knlib.neuron_sets import layer_shares, neuron_sets, overlap, set_sizes


def table(rows):
    return pd.DataFrame(rows, columns=["fact", "language", "layer", "neuron"])


A = table([("x", "en", 0, 1), ("x", "de", 0, 1), ("x", "de", 2, 5), ("y", "en", 1, 1)])
B = table([("x", "en", 0, 1), ("x", "en", 0, 2), ("z", "en", 3, 3)])


def test_sets_and_sizes_count_empty_groups():
    assert neuron_sets(A, ["fact"]) == {("x",): {(0, 1), (2, 5)}, ("y",): {(1, 1)}}
    keys = pd.DataFrame({"fact": ["y", "x", "y"], "language": ["de", "de", "en"]})
    assert set_sizes(A, keys) == [0, 2, 1]


def test_overlap_is_the_mean_jaccard_over_facts_that_either_has():
    found = overlap({"a": A, "b": B, "none": A.head(0)})
    # x: {01, 25} and {01, 02} share 1 of 3; y and z are in one only.
    assert found.loc["a", "b"] == found.loc["b", "a"] == np.mean([1 / 3, 0, 0])
    assert found.loc["a", "a"] == 1 and found.loc["a", "none"] == 0
    assert np.isnan(found.loc["none", "none"])


def test_layer_shares_sum_to_one_or_nothing():
    found = layer_shares({"a": A, "none": A.head(0)}, 4)
    assert found["a"].tolist() == [0.5, 0.25, 0.25, 0.0]
    assert found["none"].tolist() == [0.0] * 4
