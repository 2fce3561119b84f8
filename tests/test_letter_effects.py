"""query_relevant/trials.py, letter_effects.py: who is tried on whom, and every changed row against a hooked run of its own."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from letter_models import PLANTED, planted_model
from letter_studies import WORDS, tiny_prompts
from tiny_models import tiny_model

from knlib.errors import InputError
from knlib.intervention import scale
from knlib.multiple_choice import LETTERS
from knlib.query_relevant.letter_effects import letter_effects
from knlib.query_relevant.letters import letter_probabilities
from knlib.query_relevant.localizers import find
from knlib.query_relevant.metrics import fact_language, specificity
from knlib.query_relevant.questions import questions, splits
from knlib.query_relevant.trials import trials

pytestmark = pytest.mark.filterwarnings("ignore:.*the four letters")


@pytest.fixture(scope="module")
def prompts():
    return tiny_prompts()


@pytest.fixture(scope="module")
def split(prompts):
    return next(splits(prompts))


@pytest.fixture(scope="module")
def neurons(split):
    draw = np.random.default_rng(0)
    rows = [(r.fact, r.language, *pair) for r in questions(split.test).itertuples()
            for pair in {(int(draw.integers(3)), int(draw.integers(24))) for _ in range(4)}]  # fmt: skip
    return pd.DataFrame(rows, columns=["fact", "language", "layer", "neuron"])


def test_everybody_is_tried_on_the_wording_held_out(prompts, split):
    table = trials(split)
    wording = prompts.set_index("query")["wording"]
    for (_, language), own in table.groupby(["fact", "language"]):
        groups = dict(tuple(own.groupby("group")))
        assert len(groups["own"]) == len(groups["in_sample"]) == 4
        assert set(groups["own"]["query"]) <= set(split.test["query"])
        assert set(groups["in_sample"]["query"]) <= set(split.localize["query"])
        assert wording[groups["in_sample"]["query"]].nunique() == 1
        # Two questions of the other relation a language: all of them, then no more.
        assert len(groups["other"]) == 4 and not groups["other"].duplicated(["tested_fact", "tested_language"]).any()
        assert (groups["other"]["tested_language"] == language).sum() == 2
        assert groups["across"]["tested_language"].tolist() == [c for c in WORDS if c != language]
    relation = dict(zip(prompts["fact"], prompts["relation"], strict=True))
    other = table[table["group"] == "other"]
    assert (other["fact"].map(relation) != other["tested_fact"].map(relation)).all()
    tested = table[table["group"] != "in_sample"]
    assert set(tested["query"]) <= set(split.test["query"])


def test_trials_of_some_are_rows_of_all(prompts, split):
    whole, asked = trials(split, seed=3), questions(prompts).iloc[[5, 2]]
    some = trials(split, asked, seed=3)
    expected = whole.merge(asked[["fact", "language"]])
    key = whole.columns.tolist()
    pd.testing.assert_frame_equal(*(t.sort_values(key, ignore_index=True) for t in (some, expected)))
    mixed = next(splits(prompts.sample(frac=1, random_state=1)))
    pd.testing.assert_frame_equal(*(t.sort_values(key, ignore_index=True) for t in (trials(mixed, seed=3), whole)))
    assert not trials(split, seed=4).equals(whole)


def test_bad_splits_are_named(prompts):
    one = prompts[prompts["relation"] == "r"]
    with pytest.raises(InputError, match="questions of one relation"):
        trials(next(splits(one)))
    with pytest.raises(InputError, match=r"question f9 \(en\)"):
        trials(next(splits(prompts)), pd.DataFrame({"fact": ["f9"], "language": ["en"]}))


def hooked(model, row, pairs, factor):
    """P of the four letters in a run of its own."""
    with scale(model, pairs, factor):
        return letter_probabilities(model, pd.DataFrame([row])).iloc[0]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_every_row_is_a_hooked_run(kind, prompts, split, neurons):
    """bert: the fallback that runs whole rows."""
    model = tiny_model(kind)
    tried = trials(split, questions(prompts).head(2)).groupby("group").head(2)
    found = letter_effects(model, prompts, tried, neurons, factors=(2.0, 0.0, 1.0))
    assert len(found) == 3 * len(tried) and (found["n"] > 0).all()
    rows = prompts.set_index("query", drop=False)
    for r in found.itertuples():
        own = neurons[(neurons["fact"] == r.fact) & (neurons["language"] == r.language)]
        expected = hooked(model, rows.loc[r.query], own, r.factor)
        assert r.after == pytest.approx(expected["probability"], rel=1e-5)
        assert r.right_after == expected["correct"]
        assert r.before == pytest.approx(hooked(model, rows.loc[r.query], own, 1.0)["probability"], rel=1e-5)
        assert r.factor != 1 or r.after == r.before


def test_conditions_share_a_pass_and_change_nothing(prompts, split, neurons):
    model = tiny_model("llama")
    tried = trials(split)
    other = neurons.assign(neuron=(neurons["neuron"] + 1) % 24)
    both = pd.concat([neurons.assign(condition="a"), other.assign(condition="b")])
    both["condition"] = pd.Categorical(both["condition"], categories=["a", "b", "none"])
    found = letter_effects(model, prompts, tried, both)
    for name, alone in (("a", neurons), ("b", other)):
        expected = letter_effects(model, prompts, tried, alone).assign(condition=name)
        own = found[found["condition"] == name].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, expected, rtol=1e-9)
    nothing = found[found["condition"] == "none"]
    assert len(nothing) == 2 * len(tried) and (nothing["n"] == 0).all()
    assert (nothing["before"] == nothing["after"]).all()


def planted_prompts():
    """The neuron writes A behind `nu`: question f1's prompts end in it, the others' do not."""
    table = tiny_prompts()
    ends = np.where(table["fact"] == "f1", "nu", "do")
    return table.assign(prompt=table["wording"].str[-1].map({"0": "ba ", "1": "ga ", "2": ""}) + ends,
                        answer=np.where(table["fact"] == "f1", "A", table["answer"]))  # fmt: skip


def test_the_planted_neuron_moves_its_question(split):
    """Part of spec test 9: enhance raises, suppress lowers."""
    model, prompts = planted_model(), planted_prompts()
    tried = trials(list(splits(prompts))[2], questions(prompts).query("fact == 'f1'"))
    neuron = pd.DataFrame([("f1", code, *PLANTED) for code in WORDS], columns=["fact", "language", "layer", "neuron"])
    own = letter_effects(model, prompts, tried[tried["group"] == "own"], neuron)
    change = (own["after"] - own["before"]).groupby(own["factor"]).mean()
    assert change[2.0] > 0 > change[0.0]


def test_random_sets_cover_zero_on_the_planted_model():
    """Spec test 19: S of random sets, 100 repeats."""
    # Of a handful of questions no bootstrap has its 95 %.
    pairs = enumerate(product(("ba", "ki", "re"), ("du", "lo", "sa")))
    facts = {f"f{i}": ("rs"[i % 2], f"{first} {second}") for i, (first, second) in pairs}
    model, prompts = planted_model(), tiny_prompts(facts)
    split, covered = next(splits(prompts)), 0
    tried = trials(split)
    tried = tried[tried["group"].isin(["own", "other"])].groupby(["fact", "language", "group"]).head(2)
    sets = [find("random", model, split.localize, top=10, seed=seed).assign(condition=str(seed)) for seed in range(100)]
    found = letter_effects(model, prompts, tried, pd.concat(sets), factors=(0.0,))
    for _, own in found.groupby("condition"):
        interval = specificity(own, draws=300).specificity
        covered += interval.low <= 0 <= interval.high
    assert covered >= 90


def test_effects_feed_the_metrics(prompts, split, neurons):
    model = tiny_model("llama")
    found = letter_effects(model, prompts, trials(split), neurons, factors=(0.0,))
    held_out = found[found["group"] != "in_sample"]
    assert specificity(held_out[held_out["group"] != "across"], draws=50).related.clusters == 8
    cells = fact_language(held_out, draws=50).cells
    assert (cells["pairs"] == [32, 8, 16, 16]).all()


def test_what_is_wrong_is_said(prompts, split, neurons):
    model, tried = tiny_model("llama"), trials(split)
    with pytest.raises(InputError, match=r"tried: found .* expected a column query"):
        letter_effects(model, prompts, tried.drop(columns="query"), neurons)
    with pytest.raises(InputError, match="prompts: found no query f"):
        letter_effects(model, prompts.head(3), tried, neurons)
    with pytest.raises(InputError, match="layer below 3"):
        letter_effects(model, prompts, tried, neurons.assign(layer=7))
    with pytest.raises(InputError, match="finite"):
        letter_effects(model, prompts, tried, neurons, factors=(np.nan,))


def test_an_exception_leaves_no_hooks(prompts, split, neurons, monkeypatch):
    """R13."""
    model = tiny_model("llama")
    ids = torch.tensor([[1, 7, 9]])
    before = model.network(ids).logits
    monkeypatch.setattr("knlib.edited_rows.suffix_logits", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        letter_effects(model, prompts, trials(split), neurons)
    assert torch.equal(model.network(ids).logits, before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())
    assert set(LETTERS) == set(prompts["answer"])
