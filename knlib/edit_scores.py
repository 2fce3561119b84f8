"""Scores of generated answers: exact match after normalization, and two overlaps that the literature both calls F1."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence


def normalised(text: str) -> str:
    """The text in NFKC, casefolded, without punctuation, with single blanks between words.

    Punctuation is what Unicode calls so (categories P*); marks and symbols stay: Devanagari is written with the former.

    Example
    -------
    >>> normalised(" Saint-Denis,  ＦＲＡＮＣＥ.")
    'saintdenis france'
    """
    # Casefolding may undo the normal form (as of ΐ), hence twice.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join("".join(c for c in text if not unicodedata.category(c).startswith("P")).split())


def exact_match(generated: str, names: str | Iterable[str]) -> bool:
    """Whether the first line of a generated text is one of the accepted names, both `normalised`.

    An empty name matches nothing, not even an empty text.

    Example
    -------
    >>> exact_match(" París.\\nLa capital", ("Paris", "París"))
    True
    """
    line = normalised(generated.lstrip().split("\n")[0])
    return line != "" and line in {normalised(name) for name in ([names] if isinstance(names, str) else names)}


def pr_overlap(predicted: Sequence, gold: Sequence) -> float:
    """Precision times recall of the tokens, |A n B|^2 / (|A| |B|); 0 where there is none.

    What the evaluation code of Bi-ZsRE (Wang et al. 2024, arXiv 2309.08952) and ReMaKE called F1 until November 2024:
    it is the square of the geometric mean of precision and recall, never above `f1`. Tokens count as often as they
    come.

    Example
    -------
    >>> pr_overlap([1, 2, 3, 4], [1, 2])
    0.5
    """
    shared = _shared(predicted, gold)
    return shared**2 / (len(predicted) * len(gold)) if shared else 0.0


def f1(predicted: Sequence, gold: Sequence) -> float:
    """Harmonic mean of precision and recall of the tokens, 2 |A n B| / (|A| + |B|); 0 where none is shared.

    For token ids, or words of `normalised` text; order does not count. A text in place of its tokens is refused
    (`TypeError`): it would be compared letter by letter.

    Example
    -------
    >>> round(f1([1, 2, 3, 4], [1, 2]), 4)
    0.6667
    """
    shared = _shared(predicted, gold)
    return 2 * shared / (len(predicted) + len(gold)) if shared else 0.0


def _shared(predicted: Sequence, gold: Sequence) -> int:
    if isinstance(predicted, str) or isinstance(gold, str):
        raise TypeError("tokens are wanted, not a text: split it first")
    return (Counter(predicted) & Counter(gold)).total()
