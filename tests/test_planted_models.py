"""The shipped planted models: what they say without the new neurons, and their signatures, from their weights."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from atlas.corpus import Corpus
from atlas.ship_planted import LIMIT, chosen_queries
from knlib.errors import InputError
from knlib.facts import ATLAS, load_facts
from knlib.intervention import suppress
from knlib.models import SHIPPED, by_input, load_model
from knlib.perplexity import text_loss
from knlib.planting import load_truth, neuron_orders, signatures, verdicts

PER_TYPE = 10
LANGUAGES = {"planted-llama": ("en", "ru", "ja", "ar"), "planted-bert": ("en", "zh")}  # asked here, of twelve


@pytest.fixture(scope="module", params=["planted-llama", "planted-bert"])
def shipped(request):
    """(name, base, model, truth)"""
    if not (SHIPPED / request.param / "truth.json").is_file():
        pytest.skip(f"data/models/{request.param} is missing")
    model = load_model(request.param, device="cpu")
    truth = load_truth(request.param, model)
    return request.param, load_model(truth.base, device="cpu"), model, truth


def test_the_folder_is_small_and_loads_with_plain_transformers(shipped):
    name, _, model, _ = shipped
    assert sum(path.stat().st_size for path in (SHIPPED / name).iterdir()) <= LIMIT
    loader = AutoModelForCausalLM if model.kind == "causal" else AutoModelForMaskedLM
    network, ids = loader.from_pretrained(SHIPPED / name, dtype=torch.float32).eval(), torch.tensor([[1, 50, 60, 70]])
    with torch.no_grad():
        assert torch.equal(network(input_ids=ids).logits, model.network(input_ids=ids).logits)


def test_the_old_weights_are_the_base_s_to_the_bit(shipped):
    _, base, model, truth = shipped
    assert truth.base_hash == base.hash and truth.old == base.n_neurons
    where = neuron_orders(truth.seed, model.n_layers, model.n_neurons).argsort(1)[:, : truth.old]
    for layer in range(model.n_layers):
        old = torch.as_tensor(where[layer])
        down = model.down_projections[layer], base.down_projections[layer]
        assert torch.equal(by_input(down[0], down[0].weight)[old], by_input(down[1], down[1].weight))
        for mine, its in zip(model.up_projections[layer], base.up_projections[layer], strict=True):
            assert torch.equal(mine.weight[old], its.weight)
    rest = dict(base.network.named_parameters())
    for name, value in model.network.named_parameters():
        if value.shape == rest[name].shape:
            assert torch.equal(value, rest[name])
    new = {
        (layer, int(n))
        for layer in range(model.n_layers)
        for n in set(range(model.n_neurons)) - set(where[layer].tolist())
    }
    assert new == set(truth.planted) | set(truth.dummies) and not set(truth.planted) & set(truth.dummies)
    assert not any(model.column(*pair).any() for pair in truth.dummies)


def test_without_the_planted_neurons_the_base_is_back(shipped):
    _, base, model, truth = shipped
    text = ["The capital of the country France is", "日本の首都は", "Zamiku — capital:"]
    for prompt in text:
        ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
        with torch.no_grad(), suppress(model, truth.planted, positions="all"):
            found = model.network(input_ids=ids).logits.log_softmax(-1)
        with torch.no_grad():
            expected = base.network(input_ids=ids).logits.log_softmax(-1)
        # Sums of logits of size 20 in another order.
        assert float((found - expected).abs().max()) < 5e-5


def test_the_old_knowledge_stays(shipped):
    name, base, model, _ = shipped
    found = json.loads((SHIPPED / name / "evaluation.json").read_text("utf8"))["old_knowledge"]
    assert found["planted"]["accuracy"] > found["base"]["accuracy"] - 0.01
    assert found["planted"]["perplexity"] < 1.02 * found["base"]["perplexity"]
    texts = [sentence.text for sentence in Corpus(load_facts(), seed=1).epoch(-5)[:150]]
    assert text_loss(model, texts) < text_loss(base, texts) + np.log(1.03)  # fewer sentences than the card's


def test_signatures_hold_where_the_truth_says_so(shipped):
    name, _, model, truth = shipped
    facts = load_facts(ATLAS / "planted")
    found = json.loads((SHIPPED / name / "evaluation.json").read_text("utf8"))
    queries = chosen_queries(facts, truth, per_split=found["per_split"])
    verified = truth.facts[truth.facts["verified"]].groupby("type").head(PER_TYPE)
    holding = verified.set_index("fact")["holding"]
    kept = [
        row.split == "train" and row.language in LANGUAGES[name] and row.language in holding.get(row.fact, ())
        for row in queries.itertuples()
    ]
    table = verdicts(signatures(model, truth, queries[kept].reset_index(drop=True)), truth)
    # Not all languages are asked: in those asked in which it is said to hold, everything does.
    asked = queries[kept].groupby("fact")["language"].nunique()
    assert (table["holding"].map(len).to_numpy() == asked.loc[table["fact"]].to_numpy()).all()


def test_counts_on_the_card_are_those_of_the_truth(shipped):
    name, _, _, truth = shipped
    found = json.loads((SHIPPED / name / "evaluation.json").read_text("utf8"))["types"]
    counts = truth.facts.groupby("type")["verified"].sum()
    for kind, splits in found.items():
        assert splits["train"]["holds"] == counts[kind]
    assert isinstance(truth.neurons(), pd.DataFrame) and set(truth.neurons()["fact"]) == set(
        truth.facts.loc[truth.facts["verified"], "fact"]
    )


def test_the_truth_is_not_about_the_base(shipped):
    name, base, _, _ = shipped
    with pytest.raises(InputError, match="found weights"):
        load_truth(name, base)
