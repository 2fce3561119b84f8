"""What several editors would compute anew for the same requests, kept within a `with` block."""

from collections.abc import Callable, Hashable
from contextlib import contextmanager
from typing import Any

_kept: dict | None = None  # None outside of a block


@contextmanager
def remembered():
    """Within the block nothing that was computed once for the same weights, prompts and options is computed again.

    For comparisons: editors that start from the same values or attributions, requests that come back in other batches.
    Only where nothing but the weights tells the model's states apart: not within other changes' `applied` blocks that keep
    their edits beside the weights.

    Example
    -------
    >>> with remembered():
    ...     changes = [find_change(name, model, requests, **options) for name in ("memit", "alphaedit")]
    """
    global _kept
    before, _kept = _kept, {} if _kept is None else _kept
    try:
        yield
    finally:
        _kept = before


def memory() -> dict | None:
    """What the block keeps, by hashable keys; None outside of one.

    Example
    -------
    >>> memory() is None
    True
    """
    return _kept


def once(key: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` gives, within a block only the first time.

    Example
    -------
    >>> once(("text", "abc"), lambda: len("abc"))
    3
    """
    if _kept is None:
        return make()
    if key not in _kept:
        _kept[key] = make()
    return _kept[key]
