"""The cache: no hit changes no bit, entries come and go, batches and padding do not matter, names alone are not enough."""

from dataclasses import replace

import edit_tables
import pandas as pd
import pytest
import torch
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.cache import Gate, hidden_states, plain, wording
from knlib.editing.cached_change import load_cached
from knlib.editing.gate_calibration import RelationGate
from knlib.editing.lafn import lafn
from knlib.editing.lafn_values import ShiftOptions
from knlib.editing.registry import EDITORS
from knlib.errors import InputError
from knlib.prediction import AnswerRows, score_answers
from knlib.sites import padded

TEXTS = ["kilo sipo ba pe.", "mira da lati nupe.", "tebu dago fuli repo moki."]
OPTIONS = {"layers": [0, 1], "texts": TEXTS, "value": ShiftOptions(steps=4)}


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def turned(table):
    """Prompts that end in their relation, so that random weights tell relations apart: `nupe da r`."""
    words = table["prompt"].str.split()
    return table.assign(prompt=words.str[0] + " " + words.str[2] + " " + words.str[1])


def requests(*facts, template="request"):
    table = turned(edit_tables.queries(template))
    return table[table["fact"].isin(facts)].assign(edit="edit " + table["fact"])


def asked(relation):
    return turned(edit_tables.queries("request", "held0", "held1", relation=relation, new=False))


OTHERS = asked("s")  # the same subjects, another relation


def gate_of(model):
    found = RelationGate.calibrated(model, pd.concat([asked("r"), OTHERS]), layer=1)
    return replace(
        found, thresholds={"en": 0.0, "ja": 0.0}
    )  # what three templates of random weights calibrate is chance


def change_of(model, *facts, **options):
    return lafn(model, requests(*facts), **OPTIONS | {"gate": gate_of(model)} | options)


def logits(model, prompts, side="right"):
    helper = AnswerRows(model)
    ids, mask = padded([(*helper.before, *model.pieces(p)) for p in prompts], model.tokenizer.pad_token_id, side, "cpu")
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        found = model.network(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    return [row[own.bool()] for row, own in zip(found, mask, strict=True)]


OWN = requests("r:B", "r:C")["prompt"].tolist()
STRANGE = ["kilo sipo mira", *turned(edit_tables.queries("held0"))["prompt"][:2], *OTHERS["prompt"]]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_prompts_of_the_edit_change_and_all_others_keep_their_bits(kind):
    model = tiny_model(kind)
    change = change_of(model, "r:B", "r:C")
    before = logits(model, OWN), logits(model, STRANGE), logits(model, STRANGE[:1] + OWN)
    weights = {name: w.clone() for name, w in model.network.state_dict().items()}
    with change.applied(model):
        own, strange, mixed = logits(model, OWN), logits(model, STRANGE), logits(model, STRANGE[:1] + OWN)
        assert all(w.equal(weights[name]) for name, w in model.network.state_dict().items())
    assert all(not a.equal(b) for a, b in zip(own, before[0], strict=True))
    assert all(a.equal(b) for a, b in zip(strange, before[1], strict=True))
    # A row does not care who is in the batch.
    assert mixed[0].equal(before[2][0]) and all(
        torch.allclose(a, b, atol=1e-12) for a, b in zip(mixed[1:], own, strict=True)
    )
    after = logits(model, OWN)
    assert all(a.equal(b) for a, b in zip(after, before[0], strict=True))
    assert not any(d._forward_pre_hooks for d in model.down_projections) and not model.base._forward_pre_hooks


def test_the_same_subject_in_another_relation_is_let_in_by_name_alone():
    model = tiny_model("gpt2")
    before = logits(model, OTHERS["prompt"])
    gated = change_of(model, "r:B")
    with replace(gated, semantic=False).applied(model):
        by_name = logits(model, OTHERS["prompt"])
    named = OTHERS["fact"].eq("s:B").tolist()
    assert [not a.equal(b) for a, b in zip(by_name, before, strict=True)] == named
    with gated.applied(model):
        assert all(a.equal(b) for a, b in zip(logits(model, OTHERS["prompt"]), before, strict=True))


def test_padding_on_either_side_is_the_same():
    model = tiny_model("llama")
    with change_of(model, "r:B", "r:C").applied(model):
        right, left = (logits(model, [*OWN, "kilo sipo mira da lati nupe"], side) for side in ("right", "left"))
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(right, left, strict=True))


def test_what_was_added_before_a_cache_is_not_added_again():
    model = tiny_model("gpt2")
    start = torch.tensor([[*AnswerRows(model).before, *model.pieces(OWN[0])]])
    ids = torch.cat([start, torch.tensor([model.pieces(" pe")])], dim=1)
    asked = list(range(start.shape[1] - 1, ids.shape[1]))
    with change_of(model, "r:B").applied(model), torch.no_grad():
        whole = model.logits_at(ids, torch.ones_like(ids), [0] * len(asked), asked)
        first = model.network(input_ids=start, use_cache=True)
        rest = model.network(input_ids=ids[:, start.shape[1] :], past_key_values=first.past_key_values, use_cache=True)
    assert torch.allclose(torch.cat([first.logits[0, -1:], rest.logits[0]]), whole, atol=1e-10)
    assert not whole[:1].allclose(logits(model, OWN[:1])[0][-1:])


