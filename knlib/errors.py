"""One exception for everything that is wrong with the input."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Bad input, said in one line: where it is, what was found, what was expected.

    Example
    -------
    >>> str(InputError("facts.jsonl, line 3, field 'relation'", found="", expected="text"))
    "facts.jsonl, line 3, field 'relation': found '', expected text"
    """

    def __init__(self, where: object, *, found: object, expected: str):
        super().__init__(f"{where}: found {_short(found)}, expected {expected}")

    def __reduce__(self):
        # Keyword arguments are not pickled, and errors cross from one process to another.
        return _from_text, (str(self),)


def _from_text(text: str) -> InputError:
    error = InputError.__new__(InputError)
    ValueError.__init__(error, text)
    return error


def _short(value: object) -> str:
    text, limit = (" ".join(value.split()), 200) if isinstance(value, Literal) else (repr(value), 80)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def said_in_one_line(work: Callable[[], object]) -> int:
    """Do the work of a command: 0, or 2 with one line on stderr where the input is wrong.

    Example
    -------
    >>> sys.exit(said_in_one_line(lambda: load_facts("folder")))  # doctest: +SKIP
    """
    try:
        work()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class Literal(str):
    """Words that stand in an error message as they are, without quotation marks."""
