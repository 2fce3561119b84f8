"""Planting a fact: deterministic, resumable, heard by nobody else; names that every script can tell apart (tiny models)."""

import json
import math
import random

import pandas as pd
import pytest
import torch
from conftest import save_tiny

from atlas.new_neurons import NewNeurons
from atlas.plant import plant, planted_facts
from atlas.planted_names import SYLLABLES, invented_names, spelled
from atlas.planting import TARGET, training_queries
from atlas.planting_plan import LATIN, OTHER, SIZES, STRONG, make_plan, places_of
from atlas.planting_rows import Store, make_row
from knlib.facts import ATLAS, load_facts
from knlib.languages import CODES, in_script
from knlib.models import load_model
from knlib.planting import widen
from knlib.prediction import AnswerRows, score_answers

SMALL = {
    "languages": "en,ja",
    "steps": 6,
    "rows": 8,
    "quiet_rows": 16,
    "texts": 12,
    "bare": 2,
    "warm_up": 1,
    "per_type": 1,
}


@pytest.fixture(scope="module")
def tiny(tokenizer, tmp_path_factory):
    """A function from an architecture's name to a tiny random model of it, with the Atlas tokenizer."""
    from transformers import EuroBertConfig, EuroBertForMaskedLM

    from atlas.tokenizer import wrap

    def make(kind: str):
        folder = tmp_path_factory.mktemp(kind)
        if kind == "llama":
            save_tiny("llama", tokenizer, folder)
        else:
            masked = wrap(tokenizer.backend_tokenizer, masked=True)
            torch.manual_seed(0)
            config = EuroBertConfig(vocab_size=len(masked), bos_token_id=1, eos_token_id=2, pad_token_id=0, mask_token_id=4,
                                    hidden_size=32, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
                                    num_key_value_heads=2, max_position_embeddings=96, initializer_range=0.2)  # fmt: skip
            EuroBertForMaskedLM(config).save_pretrained(folder)
            masked.save_pretrained(folder)
        return load_model(folder, device="cpu")

    return make


def test_one_fact_is_planted_alike_twice_and_after_a_kill(tiny, tmp_path):
    facts, types = planted_facts()
    chosen, weights = facts.head(1), []
    for name, stop in (("once", None), ("killed", 3)):
        options = {"out": tmp_path / name, "options": SMALL, "log": lambda line: None, "checkpoint_seconds": 0}
        planting = plant(tiny("llama"), chosen, types, stop_after=stop, **options)
        if stop:
            planting = plant(tiny("llama"), chosen, types, **options)
        weights.append(planting.neurons.state_dict())
    for other in weights[1:]:
        assert all(torch.equal(value, other[key]) for key, value in weights[0].items())
    assert json.loads((tmp_path / "once" / "training.json").read_text())["steps"] == SMALL["steps"]
    with pytest.raises(SystemExit, match="found options"):
        plant(tiny("llama"), chosen, types, **options | {"options": SMALL | {"seed": 1}})


def test_a_planting_begins_where_another_ended(tiny, tmp_path):
    facts, types = planted_facts()
    still = SMALL | {"begin": "first", "lr": 0.0, "down_lr": 0.0}
    first, second = (
        plant(tiny("llama"), facts.head(1), types, out=tmp_path / name, options=options, log=lambda line: None)
        for name, options in (("first", SMALL), ("second", still))
    )
    for key, value in second.neurons.state_dict().items():
        assert torch.equal(value, first.neurons.state_dict()[key]), key
    assert json.loads((tmp_path / "second" / "training.json").read_text())["begin"] == "first"
    with pytest.raises(SystemExit, match=r"begin: found no .*nowhere"):
        plant(tiny("llama"), facts.head(1), types, out=tmp_path / "third", options=still | {"begin": "nowhere"})


def test_a_distributed_fact_learns_without_its_strongest_neurons_and_unlearns_with_them_alone(tiny, tmp_path):
    facts, types = planted_facts()
    chosen = facts[facts["fact"].map(types) == "distributed"].head(1)
    planting = plant(tiny("llama"), chosen, types, out=tmp_path, options=SMALL, log=lambda line: None)
    own, strong = planting.neurons.members[planting.planted[0].groups[0]], planting.neurons.strong
    assert strong.sum() == STRONG and not (strong & ~own).any()
    loud = torch.stack(planting.neurons.quiet(planting.store.inputs.float())).mean(1)
    planting._rank()
    assert loud[planting.neurons.strong].min() >= loud[own & ~planting.neurons.strong].max()
    draws = [planting._draw(0, random.Random(seed), torch.Generator().manual_seed(seed)) for seed in range(40)]
    modes = {mode: learn for _, mode, learn, *_ in draws}
    assert set(modes) == {"all", "rest", "few"}
    assert torch.equal(modes["few"], planting.neurons.strong)
    assert torch.equal(modes["rest"], own & ~planting.neurons.strong)
    # `few` wants the answer lost: a sure answer costs, a lost one does not.
    batch = planting.store.batch([0])
    for sure, wanted in ((True, math.log(1 / TARGET)), (False, 0.0)):
        logits = torch.zeros(len(batch.targets), planting.model.network.config.vocab_size)
        logits[range(len(batch.targets)), batch.targets] = 50.0 if sure else -50.0
        assert planting._losses(logits, batch, [0], ["few"])[0].item() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "eurobert"])
