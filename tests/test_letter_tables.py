"""query_relevant/effect_tables.py, long_form.py: tables by hand, and log p of texts against a hooked run."""

import numpy as np
import pandas as pd
import pytest
from letter_studies import tiny_answers, tiny_prompts
from tiny_models import tiny_model

from knlib.errors import InputError
from knlib.facts import load_facts
from knlib.intervention import scale
from knlib.multiple_choice import build_multiple_choice, load_wordings
from knlib.prediction import answer_tokens, score_answers
from knlib.query_relevant.effect_tables import dose_curve, fact_language_table, flip_table, specificity_table
from knlib.query_relevant.long_form import answer_effects, letter_or_more, long_form_table, without_options
from knlib.query_relevant.metrics import specificity


def rows(group, pairs, *, factor=2.0, condition="x", right=(True, True), draw=0, other=("f", "en")):
    """Effects of questions a, b, ...: one (before, after) each."""
    return pd.DataFrame([
        {"condition": condition, "factor": factor, "question": f"{q}|en", "fact": q, "language": "en", "group": group,
         "tested_fact": q if group == "own" else other[0], "tested_language": other[1], "n": 3, "before": b, "after": a,
         "right_before": right[0], "right_after": right[1], "draw": draw}
        for q, (b, a) in zip("abcdefgh", pairs, strict=False)
    ])  # fmt: skip


OWN, IN, OTHER = [(0.4, 0.6), (0.6, 0.7)], [(0.4, 0.8), (0.6, 0.8)], [(0.5, 0.51), (0.5, 0.52)]
EFFECTS = pd.concat([rows("own", OWN), rows("in_sample", IN), rows("other", OTHER)], ignore_index=True)


def test_rows_of_the_scoreboard_are_those_of_the_metrics():
    table = specificity_table(EFFECTS, draws=100).set_index("sample")
    assert table["R"].tolist() == pytest.approx([30, 60]) and table["U"].tolist() == pytest.approx([3, 3])
    assert table["S"].tolist() == pytest.approx([27, 57]) and table["questions"].tolist() == [2, 2]
    expected = specificity(EFFECTS[EFFECTS["group"] != "in_sample"], draws=100)
    assert table.loc["held_out", "S_low"] == expected.specificity.low and table["neurons"].tolist() == [3, 3]
    # A question without prompts of others does not count, and of one question nothing is said.
    less = EFFECTS[(EFFECTS["group"] != "other") | (EFFECTS["fact"] == "a")]
    assert not len(specificity_table(less, draws=10))
    with pytest.raises(InputError, match="a column question: a table of letter_effects"):
        specificity_table(EFFECTS.drop(columns="question"))


def test_conditions_and_factors_stay_apart():
    both = pd.concat([EFFECTS, EFFECTS.assign(condition="y", after=EFFECTS["before"]), EFFECTS.assign(factor=0.0)])
    table = specificity_table(both, draws=10).query("sample == 'held_out'")
    assert table[["condition", "factor"]].values.tolist() == [["x", 0.0], ["x", 2.0], ["y", 2.0]] or len(table) == 3
    assert table.set_index(["condition", "factor"]).loc[("y", 2.0), "S"] == 0


def test_the_two_by_two_table():
    cells = [rows("own", [(0.5, 0.7)] * 2), rows("other", [(0.5, 0.6)] * 2)]
    across = rows("across", [(0.5, 0.65)] * 2, other=("f", "de"))
    across["tested_fact"] = across["fact"]
    table = fact_language_table(
        pd.concat([*cells, across, rows("other", [(0.5, 0.55)] * 2, other=("f", "de"))]), draws=10
    )
    assert table.loc[0, ["same_same", "same_other", "other_same", "other_other"]].tolist() == pytest.approx(
        [40, 30, 20, 10]
    )
    assert table.loc[0, ["fact", "language"]].tolist() == pytest.approx([20, 10])
    assert not len(fact_language_table(EFFECTS, draws=10))


