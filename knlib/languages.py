"""The twelve languages of Atlas: name, family, script and direction of each."""

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


def parse_languages(value: str | list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
    """Codes from `"en,de"`, a list, or None (all twelve), in the order given and without repetition.

    Raises `InputError` for a code that is not one of the twelve.

    Example
    -------
    >>> parse_languages("en, ja,en")
    ('en', 'ja')
    """
    if value is None or value == "all":
        return CODES
    codes = value.split(",") if isinstance(value, str) else list(value)
    codes = tuple(dict.fromkeys(code.strip() for code in codes))
    for code in codes:
        if code not in LANGUAGES:
            raise InputError("languages", found=code, expected=Literal("one of " + " ".join(CODES)))
    return codes


def in_script(text: str, language: str) -> bool:
    """Whether more letters of `text` belong to the script of `language` than do not.

    Languages outside the twelve are accepted as they are: nothing is known of their scripts here.

    Example
    -------
    >>> in_script("Париж", "ru"), in_script("Paris", "ru")
    (True, False)
    """
    if language not in LANGUAGES:
        return True
    letters = [c for c in text if c.isalpha()]
    right = _SCRIPT_PATTERNS[LANGUAGES[language].script].findall("".join(letters))
    return 2 * len(right) > len(letters)
