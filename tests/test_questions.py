"""query_relevant/questions.py: wordings localize or test, correctness is of the localizing prompts, rotations are averaged."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tiny_models import tiny_model

from knlib.attribution import Attributions
from knlib.errors import InputError
from knlib.multiple_choice import LETTERS, build_multiple_choice, load_wordings
from knlib.query_relevant.clusters import select
from knlib.query_relevant.letter_scores import letter_scores
from knlib.query_relevant.questions import question_clusters, questions, splits, with_correctness


@pytest.fixture(scope="module")
def prompts(facts):
    chosen = facts[facts["relation"].isin(["capital", "continent"])]
    wordings = load_wordings()
    table = build_multiple_choice(chosen, wordings[wordings["language"].isin(["en", "ja"])])[0]
    few = table.drop_duplicates("fact").groupby("relation").head(3)["fact"]
    return table[table["fact"].isin(few)].reset_index(drop=True)


def scores_of(prompts, values):
    """Attributions with given scores [queries, layers, neurons]."""
    values = np.asarray(values, dtype=float)
    found = xr.DataArray(values, dims=("query", "layer", "neuron"),
                         coords={"query": prompts["query"].tolist(), "layer": np.arange(values.shape[1])})  # fmt: skip
    return Attributions(found, None, None, None, {})


def test_a_question_is_a_fact_in_a_language(prompts):
    table = questions(prompts)
    assert not table.duplicated(["fact", "language"]).any()
    assert (table["wordings"] == 3).all() and (table["prompts"] == 12).all()
    assert len(table) == prompts.groupby(["fact", "language"]).ngroups


def test_every_wording_tests_once_and_never_localizes_then(prompts):
    found = list(splits(prompts))
    assert [s.held_out for s in found] == [0, 1, 2]
    for split in found:
        assert len(split.localize) + len(split.test) == len(prompts)
        assert set(split.localize["query"]) | set(split.test["query"]) == set(prompts["query"])
        for key, test in split.test.groupby(["fact", "language"]):
            assert test["wording"].nunique() == 1 and sorted(test["answer"]) == list(LETTERS), key
            local = split.localize[(split.localize[["fact", "language"]] == key).all(axis=1)]
            assert local["wording"].nunique() == 2 and not set(local["wording"]) & set(test["wording"])
    tested = pd.concat([s.test for s in found])
    assert sorted(tested["query"]) == sorted(prompts["query"])


def test_splits_do_not_depend_on_the_order_of_prompts(prompts):
    mixed = prompts.sample(frac=1, random_state=0)
    for one, two in zip(splits(prompts), splits(mixed), strict=True):
        assert sorted(one.test["query"]) == sorted(two.test["query"])


def test_questions_that_lack_a_wording_are_named(prompts):
    wording = prompts["wording"].iloc[0]
    part = prompts[(prompts["fact"] != prompts["fact"].iloc[0]) | (prompts["wording"] != wording)]
    with pytest.raises(InputError, match=r"question \S+ \(en\): found 2 wordings, expected 3"):
        list(splits(part))


def test_bad_tables_are_named(prompts):
    with pytest.raises(InputError, match="expected a column rotation"):
        questions(prompts.drop(columns="rotation"))
    with pytest.raises(InputError, match="prompts: found no row"):
        questions(prompts[:0])
    with pytest.raises(InputError, match=r"prompts: found query .* twice"):
        questions(pd.concat([prompts, prompts.head(1)]))
    with pytest.raises(InputError, match=r"found fact, language, wording, rotation .* twice"):
        questions(pd.concat([prompts, prompts.head(1).assign(query="new")]))


def test_correctness_is_of_the_given_prompts(prompts):
    """R16: right on two of two localizing wordings, wrong on the third."""
    split = next(iter(splits(prompts)))
    right = prompts["query"].isin(split.localize["query"])
    first = (prompts["fact"] == prompts["fact"].iloc[0]) & (prompts["language"] == "en")
    letters = pd.DataFrame(
        {"query": prompts["query"], "correct": right & first, "probability": 0.25 + 0.5 * first, "mass": 0.9}
    )
    table = with_correctness(split.localize, letters)
    assert table["correct"].tolist() == [True] + [False] * (len(table) - 1)
    assert (
        table["accuracy"].iloc[0] == 1
        and table["probability"].iloc[0] == 0.75
        and (table["mass"].round(9) == 0.9).all()
    )
    tested = with_correctness(split.test, letters)
    assert not tested["correct"].any()
    with pytest.raises(InputError, match="letters: found no row for query"):
        with_correctness(prompts, letters.iloc[1:])


def test_half_right_is_not_correct(prompts):
    one = prompts[(prompts["fact"] == prompts["fact"].iloc[0]) & (prompts["language"] == "en")].head(8)
    letters = pd.DataFrame(
        {"query": one["query"], "correct": [True] * 4 + [False] * 4, "probability": 0.5, "mass": 1.0}
    )
    assert with_correctness(one, letters)[["accuracy", "correct"]].values.tolist() == [[0.5, False]]


def test_rotations_are_averaged_before_the_threshold(prompts):
    """Part of spec test 9: "always A" (neuron 0) enters with one rotation whose gold is A, not with four."""
    one = prompts[(prompts["fact"] == prompts["fact"].iloc[0]) & (prompts["language"] == "en")].reset_index(drop=True)
    always_a = np.where(one["answer"] == "A", 1.0, -1 / 3)
    values = np.stack([always_a, np.full(len(one), 0.5), np.zeros(len(one))], axis=1)[:, None]
    assert question_clusters(scores_of(one, values), one)[0].neurons.tolist() == [1]
    first = one[one["answer"] == "A"]
    assert question_clusters(scores_of(one, values), first)[0].neurons.tolist() == [0, 1]


def test_wordings_are_thresholded_one_by_one(prompts):
    one = prompts[(prompts["fact"] == prompts["fact"].iloc[0]) & (prompts["language"] == "en")]
    weights = dict(
        zip(sorted(one["wording"].unique()), ([1, 0.3, 0.2, -0.5], [0.5, 0.05, 0.2, 0], [0.4, 0.3, 0, 0]), strict=True)
    )
    values = np.array([[weights[w]] for w in one["wording"]])
    found = question_clusters(scores_of(one, values), one, kind="language")[0]
    assert found.na.round(4).tolist() == [0.7037, 0.2222, 0.0741] and found.kind == "en"


def test_the_order_of_prompts_is_irrelevant(prompts):
    draw = np.random.default_rng(0)
    found = scores_of(prompts, draw.normal(size=(len(prompts), 2, 9)).astype(np.float32))
    one, two = (question_clusters(found, p) for p in (prompts, prompts.sample(frac=1, random_state=1)))
    for a, b in zip(one, two, strict=True):
        assert (a.fact, a.language) == (b.fact, b.language)
        assert np.array_equal(a.neurons, b.neurons) and np.array_equal(a.na, b.na)


def test_scores_that_are_missing_are_named(prompts):
    found = scores_of(prompts, np.ones((len(prompts), 1, 3)))
    with pytest.raises(InputError, match="attributions: found no scores of query new"):
        question_clusters(found, prompts.assign(query=["new", *prompts["query"][1:]]))
    with pytest.raises(InputError, match="kind: found 'subject_'"):
        question_clusters(found, prompts, kind="subject_")
    part = Attributions(found.scores.assign_coords(layer=[2]), None, None, None, {})
    with pytest.raises(InputError, match=r"attributions, layers: found \[2\]"):
        question_clusters(part, prompts)


def test_from_prompts_to_neurons():
    model = tiny_model("llama")
    rows = [(f"{f}|{w}|{r}", f"f{f}", "r", "en", f"en/{w}", r, f"{text} {tail}", LETTERS[(f + r) % 4])
            for f, text in enumerate(["bada kilo", "nu re", "sipo ta", "mira lenu"])
            for w, tail in enumerate(["do", "ga", "pe"]) for r in range(4)]  # fmt: skip
    prompts = pd.DataFrame(
        rows, columns=["query", "fact", "relation", "language", "wording", "rotation", "prompt", "answer"]
    )
    split = next(iter(splits(prompts)))
    clusters = question_clusters(letter_scores(model, split.localize, batch=16), split.localize)
    table = select(clusters, u=0.8).table
    assert set(table["fact"]) <= {"f0", "f1", "f2", "f3"} and len(table)
    assert (table["score"] > 0).all() and table["neuron"].between(0, 23).all() and table["layer"].between(0, 2).all()