def test_flips_are_counted_where_they_could_be():
    table = pd.concat([
        rows("own", OWN * 2, right=(True, False)), rows("own", OWN, right=(False, True)),
        rows("own", OWN, right=(True, True)), rows("other", OTHER * 4, right=(True, True)),
        rows("other", OTHER, right=(True, False)),
    ])  # fmt: skip
    found = flip_table(table).set_index(["place", "flip"])
    assert found[["flipped", "of"]].T.to_dict("list") == {
        ("own", "to_right"): [2, 2], ("own", "to_wrong"): [4, 6], ("elsewhere", "to_right"): [0, 0],
        ("elsewhere", "to_wrong"): [2, 10],
    }  # fmt: skip
    assert found.loc[("elsewhere", "to_wrong"), "share"] == 0.2
    assert found.loc[("elsewhere", "to_wrong"), ["low", "high"]].tolist() == pytest.approx([0.0567, 0.5098], abs=1e-3)
    assert np.isnan(found.loc[("elsewhere", "to_right"), "share"])


def test_doses_have_a_band_of_draws():
    parts = [rows("own", [(0.5, 0.5 + d * f / 10)] * 3, factor=f, draw=d) for f in (0.5, 2.0) for d in (0, 1)]
    table = dose_curve(pd.concat(parts), resamples=50)
    assert table["factor"].tolist() == [0.5, 2.0] and table["change"].tolist() == pytest.approx([5, 20])
    assert table["draw_low"].tolist() == [0, 0] and table["draw_high"].tolist() == pytest.approx([10, 40])


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_texts_are_scored_with_neurons_changed_at_every_answer_site(kind):
    model, prompts = tiny_model(kind), tiny_prompts()
    asked = tiny_answers(prompts).head(4)
    neurons = asked[["fact", "language"]].drop_duplicates().merge(
        pd.DataFrame({"layer": [0, 1, 2], "neuron": [3, 8, 20]}), how="cross"
    )  # fmt: skip
    found = answer_effects(model, asked, neurons, factors=(0.0, 3.0))
    assert len(found) == 8 and (found["tokens"] > 1).all()
    for row in found.itertuples():
        text = asked[asked["query"] == row.query]
        values = [text[c].tolist() for c in ("prompt", "space", "answer", "suffix")]
        assert row.tokens == len(answer_tokens(model, *(v[0] for v in values[:3])))
        for factor, expected in ((1.0, row.before), (row.factor, row.after)):
            # The sites of the answer: from the prompt's last token on (a causal row), or all masks.
            assert expected == pytest.approx(hooked(model, values, row.tokens, factor), rel=1e-5)


def hooked(model, values, tokens, factor):
    """Token by token: every row ends at the site, so that "answer" is where it predicts; earlier sites are changed too."""
    if model.kind == "masked":
        return _masked(model, values, factor)
    import torch

    ids = [*model.specials[0], *model.pieces(values[0][0])]
    answer = answer_tokens(model, *(v[0] for v in values[:3]))
    sites = list(range(len(ids) - 1, len(ids) - 1 + len(answer)))
    with scale(model, [(0, 3), (1, 8), (2, 20)], factor, [sites]), torch.no_grad():
        logits = model.network(torch.tensor([[*ids, *answer[:-1]]])).logits[0, sites].log_softmax(-1)
    return float(logits[range(len(answer)), list(answer)].mean())


def _masked(model, values, factor):
    import torch

    from knlib.prediction import answer_rows

    prompt, space, answer, suffix = (v[0] for v in values)
    rows, columns, targets, _ = answer_rows(
        model, [(prompt, answer_tokens(model, prompt, space, answer), space, suffix)]
    )
    total = 0.0
    for ids, column, target in zip(rows, columns, targets, strict=True):
        with scale(model, [(0, 3), (1, 8), (2, 20)], factor, [column]), torch.no_grad():
            logits = model.network(torch.tensor([ids])).logits[0, column[0]].log_softmax(-1)
        total += float(logits[target[0]])
    return total / len(rows)


def test_unchanged_texts_are_those_of_prediction():
    model = tiny_model("gpt2")
    asked = tiny_answers(tiny_prompts()).head(3)
    neurons = pd.DataFrame([("f0", "de", 1, 2)], columns=["fact", "language", "layer", "neuron"])
    found = answer_effects(model, asked, neurons, factors=(2.0,))
    whole = score_answers(model, *(asked[c] for c in ("prompt", "space", "answer", "suffix")))
    assert np.allclose(found["before"] * found["tokens"], whole, rtol=1e-6)
    table = pd.concat([found, found.assign(question="other")])
    assert long_form_table(table, resamples=50)["change"].iloc[0] == pytest.approx(
        (found["after"] - found["before"]).mean()
    )
    assert not len(long_form_table(found))