@pytest.mark.parametrize("answer", [" pe", " lati", " fa da", " mota ki pe"])
def test_a_row_with_its_answer_is_decided_where_the_prompt_ends(answer):
    # Also where the answer names a subject itself.
    model = tiny_model("gpt2")
    prompts = [*OWN, OTHERS["prompt"].iloc[3], STRANGE[0]]
    rows, columns = [], []
    for prompt in prompts:
        start, tokens = [*AnswerRows(model).before, *model.pieces(prompt)], model.continuation(prompt, answer)
        rows.append((*start, *tokens[:-1]))
        columns.append(list(range(len(start) - 1, len(start) - 1 + len(tokens))))
    ids, mask = padded(rows, model.tokenizer.pad_token_id, "right", "cpu")
    asked = [i for i, own in enumerate(columns) for _ in own], [column for own in columns for column in own]
    with change_of(model, "r:B", "r:C").applied(model), torch.no_grad():
        found = model.logits_at(ids, mask, *asked)
        bare = torch.stack([own[-1] for own in logits(model, prompts)])
    assert torch.allclose(found[:: len(columns[0])], bare, atol=1e-12)
    before = torch.stack([own[-1] for own in logits(model, prompts)])
    assert [a.equal(b) for a, b in zip(bare, before, strict=True)] == [False] * len(OWN) + [True] * 2
    with torch.no_grad():
        plainly = model.logits_at(ids, mask, *asked)
    changed = ~found.isclose(plainly, atol=1e-12).all(1)
    assert all(changed[torch.tensor(asked[0]) < len(OWN)])


def test_what_is_asked_before_the_subject_or_behind_another_question_is_not_edited():
    model = tiny_model("gpt2")
    change = change_of(model, "r:B")
    prompt = OWN[0]
    ids = torch.tensor([[*AnswerRows(model).before, *model.pieces(prompt + " pe moki")]])
    mask, end = torch.ones_like(ids), len(AnswerRows(model).before) + len(model.pieces(prompt)) - 1
    gate = Gate(model, change.entries, 1, change.thresholds, probe=change.probe)

    def hits(columns):
        return gate.hits(ids, mask, ([0] * len(columns), columns), lambda: hidden_states(model, 1, ids, mask))

    assert hits([0, 1]) == [] == hits([])
    (hit,) = hits([end + 2, end, end + 1, 0])
    assert (hit.row, hit.column, change.entries[hit.entry].edit) == (0, end - 2, "edit r:B") and hit.language == "en"
    words = wording(model, prompt, requests("r:B")["subject"].iloc[0])
    assert hit.score == float(change.probe.margin(hidden_states(model, 1, ids, mask)[0, [end]], [words], "r"))
    # Running text asks at once: where the name ends the first of the asked columns decides.
    texts = gate.named(ids[0], mask[0], list(range(ids.shape[1])))
    assert [text[:3] for text in texts] == [(end - 2, end - 2, 0)]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_states_do_not_depend_on_the_side_of_the_padding(kind):
    """Generation pads on the left: positions count from the first token all the same."""
    model = tiny_model(kind)
    rows = [(1, 9, 12, 20, 7), (1, 8, 3)]
    found = []
    for side in ("left", "right"):
        ids, mask = padded(rows, model.tokenizer.pad_token_id, side, "cpu")
        found.append([states[own.bool()] for states, own in zip(hidden_states(model, 1, ids, mask), mask, strict=True)])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*found, strict=True))


def test_without_examples_the_gate_goes_by_the_cosine_to_the_prompts():
    model = tiny_model("gpt2")
    change = lafn(model, requests("r:B"), **OPTIONS)
    assert change.probe is None and change.report["gate"] is None
    before = logits(model, [*OWN[:2], STRANGE[0]])
    with change.applied(model):
        found = logits(model, [*OWN[:2], STRANGE[0]])
    assert [a.equal(b) for a, b in zip(found, before, strict=True)] == [False, False, True]


def test_a_gate_without_examples_of_an_edit_is_refused():
    model = tiny_model("gpt2")
    table = pd.concat([asked("r"), OTHERS])
    for own, said in ((table.replace({"relation": {"r": "q"}}), "relation of edit edit r:B: found 'r'"),
                      (table[table["language"] != "ja"], "language of edit edit r:B: found 'ja'")):  # fmt: skip
        with pytest.raises(InputError, match=f"gate, {said}, expected one of its examples"):
            change_of(model, "r:B", gate=RelationGate.calibrated(model, own, layer=1))


def test_removing_restores_and_the_order_of_entries_does_not_matter():
    model = tiny_model("gpt2")
    both, one = change_of(model, "r:B", "r:C"), change_of(model, "r:B")
    assert both.edits == ["edit r:B", "edit r:C"]
    less = both.without("edit r:C")
    swapped = replace(both, entries=both.entries[::-1])
    found = []
    for change in (less, replace(one, thresholds=both.thresholds), both, swapped):
        with change.applied(model):
            found.append(logits(model, OWN))
    # Edits are sought together: alone, one is the same to rounding.
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found[0], found[1], strict=True))
    assert all(a.equal(b) for a, b in zip(found[2], found[3], strict=True)) and swapped.edits == both.edits
    with pytest.raises(InputError, match="edit: found 'nobody'"):
        both.without("nobody")


