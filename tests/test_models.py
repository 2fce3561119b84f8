"""models.py: checkpoint folders of nine architectures go through loading and prediction without special code."""

import numpy as np
import pytest
import torch
from conftest import MASKED, TINY, TINY_LAYERS, TINY_NEURONS

from knlib.errors import InputError
from knlib.models import Model, find_blocks, load_model
from knlib.prediction import predict

ALL = pytest.mark.parametrize("name", TINY)


@ALL
def test_kind_layers_and_neurons(tiny_model, name):
    model = tiny_model(name)
    assert model.kind == ("masked" if name in MASKED else "causal")
    # BLOOM alone has no width of its own for the FFN: always four times the model's
    assert (model.n_layers, model.n_neurons) == (TINY_LAYERS, 128 if name == "bloom" else TINY_NEURONS)
    assert not model.network.training and not any(p.requires_grad for p in model.network.parameters())
    assert next(model.network.parameters()).dtype == torch.float32


@ALL
def test_down_projections_receive_neurons_and_give_the_residual_width(tiny_model, name):
    model, seen = tiny_model(name), []
    handles = [
        p.register_forward_hook(lambda m, i, o: seen.append((i[0].shape, o.shape))) for p in model.down_projections
    ]
    model.network(input_ids=torch.tensor([[1, 20, 30]]))
    for handle in handles:
        handle.remove()
    assert seen == [((1, 3, model.n_neurons), (1, 3, 32))] * TINY_LAYERS


@ALL
def test_logits_at_equals_the_plain_forward_there(tiny_model, name):
    model = tiny_model(name)
    ids = torch.tensor([[1, 50, 60, 70, 80], [1, 90, 100, 0, 0]])
    attention = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    rows, columns = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 4, 0, 2])
    with torch.no_grad():
        found = model.logits_at(ids, attention, rows, columns)
        long = model.network(input_ids=ids[:1]).logits[0]
        short = model.network(input_ids=ids[1:, :3]).logits[0]  # without its padding
    wanted = torch.stack([long[1], long[4], short[0], short[2]])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.01


@ALL
def test_prediction_runs(tiny_model, some_queries, facts, name):
    queries = some_queries.iloc[::6]
    found = predict(tiny_model(name), queries, facts)
    assert found["query"].tolist() == queries["query"].tolist()
    assert (found["p_prediction"] >= found["p_answer"]).all() and (found["p_answer"] > 0).all()
    assert (found["correct"] == (found["prediction"].to_numpy() == queries["answer"].to_numpy())).all()


@ALL
def test_the_folder_keeps_its_tokenizer(tiny_model, tokenizer, name):
    """No class that transformers may guess from the architecture's name changes how a text is cut."""
    model, text = tiny_model(name), "As every pupil knows: パリ — 수도 Ürümqi 42."
    assert model.pieces(text) == tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert model.specials == ([bos], [eos] if name in MASKED else [])


def test_hash_follows_the_weights(tiny_model, tiny_folder):
    model = tiny_model("gpt2")
    again = load_model(tiny_folder("gpt2"), device="cpu")
    assert model.hash == again.hash and len(model.hash) == 16
    changed = load_model(tiny_folder("gpt2"), device="cpu")
    changed.network.transformer.h[1].mlp.c_proj.bias[3] += 1e-3
    assert changed.hash != model.hash


def test_hooks_are_removed_also_after_an_exception(tiny_model):
    model, calls = tiny_model("llama"), []
    with pytest.raises(RuntimeError), model.hooks((model.layers[0], lambda *_: calls.append(1))):
        model.network(input_ids=torch.tensor([[1, 5]]))
        raise RuntimeError
    model.network(input_ids=torch.tensor([[1, 5]]))
    assert calls == [1]


def test_logits_at_leaves_no_hook_behind(tiny_model):
    model = tiny_model("bert")
    ids = torch.tensor([[1, 5, 6]])
    with pytest.raises(IndexError):
        model.logits_at(ids, torch.ones_like(ids), torch.tensor([0]), torch.tensor([9]))
    assert model.network(input_ids=ids).logits.shape[:2] == (1, 3)


def test_what_is_asked_is_known_during_the_call_only(tiny_model):
    model, seen = tiny_model("gpt2"), []
    ids = torch.tensor([[1, 5, 6]])
    with model.hooks((model.layers[0], lambda *_: seen.append(model.asked))):
        model.logits_at(ids, torch.ones_like(ids), [0, 0], [1, 2])
        assert model.asked is None
        with pytest.raises(IndexError):
            model.logits_at(ids, torch.ones_like(ids), torch.tensor([0]), torch.tensor([9]))
        assert model.asked is None
        model.network(input_ids=ids)
    assert seen[0] == ([0, 0], [1, 2]) and seen[1][1].tolist() == [9] and seen[2] is None


def test_continuation_is_what_follows_in_one_text(tiny_model):
    model = tiny_model("gpt2")
    for tail, text in (("The capital is", " Paris"), ("首都是", "巴黎"), ("수도는", " 리마"), ("x:", " 3 4")):
        assert model.pieces(tail) + model.continuation(tail, text) == model.pieces(tail + text)


def test_continuation_falls_back_where_a_token_straddles_the_border(tiny_model):
    model = tiny_model("gpt2")
    whole, part = model.pieces("Paris"), model.pieces("aris")
    assert len(whole) < 1 + len(part)  # one piece covers the border of "P" and "aris"
    assert model.continuation("P", "aris") == part


def test_a_network_without_ffn_layers_is_named(tiny_model):
    network = tiny_model("gpt2").network
    assert find_blocks(network)[1] == tiny_model("gpt2").down_projections or len(find_blocks(network)[1]) == TINY_LAYERS
    bare = torch.nn.Module()
    bare.config = network.config
    with pytest.raises(
        InputError, match="architecture Module: found lists of layers: none, expected a list of 3 layers"
    ):
        find_blocks(bare)


def test_models_compare_by_identity(tiny_folder):
    a, b = (load_model(tiny_folder("gpt2"), device="cpu") for _ in range(2))
    assert isinstance(a, Model) and a != b and np.array_equal(a.pieces("Lima"), b.pieces("Lima"))