def moves(condition, letter, text, factor=2.0, questions="abcd"):
    """Effects and answers of questions whose log-odds and log p both move by so much, give or take a tenth."""
    before = 0.5
    noise = dict(zip("abcdefgh", (0.1, -0.1, 0.05, -0.05, 0.08, -0.08, 0.02, -0.02), strict=True))
    letters = [(before, 1 / (1 + np.exp(-(letter + noise[q])))) for q in questions]
    effects = rows("own", letters, factor=factor, condition=condition)
    effects["question"] = [f"{q}|en" for q in questions]
    texts = pd.DataFrame({"condition": condition, "factor": factor, "question": effects["question"], "before": -1.0,
                          "after": [-1 + text + 2 * noise[q] for q in questions]})  # fmt: skip
    return effects, texts


def verdict_of(mine, control):
    effects, texts = (pd.concat(pair, ignore_index=True) for pair in zip(mine, control, strict=True))
    return letter_or_more(effects, texts, resamples=200)


@pytest.mark.parametrize(
    ("letter", "text", "verdict"),
    [(1, 1, "letter and text"), (1, 0, "letter only"), (1, -1, "letter only"), (0, 1, "text only"), (0, 0, "neither")],
)
def test_a_set_that_moves_only_the_letter_is_called_so(letter, text, verdict):
    """Enhanced neurons must raise, suppressed ones lower: what goes the other way is not moved by them."""
    for sign, factor in ((1, 2.0), (-1, 0.0)):
        # The control moves by a tenth itself: what is compared is the difference, question by question.
        control = moves("random_layer_matched", 0.1 * sign, 0.1 * sign, factor)
        found = verdict_of(moves("mine", (letter + 0.1) * sign, (text + 0.1) * sign, factor), control)
        assert found[["condition", "verdict"]].values.tolist() == [["mine", verdict]]
        assert found["letter"].tolist() == pytest.approx([sign * letter], abs=1e-9)
        assert found["text"].tolist() == pytest.approx([sign * text], abs=1e-9)


def test_a_verdict_is_of_the_questions_that_the_control_has_too():
    """The control's other questions, far off, do not count; nor do those that only the localizer has."""
    control = moves("random_layer_matched", 0.0, 0.0, questions="abcd")
    far = moves("random_layer_matched", 9.0, 9.0, questions="gh")
    control = tuple(pd.concat(pair) for pair in zip(control, far, strict=True))
    other = tuple(pd.concat(p) for p in zip(moves("mine", 1, 0, questions="abcd"), moves("mine", 9, 9, questions="ef"), strict=True))  # fmt: skip
    found = verdict_of(other, control)
    assert found[["questions", "verdict"]].values.tolist() == [[4, "letter only"]]
    assert found["letter"].tolist() == pytest.approx([1])
    assert not len(verdict_of(moves("mine", 1, 1, questions="a"), control))


def test_a_verdict_needs_its_control():
    with pytest.raises(InputError, match="no random_layer_matched at factor 2"):
        letter_or_more(*moves("mine", 1, 1))


def test_questions_without_options_hold_nothing_of_the_options():
    wordings = load_wordings()
    wordings = wordings[wordings["language"].isin(["en", "ja"]) & wordings["relation"].isin(["capital"])]
    facts = load_facts()
    prompts, _ = build_multiple_choice(facts[facts["relation"] == "capital"].head(20), wordings)
    table = without_options(prompts, wordings)
    assert len(table) == len(prompts) / 4 and not table["query"].duplicated().any()
    gold = prompts.drop_duplicates(["fact", "wording"])
    for row, other in zip(table.itertuples(), gold.itertuples(), strict=True):
        assert row.prompt in other.prompt and row.answer == other.gold
        assert not any(f": {option}" in row.prompt for option in other.options) and "\n" not in row.prompt
    assert set(table.loc[table["language"] == "ja", "space"]) == {""}
    with pytest.raises(InputError, match="wordings: found no"):
        without_options(prompts, wordings.head(1))
