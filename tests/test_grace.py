"""GRACE: new answers get probable, and near keys share a radius or split the gap between them."""

import pandas as pd
import pytest
import torch
from edit_requests import ONE, REQUESTS
from grace_edits import PROMPTS, STRANGE, change_of, equal, last, logits
from tiny_models import KeepFloat64, tiny_model

from knlib.editing.codebook_change import first_hits
from knlib.editing.grace import codebook
from knlib.errors import InputError
from knlib.prediction import answer_tokens, score_answers

EN = REQUESTS[REQUESTS["language"] == "en"]


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


def log_p(model, rows):
    return score_answers(model, rows["prompt"], rows["space"], rows["new"], rows["suffix"])


def distance(model):
    """Between the keys of the two English requests."""
    one, other = (last(model, prompt)[0] for prompt in EN["prompt"])
    return float((one - other).norm())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt"])
def test_the_new_answers_get_probable_and_the_report_says_how(kind):
    model = tiny_model(kind)
    before, change = log_p(model, REQUESTS), change_of(model, lr=0.3, steps=20)
    with change.applied(model):
        after = log_p(model, REQUESTS)
    assert (after > before + 0.5).all() and change.report["missed"] == []
    for entry, row, score in zip(change.report["values"], REQUESTS.itertuples(), after, strict=True):
        assert (entry["edit"], entry["language"]) == (row.edit, row.language) and entry["steps"] == 20
        tokens = len(answer_tokens(model, row.prompt, row.space, row.new))
        assert entry["loss"] == pytest.approx(-score / tokens, rel=1e-4)


def test_the_codebook_widens_and_splits():
    keys = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.5], [0.0, -2.0], [0.1, 0.0], [9.0, 4.0], [0.0, -2.0]])
    served, radii, counts = codebook(keys, list("aaabaxc"), 1.0)
    # The second is far from the first, the third widens it to 1.515, the fourth splits the gap, the fifth is within.
    # The last has the fourth's key, and another answer: neither can be told by a distance.
    assert served == [[0, 2, 4], [1], [3], [5], [6]]
    assert radii.tolist() == pytest.approx([1.0, 1.0, 0.0, 1.0, 0.0]) and counts == {"widened": 1, "split": 2}
    assert not first_hits(keys[None, 3:4], None, keys[[0, 1, 3, 5, 6]], radii)[0].any()


def test_near_keys_with_the_same_answer_share_the_first_one():
    model = tiny_model("llama")
    far = distance(model)
    change = change_of(model, EN.assign(new="mota"), eps=0.6 * far)
    assert change.owners == ((("A", "en"), ("B", "en")),) and change.edits == ["A", "B"]
    assert change.radii.item() == pytest.approx(1.01 * far)
    report = change.report
    assert (report["widened"], report["split"], report["missed"], len(report["values"])) == (1, 0, [], 1)
    before = logits(model, EN["prompt"])
    for own in (change, change.without("A"), change.without("B")):  # the key stays for the other one
        with own.applied(model):
            assert not any(equal(logits(model, EN["prompt"]), before))
    assert change.without("A").edits == ["B"] and change.without("A").without("B").edits == []


def test_near_keys_with_other_answers_split_the_gap():
    model = tiny_model("llama")
    far, before = distance(model), log_p(model, EN)
    change = change_of(model, EN, eps=0.6 * far, lr=0.3)
    assert change.owners == ((("A", "en"),), (("B", "en"),)) and change.report["missed"] == []
    assert change.radii.tolist() == pytest.approx([far / 2, far / 2]) and change.report["split"] == 1
    with change.applied(model):
        assert (log_p(model, EN) > before).all()
    # Of a split key's radius nothing comes back.
    assert change.without("A").radii.tolist() == pytest.approx([far / 2])
    # Too far from each other: as they are.
    assert change_of(model, EN, eps=0.4 * far).radii.tolist() == pytest.approx([0.4 * far] * 2)


def test_requests_that_a_later_split_cuts_off_are_reported():
    model = tiny_model("llama")
    twice = EN.assign(new="mota")
    third = EN.tail(1).assign(edit="C", fact="r:C", new="ki")
    change = change_of(model, pd.concat([twice, third]), eps=distance(model))
    assert change.report["missed"] == [{"edit": "B", "language": "en"}] and change.report["split"] == 1


def test_deterministic_and_in_the_models_precision():
    model = tiny_model("llama", dtype=torch.bfloat16)
    first, second = change_of(model), change_of(model)
    assert first.values.equal(second.values) and first.report == second.report and first.values.isfinite().all()
    before = logits(model, PROMPTS)
    with first.applied(model):
        assert not any(equal(logits(model, PROMPTS), before)) and logits(model, STRANGE)[0].dtype == torch.bfloat16


def test_bad_input_is_named():
    model = tiny_model("gpt2")
    with pytest.raises(InputError, match=r"eps: found 0\.0, expected a distance above 0"):
        change_of(model, eps=0.0)
    with pytest.raises(InputError, match="layer: found 3, expected a number from 0 to 2"):
        change_of(model, layer=3)
    with pytest.raises(InputError, match="found a masked model, expected a causal one"):
        change_of(tiny_model("bert"))
    for other in ({"n_embd": 12}, {"n_layer": 1}):
        with (
            pytest.raises(InputError, match="codebook: found layer 1, width 16, expected one for"),
            change_of(model, ONE, steps=0).applied(tiny_model("gpt2", **other)),
        ):
            pass
