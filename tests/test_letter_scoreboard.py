"""query_relevant/scoreboard.py: every registered localizer has rows; killed and resumed, the bytes are the same."""

import json
import shutil
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from letter_studies import tiny_answers, tiny_prompts, tiny_study
from tiny_models import tiny_model

from knlib.errors import InputError
from knlib.query_relevant import baselines, effect_parts, localizers, score_parts, scoreboard_results
from knlib.query_relevant import study as study_module
from knlib.query_relevant.score_parts import REFERENCE, Plan, neuron_path
from knlib.query_relevant.scoreboard import main, run_scoreboard
from knlib.query_relevant.scoreboard_results import load_result
from knlib.query_relevant.study import LetterStudy

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def study():
    return tiny_study()


@contextmanager
def few(study):
    """Runs of the tiny study, with few draws of everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_parts, "_study", lambda *names: study)
        for name, value in (("DRAWS", 2), ("DOSED", 1)):
            patch.setattr(score_parts, name, value)
        for name in ("DRAWS", "RESAMPLES", "PERMUTATIONS"):
            patch.setattr(scoreboard_results, name, 20)
        yield lambda folder, **options: run_scoreboard(
            "tiny",
            ["en", "de"],
            4,
            folder=folder / "out",
            parts=folder / "parts",
            **{"log": lambda line: None} | options,
        )


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("whole")
    with few(study) as run:
        run(folder)
    return folder


@pytest.fixture
def tiny(study):
    with few(study) as run:
        yield run


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def contents(folder):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def test_every_registered_localizer_has_rows(tiny, study, copy, monkeypatch):
    """One that is registered later adds its own, and nothing else is computed again."""
    tables, provenance = load_result(study.model, copy / "out")
    board = tables["scoreboard"]
    assert not provenance["left_out"]
    assert set(board["condition"]) == set(localizers.names()) == set(tables["sizes"]["localizer"])
    held_out = board.query("sample == 'held_out' and questions_of == 'all'")
    assert (held_out.groupby("condition")["factor"].agg(set).map(len) == 2).all()
    assert (held_out["S_low"] <= held_out["S"]).all() and (held_out["S"] <= held_out["S_high"]).all()
    for name in ("flips", "long_form", "doses", "fact_language"):
        assert set(tables[name]["condition"]) == set(localizers.names()), name
    assert set(tables["letter_or_more"]["condition"]) == set(localizers.names()) - {"random_layer_matched"}
    assert tables["doses"]["factor"].nunique() == 7
    agreement = tables["agreement"].set_index("localizer")
    assert agreement.loc["oracle", ["rank_correlation", "recall"]].tolist() == [1, 1]
    # Drawn neurons come from no scores: those of the reference, whose layers they have, are not theirs.
    assert agreement.loc["random_layer_matched", ["rank_correlation", "recall"]].isna().all()
    assert agreement["recall"].drop("random_layer_matched").notna().all()
    assert set(tables["accuracy"]["taught"]) == {True, False}

    monkeypatch.setattr(baselines, "SCORES", dict(baselines.SCORES))
    monkeypatch.setattr(localizers, "SCORES", baselines.SCORES)
    baselines.register("negative")(lambda model, prompts: -baselines.score("activation", model, prompts).values)
    scored = []
    plain = score_parts.score
    monkeypatch.setattr(score_parts, "score", lambda name, *a, **k: scored.append(name) or plain(name, *a, **k))
    tiny(copy)
    assert set(scored) == {"negative"}
    after = load_result(study.model, copy / "out")[0]["scoreboard"]
    old = after[after["condition"] != "negative"].reset_index(drop=True)
    assert "negative" in set(after["condition"])
    pd.testing.assert_frame_equal(old, board, check_dtype=False)


def test_killed_and_resumed(tiny, tmp_path, monkeypatch):
    """Spec test 10, R8; with a few localizers."""
    some = {name: baselines.SCORES[name] for name in ("knowledge_neurons", "activation", "oracle")}
    monkeypatch.setattr(baselines, "SCORES", some)
    monkeypatch.setattr(localizers, "SCORES", some)
    monkeypatch.setattr(localizers, "CLUSTERED", {"qrnca": localizers.CLUSTERED["qrnca"]})
    monkeypatch.setattr(localizers, "DRAWN", ("random",))
    tiny(tmp_path / "whole")
    calls = []
    for module, name, after in ((score_parts, "score", 3), (effect_parts, "letter_effects", 2)):
        plain = getattr(module, name)

        def die(*args, plain=plain, after=after, name=name, **options):
            calls.append(name)
            if calls.count(name) == after:
                raise KeyboardInterrupt
            return plain(*args, **options)

        monkeypatch.setattr(module, name, die)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tiny(tmp_path / "killed")
    tiny(tmp_path / "killed")
    folders = [folder / "out" / "tiny-llama" for folder in (tmp_path / "whole", tmp_path / "killed")]
    one, two = map(contents, folders)
    assert set(one) == set(two)
    for name in one:
        if name == "scoreboard.csv":
            a, b = (pd.read_csv(folder / name) for folder in folders)
            pd.testing.assert_frame_equal(*(t.drop(columns="seconds_per_prompt") for t in (a, b)))
        else:
            assert one[name] == two[name], name


def test_of_many_facts_each_is_tried_on_one_wording_that_no_score_of_it_has_seen(tmp_path, monkeypatch):
    some = {name: baselines.SCORES[name] for name in ("knowledge_neurons", "activation", "oracle")}
    for module, name, value in ((baselines, "SCORES", some), (localizers, "SCORES", some), (study_module, "ROUND", 12),
                                (localizers, "CLUSTERED", {"qrnca": localizers.CLUSTERED["qrnca"]}),
                                (localizers, "DRAWN", ("random",)), (score_parts, "MOST", {"random": 6})):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    facts = {f"f{i:02}": ("rs"[i % 2], f"{a} {b}") for i, (a, b) in enumerate(product(("bada", "nu", "sipo", "mira"), ("re", "ta", "kilo")))}  # fmt: skip
    prompts = tiny_prompts(facts)
    study = LetterStudy(tiny_model("llama"), list(facts), prompts, tiny_answers(prompts), frozenset(["f00"]))
    assert len(study.scored) == len(prompts) * 2 / 3 and len(study.wordings) == len(study.scored) / 4
    with few(study) as run:
        run(tmp_path)
        plan = Plan("tiny", ("en", "de"), 12, str(tmp_path / "parts"))
        folder = plan.folder
        reference = pd.read_parquet(neuron_path(plan, "qrnca"))
    turn = dict(zip(facts, (0, 1, 2) * 4, strict=True))
    assert (study.scored["place"] != study.scored["fact"].map(turn)).all()
    assert (reference["held_out"] == reference["fact"].map(turn)).all() and reference["fact"].nunique() == 12
    for name, tried in (("qrnca", 12), ("activation", 12), ("random", 6), ("oracle", 3)):
        effects = pd.concat(map(pd.read_parquet, (folder / "letters" / name).glob("*.parquet")))
        assert (effects["held_out"] == effects["fact"].map(turn)).all()
        mine = effects[effects["group"] == "own"]
        assert (mine["query"].str.split("|").str[1].str[-1].astype(int) == mine["held_out"]).all()
        assert set(mine["fact"]) == set(list(facts)[:tried]), name
    board = load_result(study.model, tmp_path / "out")[0]["scoreboard"]
    counts = board.query("sample == 'held_out' and questions_of == 'all' and factor == 2").set_index("condition")[
        "questions"
    ]
    asked = reference.drop_duplicates(["fact", "language"])["fact"].map(list(facts).index)  # one has no neuron
    for name, tried in (("qrnca", 12), ("activation", 12), ("random", 6), ("oracle", 3)):
        assert counts[name] == (asked < tried).sum() > tried, name


def test_sets_are_cut_to_the_references_size(tiny, whole):
    """Spec test 18."""
    plan = Plan("tiny", ("en", "de"), 4, str(whole / "parts"))
    keys = ["held_out", "fact", "language"]
    sizes = {n: pd.read_parquet(neuron_path(plan, n)) for n in localizers.names()}
    wanted = sizes[REFERENCE].groupby(keys).size()
    for name in ("dla", "activation", "grad_x_act", "relp", "random", "random_layer_matched"):
        for _, own in sizes[name].groupby("draw"):
            pd.testing.assert_series_equal(own.groupby(keys).size(), wanted, check_names=False)
    for name, table in sizes.items():
        counts = table.groupby([*keys, "draw"]).size()
        assert all(count <= wanted[key[:3]] for key, count in counts.items()), name
    drawn = sizes["random_layer_matched"]
    one, two = (drawn[drawn["draw"] == d][[*keys, "layer", "neuron"]].values.tolist() for d in (0, 1))
    assert one != two
    histogram = ["held_out", "fact", "language", "layer"]
    for _, own in drawn.groupby("draw"):
        pd.testing.assert_series_equal(own.groupby(histogram).size(), sizes[REFERENCE].groupby(histogram).size())


def test_common_neurons_and_key_neurons_are_two_files(whole, study):
    """R1, R2: both parse, and share nothing."""
    tables, provenance = load_result(study.model, whole / "out")
    assert (whole / "out/tiny-llama/neurons.parquet").is_file() and (whole / "out/tiny-llama/common.csv").is_file()
    common, key = tables["common"], tables["neurons"].query("held_out == 0")
    assert len(common) and len(key) and {"common", "neurons"} <= set(provenance["tables"])
    pairs = [set(zip(table["layer"], table["neuron"], strict=True)) for table in (common, key)]
    assert not pairs[0] & pairs[1]


def test_scores_that_a_model_refuses_are_left_out_with_the_reason(tiny, study, copy, monkeypatch):
    monkeypatch.setattr(baselines, "SCORES", dict(baselines.SCORES))
    monkeypatch.setattr(localizers, "SCORES", baselines.SCORES)

    def refuse(model, prompts):
        raise InputError("model tiny", found="no gate", expected="a gate")

    monkeypatch.setitem(baselines.SCORES, "neg", refuse)
    for part in (copy / "parts").rglob("neg*"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    tiny(copy)
    tables, provenance = load_result(study.model, copy / "out")
    assert provenance["left_out"] == {"neg": "model tiny: found 'no gate', expected a gate"}
    assert "neg" not in set(tables["scoreboard"]["condition"])


def test_wordings_that_test_have_no_part_in_class_scores(tiny, study, tmp_path):
    """`cna` and `lape` compare classes within the k-th wordings alone."""
    plan = Plan("tiny", ("en", "de"), 4, str(tmp_path / "parts"))
    score_parts.run_scores(plan, "cna", {}, study.facts)
    found = score_parts.pooled_scores(plan, "cna", {}).values
    first = study.prompts[study.prompts["wording"].str.endswith("/0")]
    expected = baselines.score("cna", study.model, first).values.reshape(-1, 4, 3, 24).mean(1)
    assert np.allclose(found[(study.wordings["wording"].str.endswith("/0")).to_numpy()], expected, atol=1e-6)


def test_results_of_other_weights_are_refused(tiny, study, tmp_path):
    with pytest.raises(InputError, match="no stored result, expected run python -m knlib"):
        load_result(study.model, tmp_path)
    folder = tmp_path / "tiny-llama"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"model": "other", "tables": []}))
    with pytest.raises(InputError, match="tiny-llama, model: found 'other'"):
        load_result(study.model, tmp_path)


def test_the_command_says_what_is_wrong(capsys):
    assert main(["--model", "atlas-llama", "--languages", "xx"]) == 2
    assert "languages: found ['xx']" in capsys.readouterr().err
    assert main(["--model", "atlas-llama", "--jobs", "0"]) == 2