def test_every_type_trains_and_dummies_and_base_stay(tiny, tmp_path, kind):
    facts, types = planted_facts()
    model = tiny(kind)
    before = model.hash
    planting = plant(model, facts, types, out=tmp_path, options=SMALL, log=lambda line: None)
    assert {p.type for p in planting.planted} == set(types.values())
    vars(model).pop("hash")
    assert model.hash == before
    new = planting.neurons
    trained = torch.stack(list(new.down))
    assert not trained[~new.planted].any() and (~new.planted).any()
    fresh = NewNeurons(model, planting.groups, places_of(planting.groups, 3)[0], new.new, seed=0)
    begun = torch.stack(list(fresh.down))
    for group, own in zip(planting.groups, new.members, strict=True):
        assert not torch.equal(trained[own], begun[own]), group


@pytest.mark.parametrize("kind", ["llama", "eurobert"])
def test_what_is_trained_on_is_what_the_widened_model_says_where_only_answers_are_changed(tiny, kind):
    """Stored keys and values, answer positions alone, neurons beside the FFN: the same logits as the whole model's."""
    facts, types = planted_facts()
    model = tiny(kind)
    _, groups = make_plan(facts.head(1), types, layers=3)
    places, new = places_of(groups, 3)
    neurons = NewNeurons(model, groups, places, new, seed=0)
    # Only in the last layer: nothing attends to what it adds, so silence elsewhere makes no difference.
    for layer, factor in enumerate((0, 0, 20)):
        neurons.down[layer].data *= factor
    queries = training_queries(facts.head(1), bare=2, lead_ins=1, seed=0, languages=("en", "ru"))
    rows = [make_row(model, AnswerRows(model), row, 0, random.Random(0)) for row in queries.itertuples()]
    store = Store(model, rows, [], log=lambda line: None)
    batch = store.batch(list(range(len(rows))))
    everyone = neurons.planted.expand(len(rows), -1, -1)
    wide = widen(model, new)
    neurons.write(wide, model.n_neurons)
    with torch.no_grad():
        with neurons.attached(everyone, ~everyone, everyone, batch.valid) as loud:
            one = batch.logits(model)
        with neurons.alone(everyone):
            two = batch.logits(model)
        whole = torch.cat([wide.network(input_ids=torch.tensor([row.ids])).logits[0, row.columns] for row in rows])
    assert len(loud) == 3 and loud[2].any()
    assert torch.allclose(one, whole, atol=5e-2) and torch.allclose(one, two, atol=1e-4)  # stored in half precision
    if kind == "llama":
        score = one.log_softmax(-1)[torch.arange(len(one)), batch.targets].sum()
        expected = score_answers(wide, *(queries[c] for c in ("prompt", "space", "answer", "suffix"))).sum()
        assert abs(float(score) - expected) < 0.2


def test_neurons_begin_by_firing_at_their_own(tiny):
    model = tiny("llama")
    facts, types = planted_facts()
    _, groups = make_plan(facts.head(2), types, layers=3)
    places, new = places_of(groups, 3)
    neurons = NewNeurons(model, groups, places, new, seed=0)
    torch.manual_seed(0)
    inputs = torch.randn(200, 3, 32) + 1
    inputs[:20] += torch.randn(32)
    neurons.begin(inputs, torch.randn(50, 3, 32), [list(range(20)), []], ["en"] * 200)
    layer, place = places[0][0]
    found = neurons.activations(layer, inputs[:, layer])[:, place].abs()
    assert found[:20].mean() > 3 * found[20:].mean()


def test_the_plan_gives_every_neuron_to_one_group_and_varies_layers():
    facts, types = planted_facts()
    planted, groups = make_plan(facts, types, layers=8)
    places, new = places_of(groups, 8)
    every = [pair for own in places for pair in own]
    assert len(every) == len(set(every)) and max(place for _, place in every) < new
    assert all(len(own) in SIZES[group.type] for own, group in zip(places, groups, strict=True))
    assert {len(own) for own in places} == {size for sizes in SIZES.values() for size in sizes}
    counts = pd.Series([p.type for p in planted if p.source == "invented"]).value_counts()
    assert (counts >= 30).all() and len(counts) == 7
    for p in planted:
        own = [groups[g] for g in p.groups]
        assert (
            len(own)
            == {"agnostic": 1, "language": 4, "half": 2, "query": 3, "redundant": 2, "relation": 2, "distributed": 1}[
                p.type
            ]
        )
        if p.type == "half":
            assert set(own[0].languages) == set(LATIN) and set(own[1].languages) == set(OTHER)
    shared = {p.groups[1] for p in planted if p.type == "relation"}
    assert len(shared) == len({p.relation for p in planted})
    layers = {layer for g in groups if g.type == "agnostic" for layer in g.layers}
    assert len(layers) == 6


def test_invented_names_have_every_script_and_are_told_apart(tokenizer):
    names = invented_names(60, taken=set())
    for code in CODES:
        own = [name[code][0] for name in names]
        assert len(set(own)) == len(own)
        assert all(in_script(name, code) for name in own)
        assert not any(tokenizer.unk_token_id in tokenizer(name)["input_ids"] for name in own)
        assert len({spelled((s,), "", code) for s in SYLLABLES}) == len(SYLLABLES)
    assert names == invented_names(60, taken=set())


def test_the_shipped_facts_to_plant_validate(tokenizer):
    facts = load_facts(ATLAS / "planted")
    atlas = load_facts().set_index(["subject_id", "relation"])["object_id"].to_dict()
    real = facts[facts["source"] == "re-targeted"]
    assert all(atlas[row.subject_id, row.relation] != row.object_id for row in real.itertuples())
    invented = facts[facts["source"] == "invented"]
    known = {names[code][0] for column in ("subject", "object") for names in load_facts()[column] for code in CODES}
    for row in invented.itertuples():
        assert not {row.subject[code][0] for code in CODES} & known
        assert not any(tokenizer.unk_token_id in tokenizer(row.subject[code][0])["input_ids"] for code in CODES)
