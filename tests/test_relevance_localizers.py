"""query_relevant/localizers.py: from scores to the neurons of every question, by name."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from letter_models import PLANTED, PROMPTS, planted_model

from knlib.errors import InputError
from knlib.query_relevant.baselines import score
from knlib.query_relevant.clusters import select
from knlib.query_relevant.letter_scores import letter_scores
from knlib.query_relevant.localizers import find, names, scores_for, sizes
from knlib.query_relevant.questions import question_clusters

SHARED = ("qrnca", "qrnca_no_ica", "qrnca_with_common", "knowledge_neurons")


@pytest.fixture(scope="module")
def prompts():
    """Six questions with one wording and rotation each; the second's right letter is A."""
    more = PROMPTS.assign(query=["e", "f", "g", "h"], prompt=["ki la", "mo mu sa", "re", "tu fa gi"]).head(2)
    table = pd.concat([PROMPTS, more], ignore_index=True)
    return table.assign(fact=table["query"], relation="r", language="en", wording="en/0", rotation=0)


@pytest.fixture(scope="module")
def planted():
    return planted_model()


def pairs(table, fact):
    own = table[table["fact"] == fact].sort_values("rank")
    return [tuple(map(int, pair)) for pair in own[["layer", "neuron"]].values]


def hand_made(values, *, wordings, rotations=1, facts=("x", "y", "z")):
    """Prompts and given scores [prompts, layers, neurons], question by question, wording by wording."""
    rows = [(f, w, r) for f in facts for w in range(wordings) for r in range(rotations)]
    prompts = pd.DataFrame([{"query": f"{f}{w}{r}", "fact": f, "relation": "r", "language": "en", "wording": f"en/{w}",
                             "rotation": r, "prompt": "p", "answer": "A"} for f, w, r in rows])  # fmt: skip
    values = np.asarray(values, dtype=float).reshape(len(rows), 2, -1)
    coordinates = {"query": prompts["query"].tolist(), "layer": [0, 1], "neuron": np.arange(values.shape[2])}
    return prompts, xr.DataArray(values, dims=tuple(coordinates), coords=coordinates)


def test_the_names_are_those_of_the_scoreboard():
    assert set(names()) >= {
        *SHARED,
        "qrnca_margin",
        "grad_x_act",
        "neg",
        "activation",
        "nlka",
        "dla",
        "relp",
        "oracle",
        "random",
    }
    assert len(names()) == len(set(names()))


@pytest.mark.parametrize("name", ["qrnca", "qrnca_margin", "qrnca_with_common", "knowledge_neurons"])
def test_the_planted_neuron_is_found_first(planted, prompts, name):
    """Spec test 9; nothing is common with u = 1."""
    assert pairs(find(name, planted, prompts, u=1.0), "b")[0] == PLANTED


@pytest.mark.parametrize("name", ["dla", "grad_x_act", "oracle", "nlka"])
def test_the_planted_neuron_is_first_by_scores(planted, prompts, name):
    found = find(name, planted, prompts, top=3)
    assert pairs(found, "b")[0] == PLANTED
    assert (found.groupby("fact").size() == 3).all() and found["rank"].tolist() == [1, 2, 3] * 6


def test_qrnca_is_what_its_parts_say(planted, prompts):
    whole = find("qrnca", planted, prompts, u=0.5)
    expected = select(question_clusters(letter_scores(planted, prompts), prompts), u=0.5).table
    pd.testing.assert_frame_equal(whole, expected)
    margin = select(question_clusters(letter_scores(planted, prompts, objective="margin"), prompts)).table
    pd.testing.assert_frame_equal(find("qrnca_margin", planted, prompts), margin)


def test_scores_computed_once_serve_several(planted, prompts):
    scores = scores_for("qrnca", planted, prompts)
    for name in SHARED:
        pd.testing.assert_frame_equal(find(name, planted, prompts, scores=scores), find(name, planted, prompts))


