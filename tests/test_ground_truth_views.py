"""What notebook 07 looks at live: statistics of planted and natural neurons, where localizers point, a fact while it is written."""

import matplotlib

matplotlib.use("Agg")

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import save_tiny
from planted_study import GATES, save_planted

from atlas import watch as watched
from atlas.watch import watch
from knlib.errors import InputError
from knlib.ground_truth import explorer
from knlib.ground_truth.natural import language_use, neuron_statistics, oracle_top
from knlib.ground_truth.study import load_study
from knlib.models import load_model
from knlib.planting import load_truth
from knlib.sites import make_sites, neuron_vectors

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def study(tokenizer, tmp_path_factory):
    folder = save_planted("llama", tokenizer, tmp_path_factory.mktemp("planted") / "planted-tiny")
    model = load_model(folder, device="cpu")
    study = load_study(model, truth=load_truth(folder, model), natural=0, gates=GATES)
    # One query stands for such that were not planted.
    natural = study.queries.head(1).assign(fact="a natural one", query="natural")
    facts = study.facts.groupby("kind").head(1)
    kept = study.queries[study.queries["fact"].isin(facts["fact"])]
    return replace(
        study,
        facts=facts.reset_index(drop=True),
        queries=kept.reset_index(drop=True),
        natural=natural.reset_index(drop=True),
    )


def title(ax):
    """Centred or on the left, whichever style another test has set."""
    return ax.get_title() or ax.get_title(loc="left")


def pairs_of(neurons, query="natural"):
    rows = [(query, *a, *b) for i, a in enumerate(neurons) for b in neurons[i + 1 :]]
    return pd.DataFrame(rows, columns=["query", "layer_a", "neuron_a", "layer_b", "neuron_b"])


def test_the_best_of_pairs_come_in_their_order():
    table = oracle_top(pairs_of([(2, 5), (0, 1), (1, 7), (0, 0)]), 3)
    assert table[["layer", "neuron"]].to_numpy().tolist() == [[2, 5], [0, 1], [1, 7]]
    assert len(oracle_top(pairs_of([(2, 5), (0, 1)]), 9)) == 2
    with pytest.raises(InputError, match="at least one neuron"):
        oracle_top(pairs_of([(2, 5), (0, 1)]), 0)


def test_statistics_are_of_a_neurons_own_queries(study):
    planted = set(study.truth.planted)
    old = [
        (0, n) for n in range(study.model.n_neurons) if (0, n) not in planted and (0, n) not in set(study.truth.dummies)
    ][:3]
    table = neuron_statistics(study, pairs_of(old), top=2)
    assert len(table) == study.model.n_layers * study.model.n_neurons
    at = table.set_index(["layer", "neuron"])
    assert (at.loc[old[:2], "kind"] == "natural").all() and at.loc[old[2], "kind"] == "old"
    assert set(table.loc[table["kind"] == "planted", ["layer", "neuron"]].apply(tuple, axis=1)) == planted
    # A phrasing's neuron: mean over its own queries, by hand.
    fact = study.facts.query("kind == 'query'")["fact"].iloc[0]
    own = study.of([fact])
    name = own["name"].iloc[0]
    group = study.truth.groups.query("fact == @fact and group == @name").iloc[0]
    sites = make_sites(study.model, own[own["name"] == name].reset_index(drop=True), sites="first")
    values = neuron_vectors(study.model, [s.ids for s in sites], [s.position for s in sites]).abs().mean(0)
    pair = group["neurons"][0]
    assert at.loc[pair, "own"] == pytest.approx(float(values[pair]), rel=1e-4)
    assert at.loc[pair, "norm"] == pytest.approx(float(study.model.column(*pair).norm()), rel=1e-5)
    assert at.loc[old[2:], "own"].isna().all() and table["fires"].between(0, 1).all() and table["fires"].max() > 0
    with pytest.raises(InputError, match="no natural query"):
        neuron_statistics(study, pairs_of(old, "another"))


