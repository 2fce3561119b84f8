"""AlphaEdit writes in its null space alone, as its formula says, and remembers within a call only."""

import pytest
import torch
from edit_requests import ENDS, ONE, REQUESTS, TEXTS, as_linear, naive_moment, naive_states
from tiny_models import KeepFloat64, tiny_model

from knlib.editing import ValueOptions, find_change
from knlib.editing.alphaedit import null_space, shares
from knlib.errors import InputError

TINY = [("gpt2", {}), ("gpt2", {"n_inner": 16}), ("llama", {}), ("llama", {"intermediate_size": 16})]


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def edit(model, requests=REQUESTS, **options):
    given = {"layers": [0, 1], "texts": TEXTS, "ridge": 0.1, "value": ValueOptions(steps=5)} | options
    return find_change("alphaedit", model, requests, **given)


def update(change, layer):
    return sum(part.outputs @ part.keys.T for part in change.parts if part.layer == layer)


def projection(model, layer, share=0.7):
    """P, from the moment that is computed token by token."""
    values, directions = torch.linalg.eigh(naive_moment(model, layer, 0.0))
    least = directions[:, values.argsort()[: round(share * len(values))]]
    return least @ least.T


@pytest.mark.parametrize("kind, options", TINY)
def test_nothing_is_written_outside_the_null_space(kind, options):
    model = tiny_model(kind, **options)
    change = edit(model, batch=1)
    for layer in (0, 1):
        found, outside = update(change, layer), torch.eye(model.n_neurons) - projection(model, layer)
        assert found.norm() > 1e-2 and (found @ outside).norm() < 1e-9 * found.norm()
    # Keys of the texts' strongest direction are left as they are, and would not be by MEMIT.
    top = torch.linalg.eigh(naive_moment(model, 1, 0.0))[1][:, -1]
    assert (update(change, 1) @ top).norm() < 1e-9
    assert (update(find_change("memit", model, REQUESTS, layers=[0, 1], texts=TEXTS, lam=0.1), 1) @ top).norm() > 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_equal_to_the_formula(kind):
    """D = R K^T P (cache P + K K^T P + l2 I)^-1 in the first layer of every batch, with keys as they are then."""
    model = tiny_model(kind)
    change, P = edit(model, batch=1), projection(model, 0)
    cache, identity = torch.zeros_like(P), torch.eye(len(P))
    for name in "AB":
        rows = REQUESTS[REQUESTS["edit"] == name]
        places = [(row.prompt, ENDS[name][row.language]) for row in rows.itertuples()]
        # The keys of the lowest layer are no edit's.
        keys = torch.stack([naive_states(model, *place, 0)[0] for place in places]).T
        part = next(part for part in change.parts if part.edit == name and part.layer == 0)
        expected = part.outputs @ keys.T @ P @ torch.linalg.inv(cache @ P + keys @ keys.T @ P + 0.1 * identity)
        assert expected.norm() > 1e-3 and torch.allclose(part.outputs @ part.keys.T, expected, atol=1e-8)
        cache = cache + keys @ keys.T


def test_a_null_space_of_nothing_and_of_everything():
    model = tiny_model("llama")
    assert all(not update(edit(model, rank_share=0.0), layer).any() for layer in (0, 1))
    value = ValueOptions(steps=5)
    everything = edit(model, rank_share=1.0, ridge=0.4, value=value)
    memit = find_change("memit", model, REQUESTS, layers=[0, 1], texts=None, lam=0.4, value=value)
    for layer in (0, 1):
        assert torch.allclose(update(everything, layer), update(memit, layer), atol=1e-8)


def test_the_cache_belongs_to_the_call():
    model = tiny_model("gpt2")
    first, alone = edit(model, batch=1), edit(model, ONE, batch=1)
    edit(model, REQUESTS.tail(2))
    again, after = edit(model, batch=1), edit(model, ONE, batch=1)
    for layer in (0, 1):
        assert update(first, layer).equal(update(again, layer)) and update(alone, layer).equal(update(after, layer))


def test_later_batches_know_the_keys_of_earlier_ones():
    """The cache weakens what a later batch writes at earlier keys."""
    model = tiny_model("gpt2")
    P = projection(model, 0)
    keys = {name: torch.stack([naive_states(model, row.prompt, ENDS[name][row.language], 0)[0]
                               for row in REQUESTS[REQUESTS["edit"] == name].itertuples()]).T for name in "AB"}  # fmt: skip
    basis = null_space(naive_moment(model, 0, 0.0), 0.7)
    assert torch.allclose(basis @ basis.T, P, atol=1e-9)
    plain = shares(keys["B"], basis, torch.zeros_like(P), 0.1)
    cached = shares(keys["B"], basis, keys["A"] @ keys["A"].T, 0.1)
    assert (cached.T @ keys["A"]).norm() < 0.9 * (plain.T @ keys["A"]).norm()
    part = next(part for part in edit(model, batch=1).parts if (part.edit, part.layer) == ("B", 0))
    assert torch.allclose(part.keys, cached, atol=1e-9)


def test_null_space_by_rank_and_by_trace():
    moment = torch.diag(torch.tensor([4.0, 1.0, 0.5, 2.5], dtype=torch.float64))
    assert null_space(moment, 0.5).abs().round().sum(1).tolist() == [0, 1, 1, 0]
    assert null_space(moment, 0.7).shape == (4, 3)
    # Shares of the trace, 8, from the least up: 1/16, 3/16, 1/2, 1.
    for share, rank in ((0.0, 0), (0.06, 0), (0.0625, 1), (0.19, 2), (0.49, 2), (0.5, 3), (1.0, 4)):
        assert null_space(moment, 0.7, share).shape == (4, rank)
    assert null_space(1000 * moment, 0.7, 0.19).shape == (4, 2)
    model = tiny_model("gpt2")
    for report in (edit(model).report["null_space"], edit(model, trace_share=0.01).report["null_space"]):
        assert [entry["layer"] for entry in report] == [0, 1]
        for entry in report:
            P = projection(model, entry["layer"], entry["rank"] / 24)
            moment = naive_moment(model, entry["layer"], 0.0)
            assert entry["trace_share"] == pytest.approx(((P @ moment).trace() / moment.trace()).item(), abs=1e-9)
    assert entry["trace_share"] <= 0.01 and edit(model).report["null_space"][0]["rank"] == 17


def test_twins_get_the_same_edit():
    for options in ({}, {"n_inner": 16}):
        one, other = tiny_model("gpt2", **options), tiny_model("gpt2", **options)
        as_linear(other)
        a, b = edit(one), edit(other)
        assert all(torch.allclose(update(a, layer), update(b, layer), atol=1e-7) for layer in (0, 1))


def test_bad_input_is_named():
    model = tiny_model("gpt2")
    for options, message in (({"rank_share": 1.5}, "rank_share: found 1.5, expected a share"),
                             ({"trace_share": -0.1}, "trace_share: found -0.1"), ({"texts": None}, "texts: found None")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            edit(model, **options)
