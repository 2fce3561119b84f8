"""The scoreboard's parts on made-up scores: rankings, sets, decisions, consistency, estimates, questions."""

from dataclasses import replace
from types import SimpleNamespace

import ground_tables
import numpy as np
import pandas as pd
import pytest
from synthetic_neurons import SETTINGS, synthetic

from knlib.errors import InputError
from knlib.ground_truth import questions as q
from knlib.ground_truth.answers import Answer, localizer_answers, table_of
from knlib.ground_truth.consistency import NAMES, consistency
from knlib.ground_truth.decisions import decision
from knlib.ground_truth.estimates import agreement_board, board, by_size, calibration, confusion, sizes
from knlib.ground_truth.metrics import CURVE, MEASURES, agreement, best, measures, ranking, stability_bins
from knlib.ground_truth.scorers import facts_of, localizers, rows, scores
from knlib.ground_truth.study import Labels, spread
from knlib.localization import LOCALIZERS, Evidence, Verdict, register
from knlib.methods import METHODS
from knlib.statistics import Interval

N = 400


def labels_of(own, common=(), groups=None, languages=("en", "ja")) -> Labels:
    mask, shared = np.zeros(N, bool), np.zeros(N, bool)
    mask[list(own)] = True
    shared[list(common)] = True
    return Labels(mask, shared, dict.fromkeys(languages, mask), groups or (np.array(own),))


def answer_of(score, taken, fact="f", frequency=np.nan) -> Answer:
    parts = [table_of(fact, scope, np.asarray(taken, dtype=int), score, 40) for scope in ("all", "en", "ja")]
    return Answer(fact, score, {"en": score, "ja": score}, pd.concat(parts).assign(frequency=frequency), None)


# Spec test 6: the truth scores 1 everywhere, random .5 within its interval, a reversed score the reversed AUROC.


def test_the_truth_scores_one_everywhere():
    labels = labels_of([3, 50, 51, 399], groups=(np.array([3, 50]), np.array([51, 399])))
    found = measures(answer_of(labels.own.astype(float), np.flatnonzero(labels.own)), labels, 40).set_index("scope")
    ones = ["auroc", "average_precision", "at_k", "groups_at_k", "precision", "recall", *CURVE]
    assert (found.loc[["all", "language"], ones] == 1).all(axis=None) and (found["selected"] == 4).all()


def test_random_is_a_coin_and_reversing_reverses():
    draw, found = np.random.default_rng(0), []
    for number in range(40):
        true, score = np.zeros(N, bool), draw.normal(size=N)
        true[draw.choice(N, 4, replace=False)] = True
        assert ranking(-score, true)["auroc"] == pytest.approx(1 - ranking(score, true)["auroc"])
        labels = Labels(true, np.zeros(N, bool), {"en": true}, (np.flatnonzero(true),))
        found.append(measures(answer_of(score, [], str(number)), labels, 40).assign(row="random", kind="agnostic"))
    table = board(pd.concat(found)).query("measure == 'auroc' and scope == 'all' and kind == 'all'").iloc[0]
    assert table["low"] < 0.5 < table["high"] and table["facts"] == 40


def test_relation_neurons_count_as_wrong_and_apart():
    score = np.zeros(N)
    score[[0, 1, 2, 3]] = [4, 3, 2, 1]
    found = measures(answer_of(score, [0, 1, 2]), labels_of([2, 3], common=[0, 1]), 40).set_index("scope").loc["all"]
    assert (found["at_k"], found["common_at_k"], found["common_selected"]) == (0, 1, 1)
    assert found["precision"] == pytest.approx(1 / 3) and found["recall"] == 0.5


def test_a_redundant_group_that_is_missed_is_seen():
    score = np.zeros(N)
    score[[5, 6, 9]] = 1
    found = measures(answer_of(score, []), labels_of([5, 6, 7, 8], groups=(np.array([5, 6]), np.array([7, 8]))), 40)
    assert found.set_index("scope").loc["all", "groups_at_k"] == 0.5
    assert np.isnan(found["precision"]).all() and (found["recall"] == 0).all()


def test_a_score_that_is_not_finite_is_refused():
    with pytest.raises(InputError, match="not finite"):
        ranking(np.array([1.0, np.nan]), np.array([True, False]))
    assert best(np.array([1.0, 1.0, 2.0]), 2).tolist() == [2, 0]


# Registries.


def test_what_is_registered_has_a_row():
    known = rows()
    assert {name for name in METHODS if name != "ig"} <= set(known) and "ablation" in scores()
    assert {name for name, _ in localizers().values()} == set(LOCALIZERS)
    for name in LOCALIZERS:
        assert name == "mean" or f"{name} from ig" in known
    before = dict(LOCALIZERS)
    register("a_new_one")(LOCALIZERS["mean"].find)
    try:
        assert set(rows()) - set(known) == {"a_new_one from ig", "a_new_one from ig_mask_words"}
    finally:
        LOCALIZERS.clear()
        LOCALIZERS.update(before)