def test_the_newest_edit_of_a_fact_acts_and_the_old_one_again_when_it_is_gone():
    model = tiny_model("gpt2")
    first = requests("r:B")
    second = first.assign(edit="later", new="moki")
    change = lafn(model, pd.concat([first, second]), **OPTIONS | {"gate": gate_of(model)})
    alone = [lafn(model, own, **OPTIONS | {"gate": gate_of(model)}) for own in (first, second)]
    found = []
    for own in (change, replace(change, entries=change.entries[::-1]), alone[1], change.without("later"), alone[0]):
        with own.applied(model):
            found.append(logits(model, first["prompt"]))
    for a, b in ((0, 1), (0, 2), (3, 4)):
        assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(found[a], found[b], strict=True))
    assert not found[0][0].equal(found[3][0])


def test_saved_edits_come_back_and_other_weights_refuse_them(tmp_path):
    model = tiny_model("llama")
    change = change_of(model, "r:B", "r:C", neurons="per_language")
    change.save(tmp_path / "edits.safetensors")
    again = load_cached(tmp_path / "edits.safetensors", model)
    assert again.edits == change.edits and again.thresholds == change.thresholds and again.report == change.report
    assert again.probe.names == change.probe.names == ("r", "s") and again.probe.bias.equal(change.probe.bias)
    assert (
        again.probe.weights.equal(change.probe.weights)
        and again.probe.words.equal(change.probe.words)
        and again.without("edit r:C").probe is again.probe
    )
    assert [entry.relation for entry in again.entries] == ["r", "r"]
    found = []
    for own in (change, again):
        with own.applied(model):
            found.append(logits(model, OWN))
    assert all(a.equal(b) for a, b in zip(*found, strict=True))
    with pytest.raises(InputError, match=f"hash {model.hash}, expected one of .* with hash"):
        load_cached(tmp_path / "edits.safetensors", tiny_model("llama", seed=1))
    (tmp_path / "broken").write_bytes(b"nothing")
    with pytest.raises(InputError, match="expected a file of CachedChange"):
        load_cached(tmp_path / "broken", model)


def test_an_exception_inside_leaves_nothing_behind():
    model = tiny_model("gpt2")
    before = logits(model, OWN)
    with pytest.raises(ZeroDivisionError), change_of(model, "r:B").applied(model):
        logits(model, OWN)
        raise ZeroDivisionError
    assert all(a.equal(b) for a, b in zip(logits(model, OWN), before, strict=True))
    # The network itself may fail, too.
    with change_of(model, "r:B").applied(model):
        with pytest.raises((IndexError, RuntimeError)):
            model.network(input_ids=torch.tensor([[10**6]]))
        assert not any(d._forward_pre_hooks for d in model.down_projections)


@pytest.mark.parametrize("neurons", ["located", "random", "per_language", "union", "all"])
def test_every_choice_of_neurons_helps_the_new_answer(neurons):
    model = tiny_model("gpt2")
    own = requests("r:B")
    columns = [own[c] for c in ("prompt", "space", "new", "suffix")]
    before = score_answers(model, *columns)
    change = EDITORS["lafn"].find(model, own, neurons=neurons, **OPTIONS)
    with change.applied(model):
        assert (score_answers(model, *columns) > before).all()
    counts = {entry["language"]: entry["neurons"] for entry in change.report["values"]}
    assert set(counts) == ({"en", "ja"} if neurons == "per_language" else {"*"})


def test_controls_have_as_many_neurons_in_every_layer_and_seeds_reproduce():
    model = tiny_model("gpt2")
    found = {name: change_of(model, "r:B", neurons=name, seed=3) for name in ("located", "random", "all")}
    count = {
        name: {layer: len(neurons) for layer, (neurons, _) in change.entries[0].values["*"].items()}
        for name, change in found.items()
    }
    assert count["located"] == count["random"] and set(count["all"].values()) == {model.n_neurons}
    chosen = [change.entries[0].values["*"][0][0] for change in (found["random"], change_of(model, "r:B", neurons="random", seed=3),
                                                                change_of(model, "r:B", neurons="random", seed=4))]  # fmt: skip
    assert chosen[0] == chosen[1] != chosen[2] and not set(chosen[0]) & set(
        found["located"].entries[0].values["*"][0][0]
    )
    with pytest.raises(InputError, match="neurons: found 'some'"):
        change_of(model, "r:B", neurons="some")


def test_names_are_compared_without_accents_but_as_other_letters_where_marks_make_them():
    assert plain("SÃO Tomé") == "sao tome" and plain("Йемен") == plain("йемен")
    assert plain("ガーナ") != plain("カーナ") and plain("क़") != plain("क") and plain("مُحَمَّد") != ""
