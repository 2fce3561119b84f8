"""What several editors would compute anew for the same requests, kept within a `with` block; and what each would take alone."""

import time
from collections.abc import Callable, Hashable
from contextlib import contextmanager
from typing import Any

_kept: dict[Hashable, tuple[Any, float]] | None = None  # what was found, and its seconds; None outside of a block
_spared = 0.0


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


def remembers() -> bool:
    """Whether a `remembered` block is open."""
    return _kept is not None


def recall(key: Hashable, usable: Callable[[Any], bool] = lambda found: True) -> Any:
    """What a block keeps under a key, or None; if it is `usable`, and its seconds count as spared.

    Example
    -------
    >>> recall(("text", "abc")) is None
    True
    """
    global _spared
    found, seconds = (_kept or {}).get(key, (None, 0.0))
    if found is None or not usable(found):
        return None
    _spared += seconds
    return found


def keep(key: Hashable, found: Any, seconds: float) -> None:
    """Lets a block keep what took so many seconds; outside of one nothing is kept."""
    if _kept is not None:
        _kept[key] = found, seconds


def once(key: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` gives (not None), within a block only the first time.

    Example
    -------
    >>> once(("text", "abc"), lambda: len("abc"))
    3
    """
    found = recall(key)
    if found is None:
        start, spared = time.perf_counter(), spared_seconds()
        found = make()
        keep(key, found, seconds_alone(start, spared))
    return found


@contextmanager
def for_all_edits():
    """What is computed within the block serves all edits of a model, such as moments of text: no edit is to pay for it."""
    global _spared
    start = time.perf_counter()
    try:
        yield
    finally:
        _spared -= time.perf_counter() - start


def seconds_alone(started: float, spared: float) -> float:
    """Seconds since `started` that a search takes alone: with what it recalled, without what serves all edits.

    `started`, `spared`: `time.perf_counter()` and `spared_seconds()` at its beginning.
    """
    return time.perf_counter() - started + _spared - spared


def spared_seconds() -> float:
    """Seconds that results were recalled instead of computed, less those of `for_all_edits`, in this process so far."""
    return _spared
