"""Edits of a fact through down-projection columns: what is written, and that no bit stays behind."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.neurons import add_to_columns
from knlib.errors import InputError
from knlib.heads import final_gain
from knlib.query_localization.edit_metrics import EditTest
from knlib.query_localization.fine_tuning import fine_tuned
from knlib.query_localization.weight_edits import answer_embeddings, erase, update

PAIRS = [(0, 3), (1, 7), (2, 11)]
# 'mola' and 'morito' begin with the same syllable: la and ri are the first that differ.
QUERY = SimpleNamespace(fact="f", prompt="bada kilo", space=" ", suffix=".", answer="mola", new="morito", aim="morito")


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def token(model, text):
    return model.tokenizer.convert_tokens_to_ids(text)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.network.state_dict().items()}


def same(model, before):
    return all(tensor.equal(before[name]) for name, tensor in model.network.state_dict().items())


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama", "bert", "roberta", "gemma2"])
def test_the_update_vector_is_the_token_s_word_embedding(kind):
    """Not its position's, which older code took for GPT-2 and BERT."""
    model = tiny_model(kind)
    rows = model.network.get_input_embeddings().weight
    assert rows.shape[0] == len(model.tokenizer)
    old, new = rows[token(model, "la")], rows[token(model, "ri")]
    before = model.column(1, 7).clone()
    with update(model, PAIRS, QUERY, mode="paper"):
        change = model.column(1, 7) - before
    assert torch.allclose(change, -2 * old + 2 * new, atol=1e-12)
    with update(model, PAIRS, QUERY, mode="paper", strength=(0.0, 3.0)):
        assert torch.allclose(model.column(1, 7) - before, 3 * new, atol=1e-12)


def test_ours_is_in_units_of_the_column_s_norm():
    model = tiny_model("gpt2")
    rows = model.network.get_input_embeddings().weight
    old, new = rows[token(model, "la")], rows[token(model, "ri")]
    before = {pair: model.column(*pair).clone() for pair in PAIRS}
    with update(model, PAIRS, QUERY):
        for pair, column in before.items():
            expected = column + column.norm() * (8 * new / new.norm() - old / old.norm())
            assert torch.allclose(model.column(*pair), expected, atol=1e-12)
        assert model.column(1, 6).equal(model.column(1, 6).clone())
    # Another scale of the embedding is another edit by the paper's rule, and the same by ours.
    changes = {}
    for scale in (1, 10):
        rows.data.mul_(scale)
        for mode in ("ours", "paper"):
            with update(model, PAIRS, QUERY, mode=mode):
                changes[mode, scale] = model.column(1, 7) - before[1, 7]
    assert torch.allclose(changes["ours", 1], changes["ours", 10], atol=1e-10)
    assert torch.allclose(10 * changes["paper", 1], changes["paper", 10], atol=1e-10)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma", "opt", "eurobert"])
def test_unembed_is_the_output_row_times_the_final_norm_s_gain(kind):
    """In the direction of E(token) the token's logit rises as fast as its square: exact where nothing but a norm follows."""
    model = tiny_model(kind)
    gain = final_gain(model)
    norm = [
        p for name, p in model.network.named_parameters() if (p.ndim == 1 and "norm" in name) or "ln_f.weight" in name
    ]
    assert any(torch.allclose(gain, p + shift, atol=1e-6) for p in norm if p.shape == gain.shape for shift in (0, 1))
    old, new = answer_embeddings(model, QUERY, embedding="unembed")
    rows = model.network.get_output_embeddings().weight
    assert torch.allclose(new, rows[token(model, "ri")] * gain, atol=1e-12)
    assert torch.allclose(old, rows[token(model, "la")] * gain, atol=1e-12)
    if kind == "gemma":
        # Gemma stores the gain less 1; and its input embeddings are the output's.
        assert not torch.allclose(new, answer_embeddings(model, QUERY)[1], atol=1e-3)


def test_gain_is_one_without_a_norm():
    model = tiny_model("opt", do_layer_norm_before=False)
    assert final_gain(model).equal(torch.ones(16, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "modernbert", "mpnet"])
def test_a_head_with_its_own_transform_is_refused(kind):
    model = tiny_model(kind)
    with pytest.raises(InputError, match=r"head: found a transform of its own \(.*Linear.*\), expected at most a norm"):
        answer_embeddings(model, QUERY, embedding="unembed")
    assert len(answer_embeddings(model, QUERY)) == 2


