"""Tables of the scoreboard, from synthetic results with planted values."""

import numpy as np
import pandas as pd
import pytest

from knlib.edit_effects import SCORES
from knlib.errors import InputError
from knlib.scoreboard import comparisons, estimates, tables
from knlib.scoreboard.results import ArmResult
from knlib.scoreboard.run import BY

EDITS = [f"e{i}" for i in range(20)]
LANGUAGES = ("de", "en", "ru")
NEIGHBOURS = ("same_subject", "same_relation", "unrelated")


def row(edit, kind, language, value, edited_in="all", length=1):
    """One row of scores: `value` is all that its kind defines."""
    found = dict.fromkeys(SCORES, np.nan) | {"tokens": value, "forced": value, "log_p": -1.0}
    if kind in NEIGHBOURS:
        found |= {"same": value, "kl": 1 - value}
    if kind in ("reliability", "generality"):
        found |= {"generated": value, "margin": value - 0.5}
    return dict(zip(BY, (edit, edited_in, length, kind, language), strict=True)) | found | {"questions": 1}


def result(rows, costs=None, edits=EDITS):
    return ArmResult(pd.DataFrame(rows), costs or {}, {"edits": list(edits)})


def arm(values, edits=EDITS, languages=LANGUAGES, costs=None, **columns):
    """`values`: kind -> a number, or a function of (edit's number, language)."""
    rows = [row(edit, kind, language, value(EDITS.index(edit), language) if callable(value) else value, **columns)
            for edit in edits for kind, value in values.items() for language in languages]  # fmt: skip
    return result(rows, costs, edits)


def half(i, language):
    return float(i % 2)


def board():
    """ROME is right in en and de, and in ru for even edits; LAFN always; seeds of random neurons for 0 and 10 edits of 10."""
    most = {"reliability": lambda i, language: 1.0 if language != "ru" else half(i + 1, language), "generality": half,
            "same_subject": 0.4, "same_relation": 0.7, "unrelated": 1.0, "portability": half}  # fmt: skip
    best = {"reliability": 1.0, "generality": 0.9, "same_relation": 0.95, "unrelated": 0.95, "portability": 0.5}
    return {
        "rome": arm(most, costs={"1": {"seconds": 2.0, "touched": 100.0}}),
        "none": arm(dict.fromkeys(most, 0.0) | {"ceiling": lambda i, language: float(i < (15 if language == "en" else 5))},
                    edited_in="none", length=0),
        "lafn": arm(best, costs={"1": {"seconds": 4.0, "touched": 7.0}}),
        "lafn_random_0": arm({"reliability": 0.0}, EDITS[:10], costs={"1": {"seconds": 1.0, "touched": 5.0}}),
        "lafn_random_1": arm({"reliability": 1.0}, EDITS[:10], costs={"1": {"seconds": 3.0, "touched": 5.0}}),
        "rome_sequence": arm({"reliability": 0.5}, costs={"1": {"seconds": 9.0, "touched": 9.0, "d_loss": 0.0}}),
    }  # fmt: skip


def test_an_edit_is_the_mean_of_its_languages_and_locality_of_its_kinds():
    rows = [row("a", "same_relation", "de", 0.0), row("a", "same_relation", "en", 1.0), row("a", "unrelated", "en", 1.0),
            row("b", "unrelated", "en", 0.2), row("b", "reliability", "en", 0.3)]  # fmt: skip
    scores = pd.DataFrame(rows)
    # Kinds weigh alike, whatever they have of languages; b has one kind only.
    assert estimates.per_edit(scores, "locality", "same").to_dict() == {"a": 0.75, "b": 0.2}
    assert estimates.per_edit(scores, "reliability", "tokens").to_dict() == {"b": 0.3}
    assert estimates.per_edit(scores, "unrelated", "kept").empty  # NaN in all rows


@pytest.mark.parametrize(("kind", "score"), [("speed", "tokens"), ("reliability", "f1")])
def test_unknown_kinds_and_scores_are_named(kind, score):
    with pytest.raises(InputError, match="expected one of"):
        estimates.per_edit(pd.DataFrame([row("a", "reliability", "en", 1.0)]), kind, score)


