"""Training chosen neurons: what is frozen stays bit for bit, what is trained learns, groups and rows by hand."""

import edit_tables
import pandas as pd
import pytest
import torch
from tiny_models import tiny_model

from knlib.errors import InputError
from knlib.injection import injection, injection_groups, trained_copy
from knlib.prediction import score_answers
from knlib.uses import answers

NEW = ["r:A", "r:B"]
TRAIN = edit_tables.queries("request", "locate", languages=("en",)).query("fact in @NEW")
LOCATED = edit_tables.queries("locate").query("fact not in @NEW")
HELD_OUT = edit_tables.queries("held0")
RETAINED = edit_tables.queries("held1", new=False).query("fact not in @NEW")
PAIRS = [(0, 3), (1, 7), (2, 11)]
ARMS = {"LAKN": pd.DataFrame(PAIRS, columns=["layer", "neuron"]),
        "KN source": pd.DataFrame([(2, 5), (2, 6)], columns=["layer", "neuron"])}  # fmt: skip


def groups():
    return injection_groups(TRAIN, LOCATED, HELD_OUT, RETAINED)


def mean_loss(model):
    return -score_answers(model, TRAIN["prompt"], TRAIN["space"], TRAIN["new"], TRAIN["suffix"]).mean()


@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi3", "bert", "opt"])
def test_frozen_entries_are_bit_equal_after_ten_steps_with_decay(kind):
    model = tiny_model(kind, dtype=torch.float32)
    before = {name: w.clone() for name, w in model.network.state_dict().items()}
    entries = model.neuron_entries(PAIRS)
    trained, losses = trained_copy(model, TRAIN, entries, steps=10, lr=1e-2, weight_decay=0.5)
    assert all(w.equal(before[name]) for name, w in model.network.state_dict().items())
    parameters = dict(trained.network.named_parameters())
    for name, parameter in parameters.items():
        mask = entries.get(name, torch.zeros_like(parameter, dtype=torch.bool))
        assert parameter[~mask].equal(before[name][~mask]), name
        assert (parameter[mask] != before[name][mask]).float().mean() > 0.5 if mask.any() else True, name
    assert len(losses) == 11 and losses[-1] < losses[0]
    assert not any(p.requires_grad for p in parameters.values()) and not trained.network.training


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_losses_are_those_of_the_new_answers(kind):
    model = tiny_model(kind)
    trained, losses = trained_copy(model, TRAIN, model.neuron_entries(PAIRS), steps=3, lr=1e-2)
    assert losses[0] == pytest.approx(mean_loss(model), rel=1e-5)
    assert losses[-1] == pytest.approx(mean_loss(trained), rel=1e-5)