def test_slow_scores_are_of_some_facts_of_every_kind_and_ablation_of_none_in_a_masked_model():
    facts = pd.DataFrame({"fact": list("abcdefgh"), "kind": ["one"] * 5 + ["two"] * 3})
    causal, masked = (SimpleNamespace(kind=kind) for kind in ("causal", "masked"))
    assert facts_of("ig", facts, causal) == facts_of("ig", facts, masked) == list("abcdefgh")
    assert facts_of("ig_mask_words", facts, causal) == ["a", "c", "e", "f", "h"]
    assert facts_of("ig_mask_words", facts, masked) == ["a", "e", "f"]
    assert facts_of("ablation", facts, causal) == ["a", "f"] and facts_of("ablation", facts, masked) == []


def test_localizers_answer_for_all_neurons_and_matrice_is_stable():
    found, queries, truth = synthetic(SETTINGS["25 % unknown"], 1)
    (answer,) = localizer_answers("re_lcb", {}, found, queries, {"min_families": 1}, resamples=10)
    assert answer.score.shape == truth.shape and ranking(answer.score, truth)["auroc"] > 0.95
    taken = answer.selected[answer.selected["scope"] == "all"]
    assert set(LOCALIZERS["re_lcb"].find.__kwdefaults__) and len(taken) and taken["frequency"].between(0, 1).all()
    assert answer.decision == "agnostic"
    (few,) = localizer_answers("mean", {}, found, queries, {"min_languages": 20}, resamples=0)
    assert few.score is None and not (few.selected["scope"] == "all").any()


# Decisions.


def evidence_of(reached: np.ndarray, phrasings: int) -> tuple[Evidence, Verdict]:
    """One neuron that some queries of four languages reach."""
    language = np.repeat(np.arange(4), phrasings)
    fact = Evidence("f", "r", ("en", "ja", "ru", "tr"), reached[:, None].astype(float), language, np.ones(len(language)),
                    np.ones(len(language)), np.array([0]))  # fmt: skip
    each = fact.means(fact.scores) > 0
    return fact, Verdict(np.ones(1), each.all(0), each.astype(float), each, reached[:, None] > 0)


@pytest.mark.parametrize(("rows", "expected"), [
    ([1] * 12, "agnostic"), ([1, 1, 1] + [0] * 9, "language"), ([1] * 6 + [0] * 6, "half"), ([1, 0, 0] * 4, "query"), ([0] * 12, "none"),
])  # fmt: skip
def test_types_are_told_by_who_speaks_for_a_neuron(rows, expected):
    assert decision(*evidence_of(np.array(rows), 3)) == expected


def test_no_neurons_is_no_type():
    fact, verdict = evidence_of(np.ones(12), 3)
    nothing = replace(verdict, found=np.array([False]), language_found=np.zeros((4, 1), bool))
    assert decision(fact, nothing) == "none"


# Consistency, calibration, agreement.


def test_consistency_tells_shared_neurons_from_those_of_a_phrasing():
    draw, languages = np.random.default_rng(0), np.repeat(["en", "ja"], 3)
    noise = 0.01 * draw.random((6, 2, 60))
    shared, own = noise.copy(), noise.copy()
    shared[:, 0, :10] += 1
    for row in range(6):
        own[row, 0, 10 * (row % 3) : 10 * (row % 3) + 10] += 1
    a, b = consistency(shared, languages), consistency(own, languages)
    assert set(a) == set(NAMES) and a["cs_1 top10"] == 1 and b["cs_1 threshold"] == 0
    assert all(a[name] > b[name] for name in NAMES if "top50" not in name)


def test_stability_is_counted_by_bins():
    labels, score = labels_of([0, 1]), np.arange(N)[::-1].astype(float)
    table = stability_bins(answer_of(score, [0, 1, 2], frequency=1.0), labels, 40).set_index(["scope", "bin"])
    assert table.loc[("all", 4), ["neurons", "true"]].tolist() == [3, 2]
    assert table.loc[("language", 4), "neurons"] == 6
    stated = pd.concat([table.reset_index().assign(fact=fact, row="re_lcb") for fact in "fg"])
    line = calibration(stated, resamples=100).query("scope == 'all'").iloc[0]
    assert line["estimate"] == pytest.approx(2 / 3) and line["stated"] == 1 and line["facts"] == 2
    assert not len(stability_bins(answer_of(score, [0]), labels, 40))


def test_a_score_agrees_with_itself_and_not_with_its_reverse():
    exact = np.random.default_rng(0).normal(size=(3, 40))
    assert agreement(exact, exact) == {"spearman": pytest.approx(1), "top": 1}
    assert agreement(-exact, exact)["spearman"] == pytest.approx(-1) and agreement(-exact, exact)["top"] == 0
    rows = pd.DataFrame({"scores": "ig", "fact": ["a", "b"], "spearman": [0.2, 0.4], "top": [1.0, 1.0]})
    assert agreement_board(rows, resamples=100).set_index("measure").loc["spearman", "estimate"] == pytest.approx(0.3)


def test_confusions_are_shares_of_a_kind():
    decided = pd.DataFrame(
        {"row": "ig", "fact": list("abc"), "kind": ["query"] * 3, "decision": ["query", "query", "none"]}
    )
    assert confusion(decided).set_index("decision")["share"].round(2).to_dict() == {"query": 0.67, "none": 0.33}


