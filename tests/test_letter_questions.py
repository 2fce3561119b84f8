"""What the multiple-choice questions promise (spec tests 13, 14), and how models are loaded (R3)."""

import pytest
import torch
from scipy.stats import binom
from tiny_models import tiny_model

from knlib import models
from knlib.models import load_model
from knlib.multiple_choice import LETTERS, OptionDrawer, clash

# One object is gold for most of the facts: four distinct options cannot hide which.
LOPSIDED = {"script", "language"}


@pytest.fixture(scope="module")
def drawn(facts):
    """(fact, the four options' objects by id, their names) of every fact that has options."""
    drawer = OptionDrawer(facts)
    ids = {id(row.object): row.object_id for row in facts.itertuples()}
    orders = [(row, drawer.base_order(row.fact, "en/0")) for row in facts.itertuples()]
    return [(row, [ids[id(names)] for names in order], order) for row, order in orders if order is not None]


def test_distractors_are_of_the_relation_untrue_distinct_and_uncontained(facts, drawn):
    """Spec test 13."""
    objects = facts.groupby("relation")["object_id"].agg(set)
    true = facts.groupby(["relation", "subject_id"])["object_id"].agg(set)
    for row, ids, names in drawn:
        assert set(ids) <= objects[row.relation] and len(set(ids)) == 4
        assert set(ids) & true[row.relation, row.subject_id] == {row.object_id}, row.fact
        assert not any(clash(a, b) for i, a in enumerate(names) for b in names[:i]), row.fact
    assert len(drawn) > 1000


def rate(facts, drawn, relation):
    """How often the option that is gold most often in the relation is this fact's, and of how many facts."""
    counts = facts.loc[facts["relation"] == relation, "object_id"].value_counts()
    hits = []
    for row, ids, _ in drawn:
        if row.relation == relation:
            best = [i for i in ids if counts[i] == max(counts[j] for j in ids)]
            hits.append((row.object_id in best) / len(best))
    return sum(hits), len(hits)


def test_options_alone_do_not_tell_the_answer(facts, drawn):
    """Spec test 14, for whoever knows which objects are frequent; what a model does with them its card says."""
    for relation in set(facts["relation"]) - LOPSIDED:
        right, total = rate(facts, drawn, relation)
        low, high = binom.interval(0.99, total, 1 / len(LETTERS))
        assert low <= right <= high, relation
    # If this fails, the exception can go.
    right, total = rate(facts, drawn, "script")
    assert right > binom.interval(0.99, total, 0.25)[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_is_loaded_once_in_the_type_asked_for(tmp_path, monkeypatch, dtype):
    """R3."""
    model = tiny_model("llama", dtype=torch.float32)
    model.network.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    loads, plain = [], models.AutoModelForCausalLM.from_pretrained

    def counted(*args, **options):
        loads.append(options["dtype"])
        return plain(*args, **options)

    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", counted)
    found = load_model(tmp_path, dtype=dtype)
    assert loads == [dtype] and {p.dtype for p in found.network.parameters()} == {dtype}
