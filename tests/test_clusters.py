"""query_relevant/clusters.py: every number by hand."""

import numpy as np
import pytest

from knlib.errors import InputError
from knlib.query_relevant.clusters import COLUMNS, Cluster, cluster, mean_sizes, select

# Spec test 7: three wordings of one question, neurons n1..n4 in one layer.
WORDINGS = np.array([[[1, 0.3, 0.2, -0.5]], [[0.5, 0.05, 0.2, 0]], [[0.4, 0.3, 0, 0]]])


def other(name, *neurons, kind="other", width=4):
    """A question whose cluster has these flat neurons, in equal shares."""
    return Cluster(
        name, "en", kind, np.array(neurons, dtype=int), np.full(len(neurons), 1 / max(1, len(neurons))), width
    )


@pytest.fixture
def ten():
    """The question among ten: n1 in 4 clusters, n2 in 1, n3 in 3."""
    rest = [
        other("a", 0, 2),
        other("b", 0, 2),
        other("c", 0),
        *(other(name, 3) for name in "def"),
        other("g"),
        other("h"),
    ]
    return [cluster("q", "en", "k", WORDINGS), *rest, other("i")]


def of(selection, fact="q"):
    return selection.table[selection.table["fact"] == fact]


def test_the_example_by_hand(ten):
    assert ten[0].neurons.tolist() == [0, 1, 2]
    assert ten[0].na.round(4).tolist() == [0.7037, 0.2222, 0.0741]
    assert (ten[0].na * 2.7).round(12).tolist() == [1.9, 0.6, 0.2]
    table = of(select(ten, drop_common=False)).sort_values("neuron")
    assert table["cluster_count"].tolist() == [4, 1, 3]
    assert table["score"].round(4).tolist() == [0.4878, 0.3577, 0.0679]
    assert table["is_common"].tolist() == [True, False, False] and table["rank"].tolist() == [1, 2, 3]
    assert table["na"].round(4).tolist() == [0.7037, 0.2222, 0.0741]
    assert np.allclose(table["ica"], np.log([10 / 5, 10 / 2, 10 / 4]))
    assert list(table) == COLUMNS


def test_common_neurons_leave_and_nobody_takes_their_place(ten):
    """R1 too: final and common sets are disjoint."""
    found = select(ten, v=2)
    assert found.common.values.tolist() == [[0, 0, 4]]
    assert of(found)["neuron"].tolist() == [1] and of(found)["rank"].tolist() == [2]
    assert of(select(ten, v=3))["neuron"].tolist() == [1, 2]
    pairs = set(zip(found.table["layer"], found.table["neuron"], strict=True))
    assert not pairs & set(zip(found.common["layer"], found.common["neuron"], strict=True))


def test_layers_and_neurons_are_told_apart():
    scores = np.zeros((1, 3, 4))
    scores[0, 2, 1], scores[0, 0, 3] = 1, 0.5
    found = select([cluster("q", "de", "k", scores), other("a", 0), other("b", 0)], u=0.7)
    assert of(found)[["layer", "neuron"]].values.tolist() == [[2, 1], [0, 3]]
    assert of(found)["language"].tolist() == ["de", "de"]


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_questions_raise(count):
    """R10, spec test 8."""
    clusters = [other(name, 0) for name in "abc"[:count]]
    with pytest.raises(InputError, match=f"clusters: found {count} questions, expected at least 3"):
        select(clusters)


def test_a_share_of_less_than_one_question_raises():
    """Every neuron would be common, and every set empty."""
    three = [other("a", 0), other("b", 1), other("c", 2)]
    with pytest.raises(InputError, match=r"u: found 0.3 of 3 questions, expected one question or more"):
        select(three, u=0.3)
    assert len(select(three, u=0.34).table)


def test_too_few_classes_raise():
    clusters = [other(str(i), i, kind=str(i % 2)) for i in range(4)]
    with pytest.raises(InputError, match="clusters: found 2 classes, expected at least 3"):
        select(clusters, ica="class")


@pytest.mark.parametrize("missing", [0, 1])
def test_a_neuron_of_nearly_all_clusters_never_appears(missing):
    """cnt >= |C| - 1 gives ln of at most 1."""
    clusters = [other(str(i), *([1] if i < missing else [0, 1])) for i in range(8)]
    found = select(clusters, u=1.0)
    assert not len(found.table) and not len(found.common)
    rarer = [other(str(i), *([1] if i < 2 else [0, 1])) for i in range(8)]
    assert set(select(rarer, u=1.0).table["neuron"]) == {0}


def test_ties_are_ordered_by_layer_and_neuron():
    clusters = [other("q", 1, 2, 5, 6), other("a", 0), other("b", 3), other("c", 7)]
    assert of(select(clusters))[["layer", "neuron"]].values.tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert of(select(clusters, v=2))["neuron"].tolist() == [1, 2]


def test_the_threshold_is_strict_and_of_each_wording():
    scores = np.array([[[1, 0.2, 0.21, 0]], [[0, 0.02, 0.005, 0.1]]])
    found = cluster("q", "en", "k", scores)
    # 0.2 is not above 0.2; 0.02 is not above 0.02; and what a wording does not find it does not add.
    assert found.neurons.tolist() == [0, 2, 3]
    assert np.allclose(found.na * 1.31, [1, 0.21, 0.1])


