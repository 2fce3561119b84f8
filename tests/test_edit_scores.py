"""Scores of generated answers on values worked out by hand (lafn.md, section 7, test 11)."""

import pytest

from knlib.edit_scores import exact_match, f1, normalised, pr_overlap


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Paris. ", "paris"),
        ("ＰＡＲＩＳ", "paris"),  # full-width letters
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("São  Tomé\t(city)", "são tomé city"),
        ("São", "são"),  # decomposed
        ("N’Djamena", "ndjamena"),
        ("アンドラ・ラ・ベリャ", "アンドララベリャ"),
        ("हिन्दी।", "हिन्दी"),  # the danda goes, vowel signs stay
        ("你好。", "你好"),
        ("؟نعم", "نعم"),
        ("$ 5", "$ 5"),  # a symbol, no punctuation
        ("...", ""),
    ],
)
def test_normalised(text, expected):
    assert normalised(text) == expected
    assert normalised(normalised(text)) == expected


@pytest.mark.parametrize(
    ("generated", "names", "right"),
    [
        (" Paris.\nThe capital", "Paris", True),
        ("\nParis", "paris", True),
        ("Paris is", "Paris", False),
        ("Par", "Paris", False),
        ("Andorra la Vella", ("Andorra la Vieja", "Andorra la Vella"), True),
        ("", "", False),
        ("...", "!", False),
        ("", "Paris", False),
    ],
)
def test_exact_match(generated, names, right):
    assert exact_match(generated, names) is right


@pytest.mark.parametrize(
    ("predicted", "gold", "product", "harmonic"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0, 1.0),
        ([1, 2, 3, 4], [1, 2], 0.5, 2 / 3),  # P = 1/2, R = 1
        ([1, 2], [1, 2, 3, 4], 0.5, 2 / 3),
        ([1, 2, 3], [3, 4, 5, 6], 1 / 12, 2 / 7),  # P = 1/3, R = 1/4
        ([1, 1, 2], [1], 1 / 3, 1 / 2),  # the second 1 is not shared
        ([1, 1], [1, 1], 1.0, 1.0),
        ([1], [2], 0.0, 0.0),  # nothing shared: no division by zero
        ([], [1], 0.0, 0.0),
        ([1], [], 0.0, 0.0),
        ([], [], 0.0, 0.0),
        (["new", "york"], ("new",), 0.5, 2 / 3),
    ],
)
def test_overlaps(predicted, gold, product, harmonic):
    assert pr_overlap(predicted, gold) == pytest.approx(product)
    assert f1(predicted, gold) == pytest.approx(harmonic)


@pytest.mark.parametrize("score", [pr_overlap, f1])
def test_a_text_is_not_a_list_of_tokens(score):
    with pytest.raises(TypeError, match="split it first"):
        score("Paris", ["Paris"])
