"""What notebook 06 looks at beside stored results: options alone, letters' neurons, the vocabulary, points, the view."""

import matplotlib

matplotlib.use("Agg")

import letter_tables
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from letter_models import A_PROMPT, PLANTED, planted_model
from letter_studies import tiny_prompts, tiny_study
from matplotlib.figure import Figure

from knlib.attribution import Attributions
from knlib.errors import InputError
from knlib.facts import load_facts
from knlib.multiple_choice import LETTERS, build_multiple_choice, load_wordings
from knlib.query_relevant import options_only as only
from knlib.query_relevant import scoreboard
from knlib.query_relevant.clusters import Cluster, select, walk
from knlib.query_relevant.letter_neurons import letter_overlap
from knlib.query_relevant.live import ask_questions, explore_questions, letters_under, picture, rotations
from knlib.query_relevant.question_space import class_measures, question_space
from knlib.query_relevant.vocabulary import promoted_tokens

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def asked():
    study = tiny_study()
    return ask_questions(study.model, study.prompts, steps=3)


def test_a_blank_stands_for_the_subject_and_for_nothing_else():
    wordings = load_wordings().query("language in ['en', 'zh'] and relation == 'capital'")
    prompts, _ = build_multiple_choice(load_facts().query("relation == 'capital'").head(40), wordings)
    prompts = prompts.groupby("language").head(20)
    found = only.without_subject(prompts, wordings)
    assert len(found) == 40 and (found["answer"] == prompts["answer"]).all()
    for row, old in zip(found.itertuples(), prompts["prompt"], strict=True):
        assert row.subject in old and row.prompt == old.replace(row.subject, only.BLANK, 1)
    with pytest.raises(InputError, match="no zh/0 of capital"):
        only.without_subject(prompts, wordings[wordings["language"] == "en"])


def test_options_alone(monkeypatch):
    """Spec test 14: one who reads the subject has no advantage; one who knows from the options shows."""
    wordings = load_wordings().query("language == 'en' and relation == 'capital'")
    prompts, _ = build_multiple_choice(load_facts().query("relation == 'capital'").head(40), wordings)

    def always_a(model, prompts):
        assert not any("France" in line for line in prompts["prompt"].str.split("\n").str[1])
        return pd.DataFrame({"query": prompts["query"], "correct": prompts["answer"] == "A"})

    monkeypatch.setattr(only, "letter_probabilities", always_a)
    found, letters = only.options_only(None, prompts, wordings)
    assert found.estimate == 0.25 and len(letters) == len(prompts)
    monkeypatch.setattr(
        only, "letter_probabilities", lambda model, prompts: pd.DataFrame({"correct": prompts["gold"].str.len() < 8})
    )
    found, _ = only.options_only(None, prompts, wordings)
    assert found.low > 0.25


def one_hot_attributions(prompts, neuron_of):
    values = np.zeros((len(prompts), 2, 20), dtype=np.float32)
    for i, row in enumerate(prompts.itertuples()):
        for layer, neuron in neuron_of(row):
            values[i, layer, neuron] = 1
    coordinates = {"query": prompts["query"].tolist(), "layer": [0, 1], "neuron": range(20)}
    scores = xr.DataArray(values, dims=tuple(coordinates), coords=coordinates)
    return Attributions(scores, scores[:, 0, 0], scores[:, :, 0], scores[:, :, 0], {})


def test_neurons_of_letters_show_with_one_order_and_vanish_with_all():
    prompts = tiny_prompts()
    letters = one_hot_attributions(prompts, lambda row: [(0, LETTERS.index(row.answer)), (1, int(row.fact[1:]))])
    found = letter_overlap(letters, prompts, t=0.5).set_index(["orders", "letter"])["jaccard"]
    assert found["one order", "same"] == pytest.approx(1 / 3) and found["one order", "other"] == 0
    assert found["all orders", "any"] == 0
    with pytest.raises(InputError, match="two relations"):
        letter_overlap(letters, prompts[prompts["relation"] == "r"], t=0.5)


def test_a_planted_letter_is_read_in_the_vocabulary():
    model = planted_model()
    found = promoted_tokens(model, A_PROMPT, [PLANTED, (0, 0)], k=3, top=3).set_index(["layer", "neuron"])
    assert "A" in found.loc[PLANTED, "letters"]
    assert len(found.loc[PLANTED, "promoted"].split()) == 3
    assert promoted_tokens(model, A_PROMPT, []).empty


def test_the_letters_of_a_neuron_do_not_depend_on_the_prompts_right_one():
    model = planted_model()
    other = A_PROMPT.assign(answer="C")
    one, two = (promoted_tokens(model, p, [PLANTED])["letters"].iloc[0] for p in (A_PROMPT, other))
    assert one == two


def test_a_walk_ends_with_the_selected_neurons():
    """Spec test 7's question: raw 1.9, .6, .2; clusters 4, 1, 3 of ten."""
    own = Cluster("f", "en", "r", np.array([0, 1, 2]), np.array([1.9, 0.6, 0.2]) / 2.7, 100)
    others = [Cluster(f"o{i}", "en", "r", np.array([n for n, count in ((0, 3), (2, 2)) if i < count] or [50 + i]), np.array([0.5, 0.5] if i < 2 else [1.0]), 100)
              for i in range(9)]  # fmt: skip
    clusters = [own, *others]
    steps = walk(clusters, "f", "en", v=2)
    np.testing.assert_allclose(steps["score"].round(4), [0.4878, 0.3577, 0.0679])
    assert steps["is_common"].tolist() == [True, False, False] and steps["final"].tolist() == [False, True, False]
    table = select(clusters, v=2).table.query("fact == 'f'")
    assert steps.loc[steps["final"], "neuron"].tolist() == table["neuron"].tolist() == [1]
    with pytest.raises(InputError, match=r"found x \(en\)"):
        walk(clusters, "x", "en")