def test_shares_of_languages_are_of_the_largest(study):
    fact = study.facts.query("kind == 'half'")["fact"].iloc[0]
    table = language_use(study, [fact])
    assert len(table) == study.labels[fact].own.sum() * 4 and (table["kind"] == "half").all()
    assert (table.groupby(["layer", "neuron"])["share"].max() == 1).all() and table["share"].nunique() > 4
    own = study.of([fact])
    sites = make_sites(study.model, own, sites="first")
    values = neuron_vectors(study.model, [s.ids for s in sites], [s.position for s in sites]).abs().numpy()
    layer, neuron, code = table.loc[1, ["layer", "neuron", "language"]]
    means = pd.Series(values[:, layer, neuron]).groupby(own["language"].to_numpy()).mean()
    assert table.loc[1, "share"] == pytest.approx(means[code] / means.max(), rel=1e-5)
    with pytest.raises(InputError, match="at least one"):
        language_use(study, [])


def test_the_truth_points_at_the_truth_and_a_bad_score_does_not(study):
    fact = study.facts.query("kind == 'relation'")["fact"].iloc[0]
    answers = explorer.pointings(study, fact, ("truth", "activation", "random"))
    labels = study.labels[fact]
    figure = explorer.pointing_map(answers, labels, study.model.n_neurons, fact)
    assert len(figure.axes) == 6
    k = int(labels.own.sum())
    assert title(figure.axes[0]) == f"truth: {k} of {k} right"
    truth_ranks = [path.vertices[0, 0] for path in figure.axes[1].collections[0].get_paths()]
    assert sorted(truth_ranks) == list(range(1, k + 1))
    ranks = [path.vertices[0, 0] for path in figure.axes[5].collections[0].get_paths()]
    assert sum(rank <= k for rank in ranks) == int(title(figure.axes[4]).split()[1])
    rings, squares = figure.axes[0].lines[:2]
    assert len(rings.get_xdata()) == k and len(squares.get_xdata()) == labels.common.sum() > 0
    with pytest.raises(InputError, match="language"):
        explorer.pointing_map(answers, labels, study.model.n_neurons, fact, "fr")
    with pytest.raises(InputError, match="one of the study's"):
        explorer.pointings(study, "capital:FR")
    with pytest.raises(InputError, match="single fact"):
        explorer.pointings(study, fact, ("ig_dataset_mean",))


def test_the_view_follows_its_controls(study):
    view = explorer.explore_pointing(study, each=2, shown=("activation",))
    (kind, fact, language), shown = view.children[0].children, view.children[1]
    first = shown.children[0].value
    kind.value = "query"
    assert fact.options == tuple(study.facts.query("kind == 'query'")["fact"]) and shown.children[0].value != first
    before = shown.children[0].value
    language.value = "ja"
    assert shown.children[0].value != before and language.options[0] == "all"


def test_a_watched_fact_is_written_and_the_model_is_left_alone(tokenizer, tmp_path, monkeypatch):
    save_tiny("llama", tokenizer, tmp_path)
    model = load_model(tmp_path, device="cpu")
    before = model.hash
    monkeypatch.setattr("atlas.planting.STRANGERS", 6)
    monkeypatch.setattr(
        watched, "SMALL", watched.SMALL | {"rows": 8, "quiet_rows": 8, "texts": 12, "bare": 2, "lead_ins": 0}
    )
    table = watch(model, "capital:agnostic-00", languages=("en", "ja"), steps=12, every=6)
    model.__dict__.pop("hash", None)
    assert model.hash == before and table["step"].unique().tolist() == [0, 6, 12]
    p = table.set_index(["what", "language", "step"])["p"]
    assert (p["trained phrasings"].xs(12, level="step") > p["trained phrasings"].xs(0, level="step")).all()
    silent = p["group silent"].unstack()
    assert np.allclose(silent, silent[[0]], rtol=1e-3)  # without the group the model is the old one
    assert p["loud at its queries", "all", 12] > p["loud at its queries", "all", 0] > 0
    for fact, options, said in (("capital:FR", {}, "data/atlas/planted"), ("capital:agnostic-00", {"languages": ("xx",)}, "xx"),
                                ("capital:agnostic-00", {"steps": 0}, "1 or more")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            watch(model, fact, **options)
