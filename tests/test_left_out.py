"""Languages left out of localization: who locates whom, effects against single calls, the stored result."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from synthetic_neurons import attributions_of
from tiny_models import tiny_model

import knlib.left_out
from knlib.attribution import attribute
from knlib.effects import effects
from knlib.errors import InputError
from knlib.language_effects import WITHOUT, effect_matrix, language_effects
from knlib.languages import CODES
from knlib.left_out import (
    known_queries,
    load_left_out,
    results_path,
    run_left_out,
    save_left_out,
    split_templates,
)
from knlib.left_out_effects import (
    COLUMNS,
    by_fact_and_language,
    compare_left_out,
    folds,
    left_out_effects,
    left_out_neurons,
    left_out_summary,
    verdict,
    verdicts,
)
from knlib.localization import LOCALIZERS, localize, register

LANGUAGES = ("en", "fr", "ja", "ru")
NEURONS = 24


def queries(template):
    return pd.DataFrame([
        {"query": f"{fact}|{code}/{template}{i}", "fact": fact, "relation": "r", "language": code,
         "template": f"{code}/{template}{i}", "prompt": f"{start} {prompt}", "space": "", "answer": answer, "suffix": ".",
         "subject": start}
        for fact, start in (("r:A", "bada"), ("r:B", "nu"), ("r:C", "sipo"))
        for code, answer in zip(LANGUAGES, ("mo", "pe", "mota", "ki"), strict=True)
        for i, prompt in enumerate(("kilo", "sipo ta"))
    ])  # fmt: skip


LOCATED, HELD_OUT = queries("a"), queries("b")


def made_up():
    """Scores in which r:A has neuron 5 of layer 1 in all languages, 7 in all but Japanese; r:B has 2 in English alone."""
    scores = np.zeros((len(LOCATED), 3, NEURONS))
    for row, (fact, language) in enumerate(zip(LOCATED["fact"], LOCATED["language"], strict=True)):
        scores[row, 0, 9] = 0.01  # a query without a positive score would be invalid
        if fact == "r:A":
            scores[row, 1, 5] = 1.0
            scores[row, 1, 7] = 0.0 if language == "ja" else 0.9
        elif language == "en":
            scores[row, 2, 2] = 1.0
    return attributions_of(scores, LOCATED["query"])


def pairs(table):
    return set(zip(table["layer"], table["neuron"], strict=True))


def test_folds_keep_relatives_together():
    assert folds(CODES) == [("en", "de"), ("fr", "es", "pt"), ("tr", "ru", "ar"), ("hi", "zh", "ja"), ("ko",)]
    assert folds(("es", "fr", "pt", "en"), 3) == [("en",), ("fr", "es"), ("pt",)]  # two must stay
    assert folds(("ja", "en", "de")) == [("en",), ("de",), ("ja",)]
    assert folds(("xx", "yy", "en"), 1) == [("en",), ("xx",), ("yy",)]
    for size in range(1, 12):
        groups = folds(CODES, size)
        assert sorted(sum(groups, ())) == sorted(CODES) and max(map(len, groups)) <= size
    with pytest.raises(InputError, match="at least three"):
        folds(("en", "de", "en"))
    with pytest.raises(InputError, match="size: found 0"):
        folds(CODES, 0)


def test_a_language_has_no_say_in_the_neurons_it_is_tested_with():
    table = left_out_neurons(made_up(), LOCATED, localizer="min_lang", size=1, t=0.5, min_families=1)
    own = table[table["fact"] == "r:A"].groupby("language").apply(pairs)
    assert own["ja"] == {(1, 5), (1, 7)}
    assert own["en"] == own["ru"] == own["fr"] == {(1, 5)}
    assert set(table["scope"]) == {"all"}
    # r:B's neuron is English alone: with English left out it is none, with English in it is not in all.
    assert (2, 2) not in pairs(table)
    # Scores of the left-out language may be anything.
    other = made_up()
    other.scores.values[LOCATED["language"].to_numpy() == "ja"] = np.random.default_rng(0).random((6, 3, NEURONS))
    again = left_out_neurons(other, LOCATED, localizer="min_lang", size=1, t=0.5, min_families=1)
    for name in ("fact", "layer", "neuron", "score"):
        assert (
            again.loc[again["language"] == "ja", name].tolist() == table.loc[table["language"] == "ja", name].tolist()
        )


def test_two_languages_are_enough_where_only_two_are_left():
    three = LOCATED[LOCATED["language"].isin(["en", "fr", "ja"])]
    table = left_out_neurons(made_up(), three, localizer="min_lang", t=0.5)
    assert set(table.loc[table["fact"] == "r:A", "language"]) == {"en", "fr", "ja"}


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_effects_are_those_of_single_calls(kind):
    model = tiny_model(kind)
    found = attribute(model, LOCATED)
    options = {"localizer": "mean", "size": 2, "t": 0.3, "min_gold_prob": 0}
    table = left_out_effects(model, found, LOCATED, HELD_OUT, seed=5, **options)
    assert table.columns.tolist() == COLUMNS and len(table)
    assert (table["queries"] == 2).all() and set(table["language"]) == set(LANGUAGES)
    for row in table.itertuples():
        group = next(group for group in folds(LANGUAGES, 2) if row.language in group)
        known = LOCATED[~LOCATED["language"].isin(group)]
        own = localize("mean", found, known, t=0.3, resamples=0, min_gold_prob=0, min_languages=2, min_families=1)
        own = own[(own["scope"] == "all") & (own["fact"] == row.fact)]
        asked = HELD_OUT[(HELD_OUT["fact"] == row.fact) & (HELD_OUT["language"] == row.language)]
        alone = effects(model, asked, own, controls=("layer_matched",), match=("fact",), seed=5)
        alone = alone.set_index("condition")
        assert row.neurons == len(own)
        assert row.p_before == pytest.approx(alone.loc["neurons", "p_before"].mean(), rel=1e-6)
        assert row.p_neurons == pytest.approx(alone.loc["neurons", "p_after"].mean(), rel=1e-6)
        assert row.p_control == pytest.approx(alone.loc["layer_matched", "p_after"].mean(), rel=1e-6)
        assert row.log_neurons == pytest.approx(alone.loc["neurons", "log_p_after"].mean(), rel=1e-6)
    assert (table["p_neurons"] - table["p_before"]).abs().max() > 1e-8


def test_no_neurons_change_nothing_and_shared_templates_are_an_error():
    model, found = tiny_model("gpt2"), made_up()
    table = left_out_effects(model, found, LOCATED, HELD_OUT, localizer="min_lang", t=2.0)
    assert len(table) == 3 * 4 and (table["neurons"] == 0).all()
    assert (table["p_neurons"] == table["p_before"]).all() and (table["p_control"] == table["p_before"]).all()
    with_neurons, known = verdicts(table)
    assert with_neurons == "0 facts with neurons: too few for an interval"
    assert known.startswith("all 3 known facts: P(answer) changes by +0 %") and "does not exclude 0" in known
    with pytest.raises(InputError, match="held_out: found 'en/a0'"):
        left_out_effects(model, found, LOCATED, LOCATED)


def rows(values):
    """One row per (fact, language) -> (p before, under the neurons, under the control)."""
    table = pd.DataFrame(
        [(*key, "r", 3, 2, *p, *np.log(p)) for key, p in values.items()],
        columns=["fact", "language", "relation", "neurons", "queries", *COLUMNS[5:]],
    )
    return table[COLUMNS]


def test_summary_by_hand():
    table = rows({("A", "en"): (0.8, 0.2, 0.8), ("B", "en"): (0.4, 0.1, 0.4), ("A", "ja"): (0.6, 0.6, 0.6),
                  ("B", "ja"): (0.2, 0.2, 0.2), ("C", "ru"): (0.5, 0.4, 0.5)})  # fmt: skip
    summary = left_out_summary(table, "language")
    assert summary.index.tolist() == ["en", "ja"]  # ru: one fact only
    en = summary.loc["en"]
    assert en["change"] == pytest.approx(-0.9 / 1.2) and en["control"] == 0
    assert en["difference"] == pytest.approx(-0.45) and en["excludes_0"]
    assert en["log_difference"] == pytest.approx(np.log(0.25)) and en["neurons"] == 3 and en["facts"] == 2
    assert summary.loc["ja", "difference"] == 0 and not summary.loc["ja", "excludes_0"]
    whole = left_out_summary(table).loc["all"]
    assert whole["facts"] == 3 and whole["difference"] == pytest.approx((-0.6 - 0.3 - 0.1) / 5)


def test_verdict_says_which_way_it_went():
    facts = [f"f{i}" for i in range(12)]
    lower = left_out_summary(rows({(f, "en"): (0.8, 0.2 + i / 100, 0.8) for i, f in enumerate(facts)})).loc["all"]
    text = verdict(lower)
    assert "lower than with random neurons, the interval excludes 0" in text and "-68 %" in text
    higher = left_out_summary(rows({(f, "en"): (0.5, 0.8 + i / 100, 0.5) for i, f in enumerate(facts)})).loc["all"]
    assert "higher than with random neurons" in verdict(higher)
    draw = np.random.default_rng(0)
    noise = left_out_summary(rows({(f, "en"): (0.5, *draw.uniform(0.4, 0.6, 2)) for f in facts})).loc["all"]
    assert "does not exclude 0" in verdict(noise)


def test_language_effects_ask_every_language_with_every_source():
    model = tiny_model("gpt2")
    neurons = pd.DataFrame(
        [("r:A", "en", 0, 3), ("r:A", "ja", 1, 7), ("r:A", "ja", 2, 4), ("r:B", "ru", 1, 5), ("r:B", "all", 0, 6)],
        columns=["fact", "scope", "layer", "neuron"],
    )
    table = language_effects(model, neurons, HELD_OUT, seed=2)
    # Two sources of r:A, one of r:B, each asked in four languages by two templates, under two conditions.
    assert len(table) == 3 * 4 * 2 * 2
    kinds = {(r.source, r.language): r.distance for r in table.itertuples()}
    assert (
        kinds["en", "fr"] == "same script"
        and kinds["ja", "ja"] == "same language"
        and kinds["ru", "en"] == "other script"
    )
    one = table[(table["fact"] == "r:A") & (table["source"] == "ja") & (table["language"] == "fr")]
    asked = HELD_OUT[(HELD_OUT["fact"] == "r:A") & (HELD_OUT["language"] == "fr")]
    own = effects(model, asked, neurons[neurons["scope"] == "ja"], match=("fact",), controls=(), seed=2)
    mine = one[one["condition"] == "neurons"]
    assert mine["p_after"].to_numpy() == pytest.approx(own["p_after"].to_numpy(), rel=1e-6)
    matrix = effect_matrix(table, LANGUAGES)
    control = one.loc[one["condition"] == "layer_matched", "p_after"].sum()
    expected = (own["p_after"].sum() - control) / own["p_before"].sum()
    assert matrix.loc["ja", "fr"] == pytest.approx(expected, rel=1e-6)
    assert matrix.loc["fr"].isna().all() and matrix.columns.tolist() == list(LANGUAGES)
    without = neurons[neurons["scope"] == "ja"].assign(language="en")
    more = language_effects(model, neurons, HELD_OUT, without=without, seed=2)
    assert more[more["source"] != WITHOUT].reset_index(drop=True).equals(table)
    rest = more[more["source"] == WITHOUT]
    assert set(rest["language"]) == {"en"} and set(rest["distance"]) == {"left out"} and set(rest["fact"]) == {"r:A"}
    again = table[(table["source"] == "ja") & (table["language"] == "en") & (table["condition"] == "neurons")]
    left = rest[rest["condition"] == "neurons"]
    assert left["p_after"].to_numpy() == pytest.approx(again["p_after"].to_numpy(), rel=1e-6)
    matrix = effect_matrix(more, LANGUAGES)
    assert matrix.index[-1] == WITHOUT and matrix.loc[WITHOUT].notna().tolist() == [c == "en" for c in LANGUAGES]
    wide = by_fact_and_language(rest).iloc[0]
    assert by_fact_and_language(rest.head(0)).empty
    assert wide["neurons"] == 2 and wide["queries"] == 2 and wide["p_neurons"] == pytest.approx(left["p_after"].mean())
    with pytest.raises(InputError, match="neurons of the facts that are asked"):
        language_effects(model, neurons.assign(fact="r:Z"), HELD_OUT)


def test_every_registered_localizer_is_compared():
    model, find, known = tiny_model("gpt2"), LOCALIZERS["mean"].find, list(LOCALIZERS)
    register("only_here", reach=("t",))(lambda fact, *, t=0.3: find(fact, t=t))
    register("nothing", reach=("t",))(lambda fact, *, t=2.0: find(fact, t=t))
    try:
        table = compare_left_out(model, made_up(), LOCATED, HELD_OUT, most=1)
    finally:
        del LOCALIZERS["only_here"], LOCALIZERS["nothing"]
    assert table.index.tolist() == [(s, n) for s in ("whole", "best") for n in (*known, "only_here", "nothing")]
    best, whole = table.loc["best"], table.loc["whole"]
    assert (best["neurons"].drop("nothing") == 1).all() and whole.loc["mean", "neurons"] > 1
    assert best.loc["only_here"].tolist() == best.loc["mean"].tolist()
    assert best.loc["nothing", "facts"] == 0 and best.loc["nothing"].isna().sum() == len(best.columns) - 1
    with pytest.raises(InputError, match="held_out: found 'en/a0'"):
        compare_left_out(model, made_up(), LOCATED, LOCATED)


# --- the command ---


FACTS = pd.DataFrame([
    {"fact": f"r:{name}", "relation": "r", "object_id": answer, "subject": dict.fromkeys(LANGUAGES, (start,)),
     "object": dict.fromkeys(LANGUAGES, (answer,)), "leak": (), "ambiguous": (), "withheld": ()}
    for name, start, answer in (("A", "bada", "mo"), ("B", "nu", "pe"), ("C", "sipo", "ki"), ("D", "ru", "mota"))
])  # fmt: skip
TEMPLATES = pd.DataFrame([
    {"template": f"r/{code}/{split}{i}{opening}", "relation": "r", "language": code, "text": f"{text}{{S}} {{O}}.",
     "split": split, "held_out": "core" if split == "held_out" else None}
    for code in LANGUAGES for split, texts in (("train", ("kilo ", "ta ")), ("held_out", ("sipo ta ",)))
    for i, text in enumerate(texts) for opening in (("", "+") if split == "train" else ("",))
])  # fmt: skip


def test_templates_are_split_without_openings():
    locate, test = split_templates(TEMPLATES, phrasings=1)
    assert locate["template"].tolist() == [f"r/{code}/train0" for code in LANGUAGES]
    assert test["template"].tolist() == [f"r/{code}/held_out0" for code in LANGUAGES]
    with pytest.raises(InputError, match="none with held_out core"):
        split_templates(TEMPLATES[TEMPLATES["split"] == "train"])


def test_known_queries_keep_what_is_answered_right(monkeypatch):
    right = LOCATED["language"].isin(["en", "fr", "ja"]) & (LOCATED["fact"] != "r:B")
    right &= ~LOCATED["query"].isin(["r:A|ja/a1"])  # one of two: not more than half
    monkeypatch.setattr(knlib.left_out, "predict", lambda model, queries, facts: pd.DataFrame({"correct": right}))
    kept = known_queries(None, LOCATED, None, least=3)
    assert set(zip(kept["fact"], kept["language"], strict=True)) == {("r:C", c) for c in ("en", "fr", "ja")}
    with pytest.raises(InputError, match="tiny: found no fact"):
        known_queries(SimpleNamespace(name="tiny"), LOCATED, None, least=4)
    kept = known_queries(None, LOCATED, None, least=2)
    assert set(kept["fact"]) == {"r:A", "r:C"} and set(kept.loc[kept["fact"] == "r:A", "language"]) == {"en", "fr"}


def test_command_runs_saves_loads_and_refuses_other_weights(tmp_path, monkeypatch):
    model = tiny_model("gpt2")
    everything = lambda model, queries, facts, **_: queries  # noqa: E731 (a random model knows nothing)
    monkeypatch.setattr(knlib.left_out, "known_queries", everything)
    monkeypatch.setattr(knlib.left_out, "LOCALIZERS", ("mean",))
    found = run_left_out(model, FACTS, TEMPLATES, facts_each=3, localizers=("mean",), store=tmp_path / "store")
    assert found.table["localizer"].unique().tolist() == ["mean"] and found.provenance["known"] == 3
    assert set(found.table["fact"]) <= set(FACTS["fact"])
    path = results_path("some/model-1", tmp_path)
    assert path.name == "left_out_some-model-1.csv"
    save_left_out(found, path)
    again = load_left_out(model, path)
    pd.testing.assert_frame_equal(again.table, found.table, check_dtype=False)
    assert again.provenance["model_hash"] == model.hash and again.provenance["attribution"]["method"] == "ig"
    # A second run takes the attributions from the store and ends with the same bytes.
    monkeypatch.setattr("knlib.attribution_store.attribute", None)
    once = path.read_bytes()
    save_left_out(
        run_left_out(model, FACTS, TEMPLATES, facts_each=3, localizers=("mean",), store=tmp_path / "store"), path
    )
    assert path.read_bytes() == once
    with pytest.raises(InputError, match=r"left_out_some-model-1.csv, model_hash: .* run python -m knlib.left_out"):
        load_left_out(tiny_model("gpt2", seed=1), path)
    with pytest.raises(InputError, match="no such file"):
        load_left_out(model, tmp_path / "none.csv")


def test_bad_arguments_are_one_line(capsys):
    assert knlib.left_out.main(["atlas-gpt2", "--languages", "xx"]) == 2
    assert capsys.readouterr().err.startswith("error: languages: found 'xx'")
