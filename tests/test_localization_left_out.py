"""What localizers leave out, and count: queries, languages, scopes and generic neurons."""

import pandas as pd
import pytest
from localizer_cases import OURS, case, counts, pairs

from knlib.localization import localize

ROWS = ["relation", "fact", "language", "reason", "count"]


def test_a_query_the_model_does_not_know_is_left_out_and_counted():
    value = {"en": [[1, 0]] * 3, "ru": [[1, 0]] * 2, "ja": [[1, 0]] * 2, "tr": [[0, 1]] * 2, "ko": [[-1, -2]] * 2}
    p = [0.5, 0.5, 9e-4] + [0.5] * 4 + [1e-9] * 2 + [0.5] * 2
    attributions, queries = case({"f": value}, probability=p, entropy=0.1)
    table, report = localize("mean", attributions, queries, resamples=0, report=True)
    assert list(report) == ROWS
    assert counts(report, reason="improbable", language="en") == 1
    assert (
        counts(report, reason="improbable", language="tr")
        == counts(report, reason="no_valid_query", language="tr")
        == 2
    )
    assert counts(report, reason="no_positive_score") == 2 and counts(report, reason="no_valid_query") == 4
    assert set(table["scope"]) == {"all", "en", "ja", "ru"}  # nothing of what Turkish and Korean do not know
    row = table[table["scope"] == "all"].iloc[0]
    assert (row["mu"], row["queries"], row["languages"], row["neuron"]) == (1, 6, 3, 0)
    assert table.attrs["left_out"] == {
        "generic_not_judged": 4,
        "improbable": 3,
        "no_positive_score": 2,
        "no_valid_query": 4,
    }
    assert pd.concat([table, localize("cas", attributions, queries, resamples=0)]).shape[1] == table.shape[1]


def test_the_geometric_mean_of_an_answers_tokens_is_what_must_be_probable():
    attributions, queries = case({"f": {c: [[1, 0]] for c in ("en", "ru", "ja")}}, probability=[1e-6, 1e-6, 0.5])
    assert not pairs(localize("mean", attributions, queries, resamples=0))
    assert pairs(localize("mean", attributions, queries.assign(n_sites=[2, 3, 1]), resamples=0)) == {(0, 0)}
    assert pairs(localize("mean", attributions, queries.assign(probability=0.5), resamples=0)) == {(0, 0)}


def test_a_language_the_model_is_unsure_in_is_left_out_and_counted():
    value = {code: [[1, 0], [1, 0]] for code in ("en", "ru", "ja", "tr")}
    attributions, queries = case({"f": value}, entropy=[0.1, 0.1, 0.2, 0.2, 0.7, 0.9, 0.85, 0.8])
    table, report = localize("kn_share", attributions, queries, resamples=0, report=True)
    assert "tr" not in set(table["scope"]) and "ja" in set(table["scope"])  # mean .825; .8 is not above .8
    assert counts(report, reason="entropy", language="tr") == 2
    table, report = localize("kn_share", attributions, queries.drop(columns="entropy"), resamples=0, report=True)
    assert "tr" in set(table["scope"]) and counts(report, reason="entropy_unknown") == 8


def test_all_languages_need_three_of_two_families():
    def scopes(codes, **options):
        attributions, queries = case({"f": {code: [[1, 0]] for code in codes}})
        table, report = localize("min_lang", attributions, queries, resamples=0, report=True, **options)
        return set(table["scope"]), report

    found, report = scopes(["en", "ru"])
    assert found == {"en", "ru"} and counts(report, reason="few_languages", language="all", fact="f") == 2
    assert "all" in scopes(["en", "zh"], min_languages=2)[0]
    found, report = scopes(["en", "ru", "hi"])  # all Indo-European
    assert "all" not in found and counts(report, reason="one_family") == 3
    assert "all" in scopes(["fr", "es", "tr"])[0] and "all" in scopes(["xx", "yy", "zz"])[0]


def test_generic_neurons_are_judged_only_among_enough_facts_and_objects():
    def located(facts, objects, **options):
        # Neuron 0 is everybody's, 1 and 2 belong to two facts, 3 + i is the fact's own.
        rows = {f"f{i}": [[1.0, i < 2, 2 <= i < 5] + [i == j for j in range(facts)]] for i in range(facts)}
        scores = {f: dict.fromkeys(("en", "ru", "ja"), row) for f, row in rows.items()}
        attributions, queries = case(scores, answers={f"f{i}": f"o{i % objects}" for i in range(facts)})
        return localize("amig", attributions, queries, resamples=0, report=True, **options)

    table, report = located(19, 19)
    assert table["relation_generic"].isna().all() and (0, 0) in pairs(table)
    assert counts(report, reason="generic_not_judged", language="all", fact="all") == 19
    table, report = located(30, 6)
    assert table["relation_generic"].isna().all() and counts(report, reason="generic_not_judged", language="en") == 30
    table, report = located(20, 20)
    assert pairs(table) == {(0, 1)} | {(0, 3 + i) for i in range(20)}  # 2 of 20 is 10 %, not more
    assert table["relation_generic"].eq(False).all()
    assert counts(report, reason="relation_generic", fact="f3") == 8  # neurons 0 and 2, three languages and all
    table, _ = located(20, 20, drop_generic=False)
    assert set(table.loc[table["relation_generic"], "neuron"]) == {0, 2}


@pytest.mark.parametrize("name", OURS)
def test_little_or_nothing_gives_few_rows_and_no_nan(name):
    one = {code: [[0.5, 0.5, 0.0]] for code in ("en", "ru", "ja")}
    table = localize(name, *case({"f": one}), resamples=10)
    numbers = table.drop(columns=["relation_generic"]).select_dtypes("number")
    assert pairs(table) == {(0, 0), (0, 1)} and numbers.notna().all(axis=None)
    assert not table["uq_estimable"].any()
    equal = {code: [[0.3] * 5] * 3 for code in ("en", "ru", "ja")}
    table = localize(name, *case({"f": equal}), resamples=10)
    assert len(pairs(table)) == 5 and table.drop(columns="relation_generic").notna().all(axis=None)
    two = localize(name, *case({"f": {c: one[c] for c in ("en", "ru")}}), resamples=10)
    assert set(two["scope"]) == {"en", "ru"} and two.drop(columns="relation_generic").notna().all(axis=None)
    alone = localize(name, *case({"f": {"en": one["en"]}}), resamples=10)
    assert len(alone) == 2 and alone["tau2"].isna().all() and alone["i2"].isna().all()
    nothing, report = localize(name, *case({"f": one}, probability=[0.0] * 3), resamples=10, report=True)
    assert nothing.empty and list(nothing) == list(table) and counts(report, reason="no_valid_query") == 3
    assert nothing.dtypes.equals(table.dtypes)