def test_variants_by_hand():
    """Neuron 0 is common (three clusters of three), and without inverse cluster attribution the best."""
    one = [[[5, 3, 0, 0], [0, 0, 0, 0]], [[5, 0, 4, 0], [0, 0, 0, 0]], [[5, 0, 0, 2], [0, 0, 0, 3]]]
    prompts, scores = hand_made(one, wordings=1)
    options = {"scores": scores, "u": 0.5}
    assert [pairs(find("qrnca", None, prompts, **options), f) for f in "xyz"] == [[(0, 1)], [(0, 2)], [(1, 3), (0, 3)]]
    plain = find("qrnca_no_ica", None, prompts, v=2, **options)
    # The best by na is neuron 0; it leaves, and nobody takes its place.
    assert [pairs(plain, f) for f in "xyz"] == [[(0, 1)], [(0, 2)], [(1, 3)]]
    assert plain["rank"].tolist() == [2, 2, 2] and plain["score"].tolist() == pytest.approx([3 / 8, 4 / 9, 3 / 10])
    kept = find("qrnca_with_common", None, prompts, scores=scores, u=0.4)
    assert [pairs(kept, f) for f in "xyz"] == [[(0, 1)], [(0, 2)], [(1, 3), (0, 3)]]  # ica of neuron 0 is below 0
    four, scores = hand_made(
        [*one, [[0, 0, 0, 0], [1, 0, 0, 0]], [[0, 0, 0, 0], [0, 1, 0, 0]]], wordings=1, facts="xyzvw"
    )
    kept = find("qrnca_with_common", None, four, scores=scores)
    assert pairs(kept, "x") == [(0, 1), (0, 0)] and kept["is_common"].sum() == 3
    assert pairs(find("qrnca", None, four, scores=scores), "x") == [(0, 1)]


def test_knowledge_neurons_are_in_two_thirds_of_the_wordings():
    values = np.zeros((9, 2, 3))
    values[:, 0, 0] = 10  # in all wordings
    values[[0, 1], 1, 2] = 2.1  # in two of the first question's
    values[0, 1, 1] = 9  # in one
    values[:3, 0, 1] = 2  # at the threshold, not above it
    prompts, scores = hand_made(values, wordings=3)
    found = find("knowledge_neurons", None, prompts, scores=scores)
    assert [pairs(found, f) for f in "xyz"] == [[(0, 0), (1, 2)], [(0, 0)], [(0, 0)]]
    assert found["score"].tolist() == pytest.approx([10, 1.4, 10, 10])
    cut = find("knowledge_neurons", None, prompts, scores=scores, top=1)
    assert sizes(cut, prompts)["size"].tolist() == [1, 1, 1]


def test_scores_are_averaged_over_prompts_and_cut_to_given_sizes(planted, prompts):
    given = find("qrnca", planted, prompts)
    wanted = sizes(given, prompts)
    assert wanted["size"].tolist() == [len(pairs(given, f)) for f in prompts["fact"]]
    for name in ("dla", "random"):
        found = find(name, planted, prompts, top=wanted)
        assert sizes(found, prompts)["size"].tolist() == wanted["size"].tolist()
        assert not found.duplicated(["fact", "language", "layer", "neuron"]).any()
    two = pd.concat(
        [prompts, prompts.assign(query=prompts["query"] + "2", prompt="sa " + prompts["prompt"], rotation=1)]
    )
    scores = score("dla", planted, two).values
    mean = (scores[:6] + scores[6:]) / 2
    found = find("dla", planted, two, top=5)
    best = np.argsort(-mean[2].ravel(), kind="stable")[:5]
    assert pairs(found, "c") == [tuple(map(int, divmod(int(n), planted.n_neurons))) for n in best]


def test_the_order_of_prompts_is_irrelevant(planted, prompts):
    mixed = prompts.sample(frac=1, random_state=1)
    for name in ("qrnca", "qrnca_no_ica", "knowledge_neurons", "dla"):
        one, two = (find(name, planted, p, top=4) for p in (prompts, mixed))
        pd.testing.assert_frame_equal(one, two, rtol=1e-6)


def test_what_is_wrong_is_said(planted, prompts):
    with pytest.raises(InputError, match="one of qrnca"):
        find("magic", planted, prompts)
    with pytest.raises(InputError, match="one of qrnca"):
        scores_for("magic", planted, prompts)
    with pytest.raises(InputError, match="no threshold"):
        find("dla", planted, prompts)
    with pytest.raises(InputError, match="no size for question f"):
        find("dla", planted, prompts, top=sizes(find("dla", planted, prompts, top=1), prompts).head(5))
    with pytest.raises(InputError, match="whole number"):
        find("dla", planted, prompts, top=1.5)
    with pytest.raises(InputError, match="0 or more"):
        find("dla", planted, prompts, top=-1)
    with pytest.raises(InputError, match="at least 3"):
        find("qrnca_no_ica", planted, prompts.head(2))
    with pytest.raises(InputError, match="none of query b"):
        find("dla", planted, prompts, top=1, scores=score("dla", planted, prompts.head(1)))