def test_languages_are_spread():
    assert spread(list("abcdefghijkl"), 4, 1) == ["b", "e", "h", "k"] and spread(["a"], 4, 3) == ["a"]


# Questions.


def facts_table(better: float, count: int = 20) -> pd.DataFrame:
    draw, parts = np.random.default_rng(0), []
    for kind in ("agnostic", "redundant", "relation", "distributed"):
        noise = 0.05 * draw.normal(size=count)
        for row, shift in (("gradient_x_activation", 0.0), ("ig", better)):
            values = dict.fromkeys(MEASURES, 0.5 + shift + noise * (row == "ig"))
            parts.append(
                pd.DataFrame(values).assign(row=row, kind=kind, scope="all", fact=[f"{kind}{i}" for i in range(count)])
            )
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(("better", "verdict"), [(0.2, "yes"), (-0.2, "no"), (0.0, "undecided")])
def test_questions_are_decided_by_their_interval(better, verdict):
    found = [f for f in q.gradients(facts_table(better)) if f.about == "all, average_precision"]
    assert [f.verdict for f in found] == [verdict]
    assert verdict in str(found[0]) and found[0].interval.clusters == 80


def test_undecided_where_the_interval_touches_the_number():
    assert q.decide(Interval(0.1, 0.0, 0.2, 0.95, 9)) == q.UNDECIDED
    assert q.decide(Interval(0.1, 0.05, 0.2, 0.95, 9), than=0.3) == "no"


def consistency_table(gap: float) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    kinds = np.repeat(["agnostic", "query"], 20)
    base = np.where(kinds == "agnostic", 0.5 + gap, 0.5 - gap) + 0.02 * draw.normal(size=40)
    return pd.DataFrame(dict.fromkeys(NAMES, base)).assign(scores="ig", fact=[str(i) for i in range(40)], kind=kinds)


def test_consistency_scores_separate_or_not():
    (clear, *_), (none, *_) = (q.consistency_separates(consistency_table(gap)) for gap in (0.3, 0.0))
    assert clear.verdict == "yes" and clear.interval.estimate == 0.5 and none.verdict == "undecided"
    line = q.best_thresholds(consistency_table(0.3)).iloc[0]
    assert 0.2 < line["low"] <= line["threshold"] <= line["high"] < 0.8 and line["balanced_accuracy"] == 1
    assert {f.verdict for f in q.published_threshold(consistency_table(0.3))} == {"yes"}


def test_facts_are_compared_by_the_number_of_their_neurons():
    facts = ground_tables.facts_table(each=6)
    true = by_size(facts, "at_k").query("row == 'truth'")
    assert list(zip(true["kind"], true["neurons"], true["facts"], strict=True)) == [
        ("language", 1, 2), ("language", 2, 2), ("language", 4, 2), ("agnostic", 4, 2), ("agnostic", 8, 2), ("agnostic", 16, 2),
        ("distributed", 64, 6)]  # fmt: skip
    assert (true[["estimate", "low", "high"]] == 1).all(axis=None)
    size = facts["fact"].map(sizes(facts))
    facts["at_k"] = np.where(facts["row"] == "ig", np.log2(size) / 6, 0.5)
    found = {f.about: f for f in q.growth(facts)}
    assert found["ig, at_k, agnostic"].verdict == "yes"
    assert found["ig, at_k, agnostic"].interval.estimate == pytest.approx(1 / 3)
    assert found["random, at_k, language"].interval.estimate == 0
    assert {about.rsplit(", ")[-1] for about in found} == {"language", "agnostic"}  # distributed facts have one size


def test_every_question_is_answered_and_none_without_data():
    facts = facts_table(0.1)
    names = ("lafn", "random", q.MATRICE, *(f"re_lcb without {w} from ig_mask_words" for w in
             ("query uncertainty", "language uncertainty", "both")), *(f"{n} from ig" for n in ("kn_share", "amig", "min_lang")))  # fmt: skip
    more = [facts[facts["row"] == "ig"].assign(row=name) for name in names]
    more.append(ground_tables.facts_table(each=6).query("scope == 'language' and row in ('truth', 'ig')"))
    selection = pd.DataFrame({"fact": ["a", "b", "c"], "kind": "query", "served": [0.1, 0.2, 0.1], "matched_attention": 0.9,
                              "matched_neurons": [0.8, 0.9, 0.7]})  # fmt: skip
    tables = {
        "facts": pd.concat([facts, *more], ignore_index=True),
        "consistency": consistency_table(0.3),
        "selection": selection,
    }
    table = q.findings_table(q.questions(tables))
    assert table["question"].nunique() == 10 and set(table["verdict"]) <= {"yes", "no", q.UNDECIDED}
    assert table["low"].le(table["estimate"] + 1e-9).all()
    assert (table.loc[table["question"].str.contains("synapses"), "verdict"] == "yes").all()
    empty = {"facts": facts[:0], "consistency": consistency_table(0)[:0], "selection": selection[:0]}
    assert q.questions(empty) == []
