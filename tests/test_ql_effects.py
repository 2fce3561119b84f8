"""Cells C and D: sets of equal size, changes that do what they say, mediation, and rows that no other fact touches."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import tiny_model
from torch import nn

from knlib.controls import generator
from knlib.effects import effects
from knlib.errors import InputError
from knlib.prediction import score_answers
from knlib.queries import build_queries
from knlib.query_localization import located, mapping, synapse_effects
from knlib.query_localization.intervals import Draws
from knlib.query_localization.mapping import answer_changes, mapped_sets
from knlib.query_localization.measure import Change, Measured, asked, measure
from knlib.query_localization.mediation import mediated_share, mediation_changes
from knlib.query_localization.study import Study
from knlib.query_localization.synapse_effects import value_changes

QUERY = pd.DataFrame([{"query": "f|t", "fact": "f", "relation": "r", "language": "en", "prompt": "to mi ku ra lo", "space": " ",
                       "answer": "be do", "suffix": " .", "subject": "ku ra"}])  # fmt: skip
ROW = next(QUERY.itertuples())


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.network.modules())


# --- sets -----------------------------------------------------------------------------------------------------------


def test_sets_of_neurons_by_hand():
    # One layer of six neurons, three neighbours; scores over their largest: [1 .5 .. ], ...
    own = np.array([[4.0, 2, 0, 0, 1, 0]])
    near = np.array([[[0.0, 10, 5, 0, 4, 0]], [[0.0, 1, 2, 0, 1.6, 0]], [[5.0, 1, 0, 4, 3, 0]]])
    sets = mapped_sets(own, near, size=2, share=0.5, one=2)
    assert sets["self"] == ((0, 0), (0, 1))
    assert sets["neighbour_one"] == ((0, 0), (0, 3))
    assert sets["neighbour_union"] == ((0, 0), (0, 1))  # 1 at neurons 0, 1, 2: the earlier of equal ones
    assert sets["intersection"] == ((0, 1), (0, 4))  # least: .2 at 1, .4 at 4
    assert sets["refine"] == ((0, 1), (0, 4))  # second largest of 3: .5 at 1, .5 at 2, .6 at 4


@pytest.mark.parametrize("share, rank", [(0.25, 2), (0.5, 3), (0.7, 3), (0.75, 4), (1.0, 4)])
def test_refine_ranks_of_four_neighbours(share, rank):
    draw = generator(0, "refine")
    own, near = draw.random((2, 30)), draw.random((4, 2, 30))
    found = mapped_sets(own, near, size=5, share=share, one=0)["refine"]
    scaled = np.sort(near / near.max((1, 2), keepdims=True), 0)[-rank]
    assert {scaled[pair] for pair in found} == set(np.sort(scaled, None)[-5:])


def test_all_sets_have_exactly_the_wanted_size():
    draw = generator(1, "sizes")
    own, near = draw.normal(size=(3, 20)), draw.normal(size=(4, 3, 20))
    near[:, 0, :5] = near[0, 0, :5]  # equal scores
    for size in (1, 7, 60):
        sets = mapped_sets(own, near, size=size, share=0.5, one=1)
        assert len(sets) == 5 and all(len(pairs) == len(set(pairs)) == size for pairs in sets.values())
    for wrong in ({"size": 61}, {"size": 0}, {"share": 1.5}):
        with pytest.raises(InputError, match="neighbours, share, size"):
            mapped_sets(own, near, **({"size": 3, "share": 0.5, "one": 0} | wrong))
    with pytest.raises(InputError, match="without a positive score"):
        mapped_sets(-abs(own), near, size=3, share=0.5, one=0)


# --- runs under changes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert", "eurobert"])
def test_measured_answers_are_those_of_the_engine(kind):
    model, pairs = tiny_model(kind), ((0, 3), (2, 11), (2, 12))
    tokens = asked(model, ROW)
    seen = measure(model, tokens, [Change(), Change(neurons=pairs, factor=0.0), Change(neurons=pairs, factor=1.0)])
    columns = [QUERY[c] for c in ("prompt", "space", "answer", "suffix")]
    neurons = pd.DataFrame([("f", *pair) for pair in pairs], columns=["fact", "layer", "neuron"])
    expected = effects(model, QUERY, neurons, factor=0.0, controls=())
    assert np.isclose(seen.log_p[0], score_answers(model, *columns)[0], atol=1e-6)
    assert (
        np.isclose(seen.log_p[1], expected["log_p_after"][0], atol=1e-6) and abs(seen.log_p[1] - seen.log_p[0]) > 1e-4
    )
    assert seen.log_p[2] == seen.log_p[0]
    p = np.exp(seen.log_p)
    assert np.allclose(seen.answer_log_odds, np.log(p / (1 - p)))
    # log p = the sum over tokens, each read where its prompt and the right tokens before it end.
    assert np.allclose(seen.log_p, np.log(1 / (1 + np.exp(-seen.log_odds))).sum(1))


@pytest.mark.parametrize(
    "kind", ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "gemma2", "bert", "eurobert", "modernbert"]
)
def test_twice_a_neuron_doubles_what_its_ffn_adds(kind):
    model, layer, neuron = tiny_model(kind), 1, 5
    tokens, found = asked(model, ROW), []
    row, column, _ = tokens.sites[0]
    with model.hooks(
        (model.down_projections[layer], lambda m, i, out: found.append(out.reshape(-1, tokens.length, 16)))
    ):
        seen = measure(
            model, tokens, [Change(), Change(neurons=((layer, neuron),), factor=2.0)], read=((layer, neuron),)
        )
    one, two = found[0][row, column], found[0][len(tokens.rows) + row, column]
    assert torch.allclose(two - one, seen.values[0, 0, 0] * model.column(layer, neuron), atol=1e-9)
    assert np.allclose(seen.values[1], 2 * seen.values[0]) and abs(seen.values[0]).min() > 0


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_clamping_neurons_at_their_own_values_changes_no_bit(kind):
    model, pairs = tiny_model(kind, dtype=torch.float32), ((0, 3), (1, 4), (2, 11))
    tokens = asked(model, ROW)
    factors = np.ones((3, 4, tokens.length), np.float32)
    clean = measure(model, tokens, [Change(synapses=factors), Change()], read=pairs)
    held = measure(model, tokens, [Change(synapses=factors), Change(neurons=pairs, values=clean.values[0])], read=pairs)
    assert (held.log_odds == clean.log_odds).all() and (held.values == clean.values).all()
    cut = factors.copy()
    cut[1:, :, 1:3] = 0
    both = measure(
        model, tokens, [Change(), Change(cut), Change(cut, neurons=pairs, values=clean.values[0])], read=pairs
    )
    assert (both.values[2] == clean.values[0]).all() and (both.values[1] != clean.values[0]).any()
    assert both.log_p[0] == clean.log_p[0] and len(set(both.log_p)) == 3


def test_hooks_are_removed_after_an_exception():
    model = tiny_model("gpt2")
    before, tokens = hooks_of(model), asked(model, ROW)
    wrong = Change(np.ones((3, 4, tokens.length + 1)), neurons=((0, 1),), factor=0.0)
    with pytest.raises(InputError, match="factors"):
        measure(model, tokens, [wrong], read=((1, 1),))
    assert hooks_of(model) == before
    assert np.isfinite(measure(model, tokens, [Change()]).log_p).all()


def test_flips_and_signs():
    odds = np.array([[2.0, 3.0], [1.0, -1.0], [3.0, 3.0]])
    found = answer_changes(Measured(odds, odds > 0, np.empty((3, 2, 0))))
    p = 1 / (1 + np.exp(-odds))
    assert np.allclose(found["d_log_p"], np.log(p[1:].prod(1) / p[0].prod()))
    assert found["flip"].tolist() == [1, 0]
    # Not known before: nothing to lose.
    assert answer_changes(Measured(odds[::-1], odds[::-1] > 1, np.empty((3, 2, 0))))["flip"].tolist() == [1, 0]
    assert answer_changes(Measured(odds, odds > 2, np.empty((3, 2, 0))))["flip"].tolist() == [0, 0]
    values = value_changes(np.array([[[2.0, -2.0]], [[1.0, -1.0]], [[3.0, -2.0]]]))
    assert np.allclose(values["d_value"], [0, 0.25]) and np.allclose(values["d_size"], [-0.5, 0.25])


# --- mediation ------------------------------------------------------------------------------------------------------


def one_way(*, reads: slice) -> tuple:
    """A layer whose attention writes coordinates 0-7 and whose neurons 0-11 write 8-15; the answer is read from `reads`."""
    model = tiny_model("gpt2", n_layer=1, tie_word_embeddings=False)
    block, body = model.network.transformer.h[0], model.network.transformer
    with torch.no_grad():
        block.attn.c_proj.weight[:, 8:] = 0
        block.mlp.c_proj.weight[:, :8] = 0
        block.mlp.c_proj.weight[12:] = 0
        body.ln_f = nn.Identity()
        kept = torch.zeros(16, dtype=torch.float64)
        kept[reads] = 1
        model.network.lm_head.weight *= kept
    return model, asked(model, ROW)


@pytest.mark.parametrize("reads, share", [(slice(8, 16), 1.0), (slice(0, 8), 0.0)])
def test_mediated_share_is_one_through_the_neurons_only_and_zero_around_them(reads, share):
    model, tokens = one_way(reads=reads)
    sets = {"members": tuple((0, n) for n in range(12)), "matched": tuple((0, n) for n in range(12, 24))}
    factors = np.ones((1, 4, tokens.length), np.float32)
    factors[:, :, :4] = 0.0
    read = sets["members"] + sets["matched"]
    seen = measure(model, tokens, [Change(), Change(factors)], read=read)
    clean, changed = ({"members": v[:, :12], "matched": v[:, 12:]} for v in seen.values)
    runs = mediation_changes(factors, sets, clean, changed)
    held = dict(zip(runs, measure(model, tokens, [Change(), *runs.values()]).log_p[1:] - seen.log_p[0], strict=True))
    free = seen.log_p[1] - seen.log_p[0]
    assert abs(free) > 0.05
    rows = pd.DataFrame([{"fact": f, "free": free, **held} for f in ("a", "b")])
    found = mediated_share(rows, Draws({"a": "r", "b": "r"}))
    assert np.isclose(found["share"]["estimate"], share, atol=1e-5)
    assert np.isclose(found["reverse members"]["estimate"], share, atol=1e-5)
    assert np.isclose(found["matched"]["estimate"], 0, atol=1e-5)


def test_a_share_of_nothing_is_undefined():
    rows = pd.DataFrame({"fact": ["a", "b"], "free": [0.2, -0.16], "clamped members": [0.1, 0.1], "clamped matched": 0.0,
                         "reverse members": 0.0, "reverse matched": 0.0})  # fmt: skip
    found = mediated_share(rows, Draws({"a": "r", "b": "r"}))
    assert found["share"]["estimate"] is None and found["free"]["estimate"] == pytest.approx(0.02)
    found = mediated_share(rows.assign(free=[0.2, 0.3]), Draws({"a": "r", "b": "r"}))
    assert found["members"]["estimate"] == pytest.approx(1 - 0.2 / 0.5)
    assert found["share"]["estimate"] == pytest.approx(-0.2 / 0.5)


# --- intervals ------------------------------------------------------------------------------------------------------


def test_estimates_with_their_intervals():
    relations = {f"{r}:{i}": r for r in "abcd" for i in range(25)}
    draws, facts = Draws(relations), list(relations)
    values = generator(0, "values").normal(1.0, 1.0, size=100)
    mean, median = draws.mean(values, facts), draws.median(values, facts)
    assert mean["estimate"] == pytest.approx(values.mean()) and mean["low"] < mean["estimate"] < mean["high"]
    assert median["estimate"] == np.sort(values)[49] and median["low"] <= median["estimate"] <= median["high"]
    assert draws.mean([1, np.nan, 4.0], facts[:3])["estimate"] == 2.5
    assert draws.ratio(2 * values, values, facts)["low"] == pytest.approx(2)
    gap = draws.difference((values + 1, facts), (values, facts))  # the same draws on both sides
    assert (gap["low"], gap["high"]) == (pytest.approx(1), pytest.approx(1))
    for found in (draws.mean([], []), draws.median([], []), draws.difference(([], []), ([1.0], facts[:1]))):
        assert found["estimate"] is None and found["facts"] == 0
    # Facts of a relation alike: the interval is that of relations, far wider than that of 100 facts.
    level = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0}
    clustered = draws.mean([level[relations[fact]] for fact in facts], facts)
    assert clustered["high"] - clustered["low"] > 1.5
    with pytest.raises(InputError, match="facts: found 'z'"):
        draws.mean([1.0], ["z"])


# --- cells ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["gpt2", "bert"])
def study(request, facts, templates, tiny_model, tmp_path_factory):
    """Two capitals and two continents in six phrasings, of a small random model with the Atlas tokenizer."""
    model = tiny_model(request.param)
    chosen = facts[facts["relation"].isin(["capital", "continent"]) & facts["subject_id"].isin(["FR", "PE"])]
    plain = templates[(templates["language"] == "en") & (templates["split"] == "train")]
    plain = plain[~plain["template"].str.contains("+", regex=False)].groupby("relation").head(6)
    queries, _ = build_queries(chosen, plain)
    rank = queries.groupby("fact").cumcount()
    found = Study(model, facts, queries.assign(part=np.where(rank < 4, "A", "B")), {}, {})
    folder = tmp_path_factory.mktemp("attributions")
    with pytest.MonkeyPatch.context() as patch:
        for module in (mapping, synapse_effects):
            patch.setattr(module, "located", lambda study, method: located.located(study, method, folder=folder))
        labels = pd.Series(["consistent", "inconsistent", "inconsistent"], index=found.names[:3])
        patch.setattr("knlib.query_localization.consistency.labels", lambda result: labels)
        yield found


def run(study, module, **options):
    options = module.DEFAULTS | {"size": 3} | options
    prepared = module.prepare(study, options, {"A1": None})
    rows = module.rows(study, options, prepared, study.names)
    # A fact's rows do not depend on the others of its chunk.
    parts = [module.rows(study, options, prepared, [name]) for name in study.names]
    both = [table.sort_values(list(table.columns[:8]), ignore_index=True) for table in (rows, pd.concat(parts))]
    pd.testing.assert_frame_equal(*both, check_exact=True)
    summary = module.summary(study, options, rows)
    json.dumps(summary, allow_nan=False)
    return rows, summary


def test_mapping_cells(study):
    rows, summary = run(study, mapping, factor=0.0)
    assert set(rows["set"]) == set(mapping.SETS) - ({"other_fact"} - set(rows["set"]))
    asked_in = study.queries.loc[rows["query"], "part"]
    assert (asked_in == "B").all() and rows["query"].nunique() == 8
    assert rows.loc[rows["fact"] == study.names[0], "consistent"].eq(1).all()
    assert rows.loc[rows["fact"] == study.names[3], "consistent"].isna().all()
    assert summary["facts_by_label"] == {"consistent": 1, "inconsistent": 2}
    own, union = (rows[rows["set"] == name].set_index("query")["d_log_p"] for name in ("self", "neighbour_union"))
    assert summary["self_less"]["all"]["neighbour_union"]["estimate"] == pytest.approx((own - union).mean())
    assert rows["d_log_p"].abs().max() > 0


@pytest.mark.parametrize("factor, read", [(0.0, "value"), (0.0, "answer"), (2.0, "answer")])
def test_synapse_cells(study, factor, read):
    rows, summary = run(study, synapse_effects, factor=factor, read=read)
    own = rows[rows["set"] == "self"]
    budget = own[own["mode"] == "budget"]
    assert (budget["n"] == study.model.n_layers * 4).all() and (budget["sinks"] == 0).all()
    main = rows[
        (rows["mode"] == "norm") & (rows["alpha"] == 0.3) & (rows["operator"] == "plain") & (rows["factor"] == factor)
    ]
    wide = main.pivot_table(index="query", columns="set", values=["n", "mass"])
    assert {"random", "sinks", "subject", "relation", "self"} <= set(wide["n"])
    assert (wide["n"]["random"] <= wide["n"]["self"]).all()
    if "mass_matched" in wide["mass"]:
        ratio = (wide["mass"]["mass_matched"] / wide["mass"]["self"]).dropna()
        assert ratio.between(0.899, 1.101).all()
    if study.model.kind == "masked":
        share = main[main["set"] == "self"].set_index("query")["masks"]
        less = wide["n"]["self_without_masks"] / wide["n"]["self"]
        assert np.allclose(less, 1 - share, atol=1e-3)
    measure_name = "d_value" if read == "value" else "d_log_p"
    assert own[measure_name].abs().max() > 0 and rows[measure_name].notna().all()
    if read == "value":
        assert {"d_value", "d_size"} <= set(summary["members_less_matched"][0])
    elif factor == 0:
        assert {"clamped members", "reverse matched"} <= set(rows["set"]) and "share" in summary["mediation"]
    else:
        dose = rows[
            (rows["mode"] == "norm") & rows["set"].isin(["self", "mass_matched"]) & (rows["operator"] == "plain")
        ]
        assert set(dose["factor"]) == {0.0, 0.25, 0.5, 1.0, 1.5, 2.0}
        assert (dose.loc[dose["factor"] == 1, ["d_log_p", "flip"]] == 0).all(axis=None)
