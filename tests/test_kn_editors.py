"""KN and CAS as editors: whose neurons, how many, and that the edit is that of `value_edit`."""

import edit_tables
import numpy as np
import pytest
from tiny_models import KeepFloat64, tiny_model

from knlib.attribution import attribute
from knlib.editing import value_edit
from knlib.editing.knowledge_neurons import cas, kn
from knlib.errors import InputError
from knlib.localization import localize, with_entropy


@pytest.fixture(autouse=True)
def float64():
    with KeepFloat64():
        yield


FACTS, LOCATING = edit_tables.facts(), edit_tables.queries("locate", "held0", new=False)
REQUESTS = edit_tables.queries("request").assign(edit=lambda table: "edit of " + table["fact"])
TWO = REQUESTS[REQUESTS["fact"].isin(["r:B", "r:C"])]


def down(model):
    return [projection.weight.clone() for projection in model.down_projections]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(("find", "localizer", "options"), [(kn, "kn_share", {}), (cas, "cas", {"t": 1e-6})])
def test_the_edit_is_that_of_the_best_neurons_of_the_localizer(kind, find, localizer, options):
    model = tiny_model(kind)
    change = find(model, TWO, locating=LOCATING, facts=FACTS, m=3)
    own = LOCATING[LOCATING["fact"].isin(TWO["fact"])]
    table = localize(localizer, attribute(model, own), with_entropy(model, own, FACTS), resamples=0,
                     min_languages=1, min_families=1, **options)  # fmt: skip
    table = table[(table["scope"] == "all") == (find is cas)].sort_values("score", ascending=False, kind="stable")
    best = table.drop_duplicates(["fact", "layer", "neuron"]).groupby("fact").head(3)
    assert len(best)
    assert change.report["neurons"] == {f"edit of {fact}": (best["fact"] == fact).sum() for fact in ("r:B", "r:C")}
    with change.applied(model):
        found = down(model)
    with value_edit(model, TWO, best):
        expected = down(model)
    assert all(np.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))
    assert any(not a.equal(b) for a, b in zip(found, down(model), strict=True))


def test_an_edit_without_queries_to_locate_with_is_named():
    with pytest.raises(InputError, match="locating, edit edit of r:C: found no query of r:C"):
        kn(tiny_model("gpt2"), TWO, locating=LOCATING[LOCATING["fact"] == "r:B"], facts=FACTS)


def test_a_fact_without_neurons_has_no_part():
    model = tiny_model("gpt2")
    change = kn(model, TWO, locating=LOCATING, facts=FACTS, m=0)
    assert change.edits == [] and change.report["neurons"] == {"edit of r:B": 0, "edit of r:C": 0}
    before = down(model)
    with change.applied(model):
        assert all(a.equal(b) for a, b in zip(before, down(model), strict=True))


def test_other_facts_and_languages_do_not_count():
    model = tiny_model("gpt2")
    english = TWO[TWO["language"] == "en"]
    few = cas(model, english, locating=LOCATING[LOCATING["language"] == "en"], facts=FACTS, m=3)
    all_of_them = cas(model, english, locating=LOCATING, facts=FACTS, m=3)
    for a, b in zip(few.parts, all_of_them.parts, strict=True):
        assert a.layer == b.layer and np.allclose(a.keys, b.keys) and np.allclose(a.outputs, b.outputs)