def test_questions_of_a_class_lie_together_beyond_chance():
    neurons = letter_tables.neurons()
    space = question_space(neurons)
    relation = space.points["fact"].map(dict(zip(neurons["fact"], neurons["relation"], strict=True)))
    found = class_measures(space, relation, permutations=50)
    assert found["neighbour"] == 1 > found["neighbour_high"] and found["silhouette"] > found["silhouette_high"]
    language = class_measures(space, space.points["language"], permutations=50)
    assert language["silhouette"] < language["silhouette_high"] + 0.05 and abs(language["neighbour_null"] - 0.5) < 0.1
    np.testing.assert_allclose(np.asarray(space.vectors.multiply(space.vectors).sum(1)).ravel(), 1)
    for classes in (
        relation * 0 if relation.dtype != object else pd.Series("a", index=relation.index),
        space.points.index.to_series(),
    ):
        with pytest.raises(InputError, match="classes"):
            class_measures(space, classes)


def test_the_same_fact_in_another_language_is_no_neighbour():
    """Each fact has neurons of its own, the same in both languages: no relation to be seen."""
    rows = [(f"f{i}", code, 0, 3 * i + k, 1.0) for i in range(6) for code in ("en", "fr") for k in range(3)]
    rows += [(f"f{i}", code, 1, 0, 0.01) for i in range(6) for code in ("en", "fr")]
    space = question_space(pd.DataFrame(rows, columns=["fact", "language", "layer", "neuron", "score"]))
    relation = space.points["fact"].map(lambda fact: int(fact[1:]) // 2)
    assert class_measures(space, relation, permutations=20)["neighbour"] < 1


def test_neurons_shown_are_the_best_of_all_orders_and_of_one(asked):
    scores, neurons = rotations(asked, "f1", "de", shown=6)
    own = asked.prompts_of("f1", "de")
    every = asked.attributions.scores.sel(query=own["query"].tolist()).values.reshape(12, -1)
    flat = neurons["layer"] * asked.model.n_neurons + neurons["neuron"]
    assert len(set(flat)) == 6 and set(flat[:3]) == set(np.argsort(-every.mean(0))[:3])
    assert int(every.max(0).argmax()) in set(flat)
    np.testing.assert_array_equal(scores, every[:, flat].T)
    with pytest.raises(InputError, match=r"f9 \(de\)"):
        rotations(asked, "f9", "de")


def test_letters_under_a_factor(asked):
    own = asked.prompts_of("f0", "en").iloc[1]
    _, neurons = rotations(asked, "f0", "en")
    found = letters_under(asked, own["query"], neurons, 0.0)
    expected = asked.letters.set_index("query").loc[own["query"], list(LETTERS)]
    np.testing.assert_allclose(found["before"], expected.to_numpy(float), atol=1e-6)
    assert (found["after"] - found["before"]).abs().max() > 1e-6
    assert found.loc[found["right"], "letter"].tolist() == [own["answer"]]
    still = letters_under(asked, own["query"], neurons.iloc[:0], 0.0)
    np.testing.assert_allclose(still["after"], expected.to_numpy(float))


def test_a_picture_is_three_figures_and_the_prompt(asked):
    *figures, text = picture(asked, "f0", "en", 1, 2, 2.0, u=0.5)
    assert len(figures) == 3 and all(isinstance(figure, Figure) for figure in figures)
    assert text["prompt"].tolist() == asked.prompts_of("f0", "en").loc[6, "prompt"].splitlines()
    assert figures[1].axes[0].patches[0].get_x() == 5.5


def test_the_view_follows_its_controls(asked):
    box = explore_questions(asked)
    (question, _, order, factor), (_, u, _), view = box.children[0].children, box.children[1].children, box.children[2]
    first = view.children[0].value
    factor.value = 5
    assert view.children[0].value != first
    before = view.children[1].value
    order.value = 3
    assert view.children[1].value != before
    question.value = ("f2", "de")
    assert "sipo ta" in view.children[3].value
    u.value = 0.1  # a share of less than one of eight questions
    assert len(view.children) == 1 and "error: u" in view.children[0].value


def test_without_a_stored_result_a_small_one_is_run(monkeypatch, tmp_path):
    model, ran = tiny_study().model, []

    def write(name, languages, questions, *, folder, parts, log):
        ran.append((name, tuple(languages), questions))
        scoreboard.write_result(
            {"tables": {"sizes": pd.DataFrame({"a": [1]})}, "provenance": {"model": model.hash}}, model.name, folder
        )

    monkeypatch.setattr(scoreboard, "run_scoreboard", write)
    given = {"folder": tmp_path / "stored", "parts": tmp_path / "parts"}
    tables, _, source = scoreboard.load_or_run(model, "path/tiny", ["en"], 4, **given)
    assert ran == [("path/tiny", ("en",), 4)] and source == "run here" and list(tables) == ["sizes"]
    assert not (tmp_path / "stored").exists()
    write("x", [], 1, folder=tmp_path / "stored", parts=None, log=None)
    assert scoreboard.load_or_run(model, "path/tiny", **given)[2] == "stored" and len(ran) == 2
    assert scoreboard.load_or_run(model, "path/tiny", recompute=True, **given)[2] == "run here"