def test_mean_embedding_is_over_all_tokens_of_an_answer():
    model = tiny_model("llama")
    rows = model.network.get_input_embeddings().weight
    _, new = answer_embeddings(model, QUERY, tokens="mean")
    ids = model.continuation("kilo"[-4:], " morito")
    assert len(ids) >= 3 and torch.allclose(new, rows[list(ids)].mean(0), atol=1e-12)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_weights_are_as_before_however_an_edit_ends(kind):
    model = tiny_model(kind)
    before, hash_ = weights(model), model.hash
    edits = [
        lambda: erase(model, PAIRS), lambda: update(model, PAIRS, QUERY), lambda: update(model, PAIRS, QUERY, mode="paper"),
        lambda: add_to_columns(model, {(1, 7): torch.ones(16, dtype=torch.float64)}),
        lambda: fine_tuned(model, QUERY, edit="update", steps=3),
    ]  # fmt: skip
    for edit in edits:
        with edit():
            assert not same(model, before) and model.hash != hash_
        assert same(model, before) and model.hash == hash_
        with pytest.raises(KeyError), edit():
            raise KeyError
        assert same(model, before)
        assert not any(parameter.requires_grad for parameter in model.network.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.network.modules())
    with erase(model, PAIRS):
        assert not model.column(1, 7).any() and model.column(1, 8).any()


@pytest.mark.parametrize("kind", ["gpt2", "eurobert"])
def test_fine_tuning_stops_where_the_answer_wins_or_loses(kind):
    model = tiny_model(kind)
    own = pd.DataFrame([{**vars(QUERY), "aim": "ri", "part": "reliability"}])
    neighbour = own.assign(prompt="nupe", near=True)
    test = EditTest(model, own, neighbour, ["bada kilo ri."])
    row = next(own.itertuples())
    assert test.ask().margin[0] < 0
    with fine_tuned(model, row, edit="update", steps=100, ahead=0.1):
        assert test.ask().margin[0] >= 0.1
        with fine_tuned(model, row, edit="erase", steps=100, ahead=0.1):
            assert test.ask().margin[0] <= -0.1
        assert test.ask().margin[0] >= 0.1
        fresh = tiny_model(kind).down_projections
        for number, projection in enumerate(model.down_projections):
            assert fresh[number].weight.equal(projection.weight) == (number != model.n_layers // 2)


def test_neurons_are_counted_where_the_ffn_is_not_four_times_as_wide():
    for kind, options in (
        ("gpt2", {"n_inner": 56}),
        ("llama", {"intermediate_size": 56}),
        ("bert", {"intermediate_size": 56}),
    ):
        model = tiny_model(kind, **options)
        assert model.n_neurons == 56 == 3.5 * 16
        before = weights(model)
        with update(model, [(2, 55)], QUERY):
            changed = [name for name, tensor in model.network.state_dict().items() if not tensor.equal(before[name])]
            assert len(changed) == 1
        with pytest.raises(InputError, match="neuron below 56"), erase(model, [(2, 56)]):
            pass


def test_bad_input_is_named():
    model = tiny_model("gpt2")
    cases = [
        ({"mode": "theirs"}, "mode: found 'theirs', expected ours or paper"),
        ({"embedding": "wpe"}, "embedding: found 'wpe', expected input or unembed"),
        ({"tokens": "last"}, "tokens: found 'last', expected first or mean"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message), update(model, PAIRS, QUERY, **options):
            pass
    alike = SimpleNamespace(**{**vars(QUERY), "new": "molari"})
    with pytest.raises(InputError, match="fact f: found 'mola' -> 'molari'"), update(model, PAIRS, alike):
        pass
    narrow = tiny_model("electra", embedding_size=8)
    with pytest.raises(InputError, match="input embedding: found rows of 8 numbers, expected 16"):
        answer_embeddings(narrow, QUERY)
    with pytest.raises(InputError, match="layer: found 9"), fine_tuned(model, QUERY, edit="erase", layer=9):
        pass
    with pytest.raises(InputError, match="edit: found 'enhance'"), fine_tuned(model, QUERY, edit="enhance"):
        pass
