"""Letter scores on a model into which a neuron has been planted, and on disk."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from letter_models import A_PROMPT, PLANTED, PROMPTS, planted_model
from tiny_models import tiny_model

from knlib import attribution_store
from knlib.attribution_store import attribute_to, open_attributions
from knlib.intervention import scale
from knlib.query_relevant.letter_scores import letter_ablation, letter_scores
from knlib.query_relevant.letters import letter_probabilities, with_letter_sets


@pytest.fixture(scope="module")
def planted():
    return planted_model()


def ranked(found):
    return [tuple(map(int, pair)) for pair in found.top(3)[["layer", "neuron"]].values]


@pytest.mark.parametrize("objective", ["prob", "margin"])
def test_the_planted_neuron_comes_first(planted, objective):
    """Part of spec test 9: integrated gradients, one gradient, the oracle."""
    options = {"objective": objective}
    for found in (letter_scores(planted, A_PROMPT, **options), letter_ablation(planted, A_PROMPT, **options),
                  letter_scores(planted, A_PROMPT, method="gradient_x_activation", **options)):  # fmt: skip
        assert ranked(found)[0] == PLANTED and float(found.top(1)["score"].iloc[0]) > 0
    assert float(letter_ablation(planted, A_PROMPT, factor=2, **options).scores[0, 2, 7]) < 0


@pytest.mark.filterwarnings("ignore:.*the four letters")
def test_enhancing_it_raises_and_suppressing_it_lowers(planted):
    def probability():
        return letter_probabilities(planted, A_PROMPT)["probability"][0]

    clean = probability()
    with scale(planted, [PLANTED], 2.0):
        more = probability()
    with scale(planted, [PLANTED], 0.0):
        less = probability()
    assert less < clean < more
    assert float(letter_ablation(planted, A_PROMPT).scores[0, 2, 7]) == pytest.approx(clean - less, rel=1e-4)
    assert float(letter_ablation(planted, A_PROMPT, factor=2).scores[0, 2, 7]) == pytest.approx(clean - more, rel=1e-4)


def test_a_neuron_of_one_letter_averages_out_of_the_margin(planted):
    """Each letter right once: what favours one letter takes from the others."""
    four = pd.concat([A_PROMPT] * 4).assign(answer=list("ABCD"), query=list("ABCD"))
    scores = letter_scores(planted, four, objective="margin").scores.values
    assert scores[0, 2, 7] == np.abs(scores[0]).max()
    assert np.abs(scores.mean(0)).max() < 1e-6 * scores[0, 2, 7]


def test_stored_scores_resume_with_the_same_bytes(tmp_path, monkeypatch):
    """Spec test 10."""
    model = tiny_model("llama")
    queries = with_letter_sets(model, PROMPTS.assign(fact=PROMPTS["query"]))
    options = {"sites": "first", "quadrature": "gauss", "steps": 8, "facts_per_part": 1}
    whole = attribute_to(tmp_path / "whole", model, queries, **options)

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    plain, done = attribution_store.attribute, []
    monkeypatch.setattr(
        attribution_store, "attribute", lambda *a, **k: die() if len(done) == 2 else done.append(1) or plain(*a, **k)
    )
    with pytest.raises(KeyboardInterrupt):
        attribute_to(tmp_path / "killed", model, queries, **options)
    monkeypatch.undo()
    killed = attribute_to(tmp_path / "killed", model, queries, **options)
    files = sorted(p.name for p in whole.iterdir())
    assert files == sorted(p.name for p in killed.iterdir())
    assert all(Path(whole / f).read_bytes() == Path(killed / f).read_bytes() for f in files)
    found = open_attributions(killed, model=model, queries=queries)
    assert np.allclose(found.scores, letter_scores(model, PROMPTS).scores, rtol=1e-9, atol=1e-15)


def test_stored_scores_of_other_letter_sets_are_refused(tmp_path):
    model = tiny_model("llama")
    queries = with_letter_sets(model, PROMPTS.assign(fact=PROMPTS["query"]))
    folder = attribute_to(tmp_path / "a", model, queries, sites="first", quadrature="gauss", steps=2)
    wider = queries.assign(token_sets=[tuple((*own, 50 + i) for i, own in enumerate(s)) for s in queries["token_sets"]])
    with pytest.raises(ValueError, match="queries"):
        open_attributions(folder, queries=wider)
