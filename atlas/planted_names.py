"""Names of subjects that do not exist, in twelve languages: syllables, and how each script writes them.

Only sounds that all scripts tell apart: no l beside r (Japanese), no v or p beside b (Korean, Arabic), no e beside i and no o
beside u (Arabic). So two names that differ in one language differ in all.
"""

import random

from knlib.languages import CODES

CONSONANTS, VOWELS = "bdghkmnrstz", "aiu"
SYLLABLES = tuple(c + v for c in CONSONANTS for v in VOWELS)
LENGTH = 3  # syllables of a name
FINAL = 0.4  # share of the names in -a that get an n behind it
APART = 2  # syllables in which two names differ at least

CYRILLIC = dict(zip(CONSONANTS + VOWELS, "бдгхкмнрстзаиу", strict=True))
ARABIC = dict(zip(CONSONANTS + VOWELS, "بدغهكمنرستزايو", strict=True))
DEVANAGARI = {**dict(zip(CONSONANTS, "बदगहकमनरसत", strict=False)), "z": "ज़", **dict(zip(VOWELS, "ािु", strict=True))}
HAN = dict(zip(SYLLABLES, "巴比布达迪杜加吉古哈希胡卡基库马米穆纳尼努拉里鲁萨西苏塔蒂图扎兹祖", strict=True)) | {
    "n": "恩"
}
KATAKANA = dict(zip(
    SYLLABLES,
    ["バ", "ビ", "ブ", "ダ", "ディ", "ドゥ", "ガ", "ギ", "グ", "ハ", "ヒ", "フ", "カ", "キ", "ク", "マ", "ミ", "ム", "ナ", "ニ", "ヌ", "ラ", "リ", "ル", "サ", "シ", "ス", "タ", "ティ", "トゥ", "ザ", "ジ", "ズ"],
    strict=True,
)) | {"n": "ン"}  # fmt: skip
# Places of the letters in Unicode's order of Hangul syllables.
HANGUL_FIRST = {"g": 0, "n": 2, "d": 3, "r": 5, "m": 6, "b": 7, "s": 9, "z": 12, "k": 15, "t": 16, "h": 18}
HANGUL_VOWEL = {"a": 0, "u": 13, "i": 20}
HANGUL_N = 4


def spelled(syllables: tuple[str, ...], final: str, language: str) -> str:
    """A name in the writing of a language. `final`: `"n"` or nothing.

    Example
    -------
    >>> [spelled(("za", "mi", "ku"), "", code) for code in ("en", "fr", "ru", "ja", "ko")]
    ['Zamiku', 'Zamicou', 'Замику', 'ザミク', '자미쿠']
    """
    if language in ("zh", "ja"):
        table = HAN if language == "zh" else KATAKANA
        return "".join(table[s] for s in (*syllables, *final))
    if language == "ko":
        codes = [0xAC00 + HANGUL_FIRST[c] * 588 + HANGUL_VOWEL[v] * 28 for c, v in syllables]
        return "".join(map(chr, [*codes[:-1], codes[-1] + (HANGUL_N if final else 0)]))
    letters = "".join(syllables) + final
    if language in ("ru", "ar", "hi"):
        table = {"ru": CYRILLIC, "ar": ARABIC, "hi": DEVANAGARI}[language]
        name = "".join(table[letter] for letter in letters)
        return name.capitalize() if language == "ru" else name
    return _latin(letters, language).capitalize()


def _latin(letters: str, language: str) -> str:
    if language in ("fr", "es", "pt"):
        letters = letters.replace("ki", "qui").replace("ka", "ca").replace("ku", "cu")
    if language == "fr":
        letters = letters.replace("qui", "q!").replace("u", "ou").replace("q!", "qui")
    if language == "pt" and letters.endswith("n"):
        letters = letters[:-1] + "m"
    return letters


def invented_names(number: int, *, taken: set[str], seed: int = 0) -> list[dict[str, list[str]]]:
    """So many invented subjects: language -> names, no two alike in more than one syllable, none of them in `taken`."""
    rng, found, names = random.Random(seed), [], []
    while len(names) < number:
        syllables = tuple(rng.choice(SYLLABLES) for _ in range(LENGTH))
        final = "n" if syllables[-1].endswith("a") and rng.random() < FINAL else ""
        close = any(sum(a != b for a, b in zip(syllables, other, strict=True)) < APART for other in found)
        own = {code: [spelled(syllables, final, code)] for code in CODES}
        if close or len(set(syllables)) < LENGTH or any(own[code][0] in taken for code in CODES):
            continue
        found.append(syllables)
        names.append(own)
    return names
