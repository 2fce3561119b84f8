"""A whole scoreboard on a tiny model whose new neurons are declared planted: rows, resume, refusals."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from planted_study import GATES, KINDS, LANGUAGES, save_planted

from knlib.errors import InputError
from knlib.ground_truth import parts, scoreboard, scorers
from knlib.ground_truth.estimates import board
from knlib.ground_truth.results import TABLES, load_results, save_results
from knlib.ground_truth.scorers import Scores
from knlib.ground_truth.selection import synapse_selection
from knlib.ground_truth.study import load_study
from knlib.models import load_model
from knlib.planting import load_truth

# Few and cheap: the registries themselves are in test_ground_truth.
FEW = {
    "ig": Scores({"quadrature": "gauss", "steps": 2}),
    "ig_dataset_mean": Scores({"baseline": "dataset_mean", "quadrature": "gauss", "steps": 2}),
}


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return save_planted("llama", tokenizer, tmp_path_factory.mktemp("planted") / "planted-tiny")


@pytest.fixture(scope="module")
def study(folder):
    model = load_model(folder, device="cpu")
    return load_study(model, truth=load_truth(folder, model), natural=0, gates=GATES)


@pytest.fixture
def small(study, monkeypatch):
    """Two facts of a kind each, and one that stands for such that were not planted."""
    monkeypatch.setattr(scorers, "SCORES", FEW)
    monkeypatch.setattr(scorers, "VARIANTS", {})
    monkeypatch.setattr(scorers, "STARTS", ("ig",))
    monkeypatch.setattr(parts, "RESAMPLES", 2)
    monkeypatch.setattr("knlib.ground_truth.gather.board", partial(board, resamples=20))
    names = ["query", "relation"]
    facts = study.facts[study.facts["kind"].isin(names)].groupby("kind").head(1)
    natural = study.queries.groupby("fact").head(1).head(1).assign(fact="a")
    kept = study.queries["fact"].isin(facts["fact"])
    own = replace(study, facts=facts.reset_index(drop=True), queries=study.queries[kept].reset_index(drop=True),
                  natural=natural.reset_index(drop=True))  # fmt: skip
    monkeypatch.setattr(parts, "_study", lambda *_: own)
    monkeypatch.setattr(parts.letter_localizers, "names", lambda: ["random"])
    return own


def test_questions_are_in_four_languages_and_three_phrasings(study):
    counts = study.queries.groupby("fact").agg(
        languages=("language", "nunique"), names=("name", "nunique"), queries=("query", "size")
    )
    assert (counts["languages"] == 4).all() and (counts["names"] == 3).all() and (counts["queries"] == 12).all()
    assert study.facts["kind"].value_counts().to_dict() == KINDS
    kinds = study.facts.set_index("fact")["kind"]
    for fact, labels in study.labels.items():
        sizes = [int(labels.by_language[code].sum()) for code in LANGUAGES]
        whole = int(labels.own.sum())
        expected = {"language": [2] * 4, "half": [2] * 4}.get(kinds[fact], [whole] * 4)
        assert sizes == expected and labels.common.any() == (kinds[fact] == "relation")
        assert not (labels.own & labels.common).any()


def test_a_scoreboard_has_the_truth_on_top_and_says_what_is_left_out(small, folder, tmp_path):
    lines = []
    own = scoreboard.run_scoreboard(str(folder), parts=tmp_path / "parts", folder=tmp_path / "out", log=lines.append)
    tables, provenance = load_results(small.model, tmp_path / "out")
    assert set(tables) == set(TABLES) and own.name == small.model.name and len(lines) > 10
    assert {"truth", "lafn", "ablation", "random", "ig", "amig from ig"} <= set(provenance["rows"])
    facts = tables["facts"]
    assert (facts.loc[facts["row"] == "truth", ["auroc", "average_precision", "at_k", "precision", "recall"]] == 1).all(
        axis=None
    )
    assert (
        "letters: random" in provenance["left_out"] and "multiple-choice" in provenance["left_out"]["letters: random"]
    )
    # An oracle agrees with itself; the cost of a path is more than that of one activation.
    agreed = tables["agreement"].set_index(["scores", "fact"])
    assert (agreed.loc["ablation"].to_numpy() > 0.999).all() and len(tables["pairs"]) == 435
    costs = tables["costs"].set_index("row")["passes"]
    assert costs["ablation"] > costs["ig"] > costs["activation"] > 0
    assert len(tables["consistency"]["scores"].unique()) == 6 and len(tables["selection"]) == 3
    assert sum(path.stat().st_size for path in own.iterdir()) < 400_000

    # Killed or not, the same tables, but for the seconds; nothing is computed again.
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    for path in own.iterdir():
        path.unlink()
    piece = next((tmp_path / "parts").glob("*/measures/*.json"))
    piece.unlink()
    scoreboard.run_scoreboard(str(folder), parts=tmp_path / "parts", folder=tmp_path / "out", log=lines.append)
    after = {path.name: path.read_bytes() for path in own.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {"costs.csv"}

    # What is stored is read; what is not is run, or for a model to compare with, said.
    results, absent = scoreboard.load_compared(
        small.model, str(folder), ["nothing", str(folder), ""], folder=tmp_path / "out"
    )
    assert list(results) == [small.model.name] and results[small.model.name][2] == "stored"
    assert absent == ["nothing: found no stored scoreboard, expected one to compare"]
    again, _, source = scoreboard.load_or_run(
        small.model, str(folder), folder=tmp_path / "none", parts=tmp_path / "parts"
    )
    assert source == "run here" and not (tmp_path / "none").exists() and len(again["facts"]) == len(tables["facts"])


def test_results_of_other_weights_are_refused(study, tmp_path):
    """Spec test 9, the results' side."""
    tables = {name: pd.DataFrame({"a": [1.0]}) for name in TABLES}
    save_results(tables, {"model": study.model.hash, "model_name": study.model.name}, tmp_path)
    assert load_results(study.model, tmp_path)[0]["board"]["a"].tolist() == [1.0]
    save_results(tables, {"model": "0" * 16, "model_name": study.model.name}, tmp_path)
    with pytest.raises(InputError, match="found weights 0000"):
        load_results(study.model, tmp_path)
    with pytest.raises(InputError, match="run python -m"):
        load_results(study.model, tmp_path / "none")
    with pytest.raises(InputError, match="which the truth is about"):
        load_study(study.model, truth=replace(study.truth, model="0" * 16), natural=0)


def test_what_synapses_select_is_measured_with_controls(study):
    facts = study.facts.query("kind == 'query'")["fact"].head(1).tolist()
    table = synapse_selection(study, facts)
    assert len(table) == 3 and (table["language"] == table["language"].iloc[0]).all()
    values = table[["served", "matched_attention", "matched_neurons", "others"]].to_numpy()
    assert np.isfinite(values).all() and not np.allclose(values, 1)
    with pytest.raises(InputError, match="at least one"):
        synapse_selection(study, [])


def test_the_command_refuses_nonsense(capsys):
    assert scoreboard.main(["--model", "x", "--jobs", "0"]) == 2
    assert "--jobs" in capsys.readouterr().err