def test_limits_of_the_parameters():
    """Spec test 8."""
    assert cluster("q", "en", "k", WORDINGS[:1], t=0.0).neurons.tolist() == [0, 1, 2]
    assert cluster("q", "en", "k", WORDINGS[:1], t=0.999).neurons.tolist() == [0]
    clusters = [other("a", 0, 1), other("b", 0, 2), other("c", 3), other("d", 3), other("e")]
    everything = select(clusters, u=0.0)
    assert not len(everything.table) and everything.common["neuron"].tolist() == [0, 3, 1, 2]
    assert not len(select(clusters, u=1.0).common)
    assert select(clusters, v=1, u=1.0).table["rank"].tolist() == [1, 1, 1, 1]
    for t in (-0.1, 1.0):
        with pytest.raises(InputError, match="t: found"):
            cluster("q", "en", "k", WORDINGS, t=t)
    for options, name in (
        ({"u": -0.1}, "u"),
        ({"u": 1.1}, "u"),
        ({"v": 0}, "v"),
        ({"v": 1.5}, "v"),
        ({"ica": "x"}, "ica"),
    ):
        with pytest.raises(InputError, match=f"^{name}: found"):
            select(clusters, **options)


def test_small_scores_give_the_same_sets(ten):
    """R6: nothing is rounded."""
    small = [cluster("q", "en", "k", WORDINGS * 1e-7), *ten[1:]]
    one, two = select(ten).table, select(small).table
    assert one[["fact", "layer", "neuron", "rank"]].equals(two[["fact", "layer", "neuron", "rank"]])
    assert np.allclose(one["score"], two["score"], rtol=1e-12)


def test_shares_sum_to_one_or_there_is_no_neuron():
    """R7: signed scores may sum to nothing; only those above the threshold are divided by."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        found = cluster("q", "en", "k", draw.normal(size=(3, 2, 30)))
        assert abs(found.na.sum() - 1) < 1e-12 and (found.na > 0).all()
    balanced = cluster("q", "en", "k", np.array([[[1.0, -1.0]]]))
    assert balanced.na.tolist() == [1.0]
    for scores in (np.zeros((3, 2, 4)), -np.ones((3, 2, 4))):
        nothing = cluster("q", "en", "k", scores)
        assert len(nothing.neurons) == len(nothing.na) == 0
        found = select([nothing, other("a", 0), other("b", 1)], u=1.0)
        assert found.sizes["size"].tolist()[0] == 0 and len(of(found)) == 0


def test_mean_sizes_are_means_of_sizes():
    """R9: over all questions, with those that keep none."""
    clusters = [other("a", 0, 1, kind="x"), other("b", kind="x"), other("c", 2, kind="y"), other("d", 3, kind="y"),
                other("e", 4, 5, 6, kind="y")]  # fmt: skip
    found = select(clusters)
    assert found.sizes["size"].tolist() == [2, 0, 1, 1, 3]
    means = mean_sizes(found.sizes).set_index("kind")
    assert means["mean_size"].round(6).to_dict() == {"x": 1.0, "y": round(5 / 3, 6), "all": 1.4}
    assert means["questions"].to_dict() == {"x": 2, "y": 3, "all": 5}


def test_class_weights_do_not_discount_within_a_class():
    # Three classes of ten questions: 0 in all of class x, 1 in one of each class (10 %, not more), 2 in two of each.
    clusters = []
    for kind in "xyz":
        for i in range(10):
            own = [0] * (kind == "x") + [1] * (i == 0) + [2] * (i < 2)
            clusters.append(other(f"{kind}{i}", *own, kind=kind))
    table = select(clusters, ica="class", u=1.0).table.drop_duplicates("neuron").set_index("neuron")
    assert np.allclose(table["ica"][[0, 1]], np.log([3 / 2, 3 / 1]))
    assert 2 not in table.index  # in every class: ln(3/4) < 0
    assert np.allclose(select(clusters, u=1.0).table.set_index("neuron").loc[0, "ica"], np.log(30 / 11))


def test_the_order_of_questions_is_irrelevant(ten):
    keys = ["fact", "layer", "neuron"]
    one, two = (select(order).table.sort_values(keys, ignore_index=True) for order in (ten, ten[::-1]))
    assert one.equals(two)


def test_bad_clusters_are_named():
    with pytest.raises(InputError, match=r"question q \(en\), scores: found shape \(3, 4\)"):
        cluster("q", "en", "k", np.zeros((3, 4)))
    with pytest.raises(InputError, match=r"question q \(en\), scores: found a score that is not finite"):
        cluster("q", "en", "k", np.full((1, 2, 3), np.nan))
    with pytest.raises(InputError, match=r"question a \(en\) twice"):
        select([other("a", 0), other("a", 1), other("b", 2)])
    with pytest.raises(InputError, match="different numbers of neurons"):
        select([other("a", 0), other("b", 1), other("c", 2, width=5)])