def test_scoreboard_holds_planted_means_within_their_intervals():
    table = tables.scoreboard(board())
    assert list(table.index) == ["none", "rome", "lafn", "lafn_random"]
    rome = table.loc["rome"]
    assert rome["reliability"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert rome["reliability_low"] < rome["reliability"] < rome["reliability_high"]
    assert (rome["generality"], rome["portability"], rome["edits"]) == (0.5, 0.5, 20)
    # ± 1.96 sqrt(.25 / 20) around a half
    assert [rome["generality_low"], rome["generality_high"]] == pytest.approx([0.28, 0.72], abs=0.06)
    assert rome["locality"] == pytest.approx(0.7)
    assert (rome["reliability_worst_language"], rome["reliability_worst"]) == ("ru", 0.5)
    assert table.loc["none", "reliability"] == 0


def test_columns_without_spread_have_no_interval_and_missing_kinds_no_value():
    lafn = tables.scoreboard(board()).loc["lafn"]
    assert lafn["reliability"] == 1 and np.isnan(lafn["reliability_low"]) and np.isnan(lafn["reliability_high"])
    assert np.isnan(lafn["same_subject"]) and lafn["locality"] == pytest.approx(0.95)


def test_seeds_are_one_arm_of_their_mean():
    table = tables.scoreboard(board(), seeds=True)
    assert table.loc["lafn_random", ["reliability", "edits"]].tolist() == [0.5, 10]
    assert table.loc[["lafn_random_0", "lafn_random_1"], "reliability"].tolist() == [0, 1]
    assert np.isnan(table.loc["lafn_random", "generality"])
    assert table.loc["lafn_random", "generality_worst_language"] == ""


def test_only_named_edits_count_and_one_edit_has_no_interval():
    table = tables.scoreboard(board(), "forced", names=["e1"])
    assert table.loc["rome", ["generality", "edits"]].tolist() == [1.0, 1]
    assert np.isnan(table.loc["rome", "reliability_low"])
    # e15 is none of the ten edits that the random neurons had
    assert list(tables.scoreboard(board(), names=["e15"]).index) == ["none", "rome", "lafn"]


@pytest.mark.parametrize("score", ["margin", "same", "f1"])
def test_a_scoreboard_of_another_score_is_refused(score):
    with pytest.raises(InputError, match="tokens forced generated"):
        tables.scoreboard(board(), score)


def test_text_is_in_per_cent():
    table = tables.scoreboard(board(), "generated")
    text = tables.scoreboard_text(table)
    low, high = (100 * table.loc["rome", f"generality_{end}"] for end in ("low", "high"))
    assert text.loc["rome", "generality"] == f"50 [{low:.0f}, {high:.0f}]"
    assert text.loc["lafn", ["reliability", "same_subject"]].tolist() == ["100", "–"]
    assert text.loc["rome", "worst reliability"] == "ru 50" and text.loc["lafn_random", "worst generality"] == "–"
    assert text["edits"].tolist() == [20, 20, 20, 10]


def test_a_low_ceiling_is_not_measurable():
    table = tables.ceiling(board())
    assert list(table.index) == ["all", "en", "de", "ru"]
    assert table["verdict"].tolist() == ["not measurable", "measurable", "not measurable", "not measurable"]
    assert table.loc["en", "estimate"] == 0.75 and table.loc["all", "estimate"] == pytest.approx((15 + 5 + 5) / 60)
    assert table.loc["all", "low"] < table.loc["all", "estimate"] < table.loc["all", "high"]
    with pytest.raises(InputError, match="arm: found 'none'"):
        tables.ceiling({"rome": board()["rome"]})


def test_locality_by_kind():
    table = tables.by_locality(board())
    assert table.loc[("rome", "same_subject"), ["same", "kl", "edits"]].tolist() == pytest.approx([0.4, 0.6, 20])
    assert table["kept"].isna().all() and table.loc[("lafn", "same_subject"), "edits"] == 0


def modes():
    """Edits in one language: .2 + .1 in itself; the arm itself on all edits, the others on the first three."""
    single = [row(edit, "reliability", asked, 0.3 if edited == asked else 0.2, edited)
              for edit in EDITS[:4] for edited in LANGUAGES for asked in LANGUAGES]  # fmt: skip
    held = [row(edit, "reliability", language, {"de": 0.1, "en": 0.6, "ru": 0.8}[language], f"-{language}")
            for edit in EDITS[:3] for language in LANGUAGES]  # fmt: skip
    late = lambda i, language: 1.0 if i < 3 else 0.0  # noqa: E731
    return {"memit": arm({"reliability": late}), "memit_single": result(single), "memit_held_out": result(held),
            "none": arm({"reliability": 0.05}, edited_in="none", length=0)}  # fmt: skip


def test_a_matrix_has_languages_and_three_rows_on_the_same_edits():
    table = comparisons.matrix(modes(), "memit")
    assert list(table.index) == ["en", "de", "ru", "all at once", "held out", "not edited"]
    assert list(table.columns) == ["en", "de", "ru"] and table.attrs["edits"] == 3
    np.testing.assert_allclose(table.iloc[:3], 0.2 + 0.1 * np.eye(3))
    # the arm itself is right in the first three edits only
    np.testing.assert_allclose(table.iloc[3:], [[1, 1, 1], [0.6, 0.1, 0.8], [0.05] * 3])


def test_a_matrix_leaves_out_what_is_missing():
    found = {name: modes()[name] for name in ("memit_single", "none")}
    table = comparisons.matrix(found, "memit")
    assert list(table.index) == ["en", "de", "ru", "not edited"] and table.attrs["edits"] == 4
    with pytest.raises(InputError, match="rome_single"):
        comparisons.matrix(found, "rome")


def pair(a, b):
    """Two arms by their rights [edits, languages]; the second has one edit more."""
    rows = [[row(f"e{i}", "reliability", f"l{j}", float(v)) for i, line in enumerate(values) for j, v in enumerate(line)]
            for values in (a, [*b, [1, 1]])]  # fmt: skip
    return {"a": result(rows[0]), "b": result(rows[1])}


def test_a_comparison_counts_discordant_pairs_on_common_edits():
    # a alone: 5 pairs, b alone: 1; both or neither: 2 and 2
    a, b = [[1, 1], [1, 1], [1, 1], [1, 0], [0, 0]], [[0, 0], [0, 0], [0, 1], [1, 1], [0, 0]]
    found = comparisons.compare(pair(a, b), "a", "b")
    assert found[["pairs", "only_a", "only_b", "edits"]].tolist() == [10, 5, 1, 5]
    # two-sided, at most 1 of 6 with a fair coin: 2 (1 + 6) / 64
    assert found["p_value"] == pytest.approx(14 / 64)
    assert found["estimate"] == pytest.approx((1 + 1 + 0.5 - 0.5 + 0) / 5)
    assert found["low"] < found["estimate"] < found["high"]
    turned = comparisons.compare(pair(a, b), "b", "a")
    assert turned["estimate"] == -found["estimate"] and turned["p_value"] == found["p_value"]


def test_part_of_an_answer_is_no_success_of_the_test():
    found = comparisons.compare(pair([[0.5, 1]], [[0, 0.5]]), "a", "b")
    assert found[["pairs", "only_a", "only_b"]].tolist() == [2, 1, 0]
    assert np.isnan(found["low"]) and found["estimate"] == 0.5  # one edit


def test_arms_that_share_nothing_are_not_compared():
    results = board() | {"far": arm({"reliability": 1.0}, EDITS[15:])}
    with pytest.raises(InputError, match="no common edit"):
        comparisons.compare(results, "far", "lafn_random")
    with pytest.raises(InputError, match="'nobody'"):
        comparisons.compare(results, "nobody", "rome")
    assert comparisons.compare(results, "rome", "lafn_random")["edits"] == 10


def test_sequences_keep_their_first_edits_in_the_order_that_they_were_made_in():
    made = EDITS[::-1]  # the rows are in another order
    rows = [row(edit, kind, "en", float(edit in made[:n // 2]) if n > 1 else 1.0, length=n)
            for n in (1, 10, 20) for edit in EDITS if edit in made[:n] for kind in ("reliability", "generality", "unrelated")]  # fmt: skip
    costs = {"1": {"d_loss": 0.0}, "10": {"d_loss": 0.1}}
    table = comparisons.sequences({"rome_sequence": result(rows, costs, made)}, "rome")
    assert list(table.index) == [1, 10, 20] and table["edits"].tolist() == [1, 10, 20]
    assert table["reliability"].tolist() == [1.0, 0.5, 0.5] and table["locality"].tolist() == [1.0, 0.5, 0.5]
    # after ten edits five of the first ten are right, after twenty all ten of them
    assert table["retention"].tolist() == [1.0, 0.5, 1.0]
    assert table["d_loss"].tolist()[:2] == [0.0, 0.1] and np.isnan(table["d_loss"].tolist()[2])
    with pytest.raises(InputError, match="memit_sequence"):
        comparisons.sequences({}, "memit")


def test_costs_are_means_over_seeds_and_leave_out_what_has_none():
    table = comparisons.costs(board())
    assert table.to_dict("index") == {"rome": {"seconds": 2.0, "touched": 100.0}, "lafn": {"seconds": 4.0, "touched": 7.0},
                                      "lafn_random": {"seconds": 2.0, "touched": 5.0}}  # fmt: skip
    assert comparisons.costs({"none": board()["none"]}).empty


def test_shared_strings_are_read_apart():
    shared = pd.DataFrame([(edit, code, code != "ru") for edit in EDITS for code in LANGUAGES],
                          columns=["edit", "language", "shared"])  # fmt: skip
    table = comparisons.shared_split(board(), "rome", shared)
    assert table.loc[("reliability", True), "estimate"] == 1 and table.loc[("reliability", False), "estimate"] == 0.5
    assert (table["edits"] == 20).all()
    # the language that was edited in says nothing about transfer
    single = comparisons.shared_split(modes(), "memit_single", shared)
    assert single.loc["reliability"]["estimate"].tolist() == pytest.approx([0.2, 0.2])
    assert np.isnan(single.loc[("generality", True), "estimate"])


def test_the_target_asks_for_all_three():
    table = tables.target(board())
    assert (
        table.loc["lafn", ["reliability >= 0.95", "generality >= 0.85", "locality >= 0.9", "all"]].tolist()
        == ["yes"] * 4
    )
    assert table.loc["rome", "all"] == "no" and table.loc["lafn_random", "generality >= 0.85"] == "no"
    assert tables.target(board(), generality=0.91).loc["lafn", ["generality >= 0.91", "all"]].tolist() == ["no", "no"]
