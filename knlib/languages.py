"""The twelve languages of Atlas: name, family, script and direction of each; scripts of further languages."""

from dataclasses import dataclass

import regex

from .errors import InputError, Literal


@dataclass(frozen=True)
class Language:
    """One language: ISO 639-1 `code`, English `name`, `own_name`, `family`, `script`, `direction`."""

    code: str
    name: str
    own_name: str
    family: str
    script: str
    direction: str = "ltr"

    @property
    def space(self) -> str:
        """What separates words in writing: `" "`, or `""` for Chinese and Japanese."""
        return "" if self.code in ("zh", "ja") else " "


LANGUAGES: dict[str, Language] = {
    row.code: row
    for row in (
        Language("en", "English", "English", "Germanic", "Latin"),
        Language("de", "German", "Deutsch", "Germanic", "Latin"),
        Language("fr", "French", "français", "Romance", "Latin"),
        Language("es", "Spanish", "español", "Romance", "Latin"),
        Language("pt", "Portuguese", "português", "Romance", "Latin"),
        Language("ru", "Russian", "русский", "Slavic", "Cyrillic"),
        Language("ar", "Arabic", "العربية", "Semitic", "Arabic", "rtl"),
        Language("hi", "Hindi", "हिन्दी", "Indo-Aryan", "Devanagari"),
        Language("zh", "Chinese", "中文", "Sinitic", "Han"),
        Language("ja", "Japanese", "日本語", "Japonic", "Japanese"),
        Language("ko", "Korean", "한국어", "Koreanic", "Hangul"),
        Language("tr", "Turkish", "Türkçe", "Turkic", "Latin"),
    )
}

CODES: tuple[str, ...] = tuple(LANGUAGES)

_SCRIPT_PATTERNS = {
    script: regex.compile(pattern)
    for script, pattern in {
        "Latin": r"\p{Latin}",
        "Cyrillic": r"\p{Cyrillic}",
        "Arabic": r"\p{Arabic}",
        "Devanagari": r"\p{Devanagari}",
        "Han": r"\p{Han}",
        "Japanese": r"[\p{Han}\p{Hiragana}\p{Katakana}]",
        "Hangul": r"\p{Hangul}",
    }.items()
}
# Languages of other benchmarks (mLAMA, mParaRel). Those written in two scripts (sr sh tt uz) are left out on purpose.
_MORE_SCRIPTS = {
    "Latin": "af an ast az bar br bs ca ceb cs cy da et eu fi fy ga gl hr ht hu id ind io is it jv la lb lmo lt lv mg min ms "
             "nds nl nn oc pl pms ro scn sco sk sl sq su sv sw tl vi vo war yo",
    "Cyrillic": "ba be bg ce cv kk ky mk mn tg uk",
    "Arabic": "azb fa pnb ur",
    "Devanagari": "mr ne new",
    "Han": "zh-hans zh-hant",
    "Bengali": "bn bpy", "Greek": "el", "Gujarati": "gu", "Hebrew": "he", "Armenian": "hy", "Georgian": "ka",
    "Kannada": "kn", "Malayalam": "ml", "Myanmar": "my", "Gurmukhi": "pa", "Tamil": "ta", "Telugu": "te", "Thai": "th",
}  # fmt: skip
_SCRIPT_OF = {code: row.script for code, row in LANGUAGES.items()} | {
    code: script for script, codes in _MORE_SCRIPTS.items() for code in codes.split()
}
_SCRIPT_PATTERNS |= {
    script: regex.compile(rf"\p{{{script}}}") for script in _MORE_SCRIPTS if script not in _SCRIPT_PATTERNS
}


def parse_languages(
    value: str | list[str] | tuple[str, ...] | None, *, known: tuple[str, ...] = CODES
) -> tuple[str, ...]:
    """Codes from `"en,de"`, a list, or None (all known), in the order given and without repetition.

    `known`: the codes to choose from, the twelve of Atlas unless said otherwise. Raises `InputError` for any other.

    Example
    -------
    >>> parse_languages("en, ja,en")
    ('en', 'ja')
    """
    if value is None or value == "all":
        return tuple(known)
    codes = value.split(",") if isinstance(value, str) else list(value)
    codes = tuple(dict.fromkeys(code.strip() for code in codes))
    for code in codes:
        if code not in known:
            raise InputError("languages", found=code, expected=Literal("one of " + " ".join(known)))
    return codes


def script_of(language: str) -> str:
    """The script of a language; the code itself where it is not listed here, or where the language is written in two.

    Example
    -------
    >>> script_of("tr"), script_of("uk")
    ('Latin', 'Cyrillic')
    """
    return _SCRIPT_OF.get(language, language)


def in_script(text: str, language: str) -> bool:
    """Whether more letters of `text` belong to the script of `language` than do not.

    Text of a language whose script is not listed here, or that is written in two, is accepted as it is.

    Example
    -------
    >>> in_script("Париж", "ru"), in_script("Paris", "ru")
    (True, False)
    """
    if language not in _SCRIPT_OF:
        return True
    letters = [c for c in text if c.isalpha()]
    right = _SCRIPT_PATTERNS[_SCRIPT_OF[language]].findall("".join(letters))
    return 2 * len(right) > len(letters)