def test_all_parameters_trained_is_plain_adamw():
    """All masks true: the same weights as a loop without masks, one step a batch, decay and all."""
    model, other = tiny_model("gpt2"), tiny_model("gpt2")
    entries = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.network.named_parameters()}
    trained, _ = trained_copy(model, TRAIN, entries, steps=2, lr=1e-2, weight_decay=0.1)
    other.network.requires_grad_()
    optimizer = torch.optim.AdamW(other.network.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(2):
        total = 0
        for row in TRAIN.itertuples():
            ids = [*other.specials[0], *other.pieces(row.prompt)]
            answer = list(other.continuation(row.prompt[-4:], row.space + row.new))
            logits = other.network(input_ids=torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
            total = total - logits.log_softmax(-1)[range(len(answer)), answer].sum()
        optimizer.zero_grad()
        (total / len(TRAIN)).backward()
        optimizer.step()
    theirs = dict(other.network.named_parameters())
    for name, parameter in trained.network.named_parameters():
        assert torch.allclose(parameter, theirs[name], atol=1e-6), name


def test_training_stops_at_the_loss_asked_for():
    model = tiny_model("gpt2")
    entries = model.neuron_entries(PAIRS)
    _, losses = trained_copy(model, TRAIN, entries, steps=10, lr=1e-2)
    until = (losses[3] + losses[4]) / 2
    trained, stopped = trained_copy(model, TRAIN, entries, steps=10, lr=1e-2, until=until)
    assert stopped == losses[:5] and stopped[-1] == pytest.approx(mean_loss(trained), rel=1e-5)


def test_bad_numbers_and_entries_are_named():
    model = tiny_model("gpt2")
    entries = model.neuron_entries(PAIRS)
    for options, message in (({"steps": 0, "lr": 1.0}, "steps: found 0"), ({"steps": 1, "lr": -1.0}, "lr: found -1.0")):
        with pytest.raises(InputError, match=message):
            trained_copy(model, TRAIN, entries, **options)
    with pytest.raises(InputError, match=r"entries: found 'lm_head\.bias'"):
        trained_copy(model, TRAIN, {"lm_head.bias": torch.ones(1, dtype=torch.bool)}, steps=1, lr=1.0)
    with pytest.raises(InputError, match="entries: found nothing to train"):
        trained_copy(model, TRAIN, {}, steps=1, lr=1.0)


def test_groups_are_new_transfer_spelled_alike_and_retained():
    table = groups()
    assert set(table.loc[table["group"] == "new", "language"]) == {"en"}
    own = table[table["group"] != "retention"]
    assert set(own["fact"]) == set(NEW) and set(table.loc[table["group"] == "retention", "fact"]) == {"r:C", "r:D"}
    alike = {"r:A", *TRAIN.loc[TRAIN["new"] == "pe", "fact"]}
    assert set(table.loc[table["group"] == "same_string", "fact"]) == alike
    kept = table[table["group"] == "retention"]
    assert (kept["new"] == kept["answer"]).all() and (own["new"] != own["answer"]).all()
    assert (table["owner"] == table["fact"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": edit_tables.queries("request")}, "train: found languages en ja, expected one language"),
        ({"held_out": edit_tables.queries("locate")}, "expected templates that were not used to locate or train"),
        ({"located": HELD_OUT}, "expected templates that were not used"),
        ({"retained": edit_tables.queries("held1", new=False)}, "retained: found 'r:A', expected facts"),
        ({"train": TRAIN.drop(columns="new")}, "train: found"),
    ],
)
def test_what_would_test_what_was_trained_is_refused(change, message):
    given = {"train": TRAIN, "located": LOCATED, "held_out": HELD_OUT, "retained": RETAINED} | change
    with pytest.raises(InputError, match=message):
        injection_groups(**given)


def test_every_arm_is_a_copy_trained_alike_and_asked_everything():
    model, facts, table = tiny_model("gpt2"), edit_tables.facts(), groups()
    found = injection(model, TRAIN, table, ARMS, facts, steps=8, lr=2e-2, lr_all=5e-3, draws=2)
    assert len(found) == len(table) * (2 * 3 + 2)
    assert list(dict.fromkeys(found["arm"])) == ["LAKN", "KN source", "all FFN", "full"]
    sizes = found.groupby(["arm", "condition"])["parameters"].agg(set).to_dict()
    everything = sum(p.numel() for p in model.network.parameters())
    assert sizes == {("LAKN", "neurons"): {99}, ("LAKN", "control"): {99}, ("KN source", "neurons"): {66},
                     ("KN source", "control"): {66}, ("all FFN", "neurons"): {3 * 24 * 33},
                     ("full", "neurons"): {everything}}  # fmt: skip
    trained, losses = trained_copy(model, TRAIN, model.neuron_entries(PAIRS), steps=8, lr=2e-2)
    own = found[(found["arm"] == "LAKN") & (found["condition"] == "neurons")]
    expected = answers(trained, table, facts)
    assert own["p_new_after"].to_numpy() == pytest.approx(expected["p_new"].to_numpy(), rel=1e-5)
    assert own["score"].tolist() == expected["success"].astype(float).tolist() and set(own["loss"]) == {losses[-1]}
    assert (found["gain"] * found["parameters"] / 1000 + found["success_before"]).to_numpy() == pytest.approx(
        found["score"].to_numpy())  # fmt: skip
    after = found[found["arm"] == "full"].set_index("group")["p_new_after"]
    before = found[found["arm"] == "full"].set_index("group")["p_new_before"]
    assert (after["new"] > before["new"]).all()
    with pytest.raises(InputError, match="arm LAKN: found no row"):
        injection(model, TRAIN, table, {"LAKN": ARMS["LAKN"].head(0)}, facts)
    again = injection(model, TRAIN, table, ARMS, facts, steps=8, lr=2e-2, lr_all=5e-3, draws=2)
    pd.testing.assert_frame_equal(found, again)
