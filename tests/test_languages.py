"""languages.py: the twelve languages, lists of codes, scripts."""

import pytest

from knlib.errors import InputError
from knlib.languages import CODES, LANGUAGES, in_script, parse_languages


def test_twelve_languages_of_seven_scripts():
    assert CODES == ("en", "de", "fr", "es", "pt", "ru", "ar", "hi", "zh", "ja", "ko", "tr")
    assert len({language.script for language in LANGUAGES.values()}) == 7
    assert [code for code, language in LANGUAGES.items() if language.direction == "rtl"] == ["ar"]
    assert [code for code, language in LANGUAGES.items() if not language.space] == ["zh", "ja"]
    assert all(code == language.code for code, language in LANGUAGES.items())


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        (None, CODES),
        ("all", CODES),
        ("en", ("en",)),
        ("ja,en", ("ja", "en")),
        (" en , ja,en", ("en", "ja")),
        (["tr", "hi"], ("tr", "hi")),
        (("ko", "ko"), ("ko",)),
    ],
)
def test_parse_languages_keeps_order_without_repetition(given, codes):
    assert parse_languages(given) == codes


@pytest.mark.parametrize(("given", "named"), [("en,xx", "'xx'"), ("", "''"), (["EN"], "'EN'"), ("en;de", "'en;de'")])
def test_parse_languages_names_the_unknown_and_lists_the_known(given, named):
    with pytest.raises(InputError) as caught:
        parse_languages(given)
    assert str(caught.value) == f"languages: found {named}, expected one of {' '.join(CODES)}"


def test_a_language_is_written_in_its_own_script_only():
    for code, language in LANGUAGES.items():
        for other in CODES:
            same = LANGUAGES[other].script == language.script
            both_han = code == "zh" and other == "ja"  # Japanese is written with Han characters too
            # 日本語 is written in Han characters alone, so it passes for Chinese
            assert in_script(language.own_name, other) == (same or both_han or (code, other) == ("ja", "zh")), (
                code,
                other,
            )


def test_script_is_decided_by_most_letters():
    assert in_script("Санкт-Петербург X", "ru") and not in_script("X Кот d'Ivoire", "ru")
    assert not in_script("123 -", "en")  # no letter of the script at all
    assert in_script("whatever", "sw")  # outside the twelve nothing is known
