"""Localizers of the Query Localization study in both modes: their options, targets and probabilities."""

import numpy as np
import pytest
import torch
from atlas_study import make_study

from knlib.errors import InputError
from knlib.models import load_model
from knlib.prediction import score_answers
from knlib.query_localization import consistency
from knlib.query_localization.located import METHODS, MODES, located
from knlib.sites import make_sites


@pytest.fixture(scope="module")
def study(tiny_folder, facts, templates):
    return make_study(load_model(tiny_folder("gpt2"), device="cpu"), facts, templates)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_in_both_modes_and_only_ours_is_complete(
    tiny_folder, facts, templates, tmp_path, kind, method
):
    model = load_model(tiny_folder(kind), device="cpu")
    study = make_study(model, facts, templates, relations=("continent",), phrasings=2)
    gaps, scores = {}, {}
    for mode in MODES:
        found = located(study, method, mode, folder=tmp_path)
        assert found.scores["query"].values.tolist() == study.queries["query"].tolist()
        assert np.isfinite(found.scores).all()
        gaps[mode], scores[mode] = float(found.completeness_gap.max()), found.scores.values
    assert gaps["ours"] < 0.05  # the engine's tolerance
    assert gaps["paper"] > 2 * gaps["ours"]
    assert not np.allclose(scores["ours"], scores["paper"], rtol=0.02)


def test_paper_mode_has_the_published_points_sites_and_formulas(study, tmp_path):
    some = study.queries.head(1)
    options = {m: located(study, m, "paper", queries=some, folder=tmp_path).provenance["options"] for m in METHODS}
    assert [o["quadrature"] for o in options.values()] == ["linspace", "left", "linspace"]
    assert [o.get("formula", "difference") for o in options.values()] == ["difference", "neurons", "shifted"]
    assert {(o["steps"], o["sites"], o["objective"]) for o in options.values()} == {(20, "first", "prob")}
    assert options["ig"]["baseline"] == "zero" and options["sig"]["baseline"] == "mask_words_mean"
    finer = located(study, "ig", "paper", queries=some, finer=True, folder=tmp_path)
    assert finer.provenance["options"]["steps"] == 50
    assert located(study, "ig", queries=some, finer=True, folder=tmp_path).provenance["options"]["tolerance"] == 1e-3


def test_the_mean_of_the_study_is_the_baseline_of_a_part_of_it(study, tmp_path):
    whole = located(study, "amig", "ours", folder=tmp_path)
    part = study.of(study.names[2:4])
    some = located(study, "amig", "ours", queries=part, folder=tmp_path)
    assert np.allclose(some.scores, whole.scores.sel(query=part["query"].values), rtol=1e-4, atol=1e-9)


def test_unknown_methods_and_modes_are_refused(study):
    for method, mode in (("dig", "ours"), ("ig", "theirs")):
        with pytest.raises(InputError, match=f"method, mode: found {method}, {mode}"):
            located(study, method, mode)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_targets_are_the_label_with_its_case_and_space_and_no_special_token(tiny_folder, facts, templates, kind):
    model = load_model(tiny_folder(kind), device="cpu")
    queries = make_study(model, facts, templates, phrasings=2).queries
    sites = make_sites(model, queries)
    assert any(q.answer != q.answer.lower() for q in queries.itertuples())
    for number, query in enumerate(queries.itertuples()):
        ids = [s.target for s in sites if s.query == number]
        assert not set(ids) & set(model.tokenizer.all_special_ids)
        assert model.tokenizer.decode(ids).strip() == query.answer
        assert tuple(ids) == model.pieces(query.prompt + query.space + query.answer)[len(model.pieces(query.prompt)) :]


def test_the_probability_is_the_product_over_the_answers_tokens(study, tmp_path):
    queries = study.queries[study.queries["relation"] == "capital"].head(6)
    found = located(study, "ig", queries=queries, folder=tmp_path).probability.values
    expected = score_answers(study.model, *(queries[c] for c in ("prompt", "space", "answer", "suffix")))
    assert np.allclose(np.log(found), expected, rtol=1e-4)


def test_the_width_of_the_ffn_need_not_be_four_times_the_streams(tokenizer, facts, templates, tmp_path):
    from transformers import AutoModelForCausalLM, GPT2Config

    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_inner=112, n_layer=2, n_head=4, n_positions=96,
                        initializer_range=0.2, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "wide")
    tokenizer.save_pretrained(tmp_path / "wide")
    study = make_study(
        load_model(tmp_path / "wide", device="cpu"), facts, templates, relations=("continent",), phrasings=2
    )
    found = located(study, folder=tmp_path / "store")
    assert found.scores.shape[1:] == (2, 112)
    sets = consistency.make_sets(found, "top50", 0.3)
    assert max(s.max() for s in sets) < 224 and any(s.max() % 112 > 64 or s.max() > 128 for s in sets)
