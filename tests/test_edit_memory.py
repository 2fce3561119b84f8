"""What editors share in a comparison, and the seconds that each is charged with."""

import pytest

from knlib.editing import memory
from knlib.editing.memory import for_all_edits, keep, once, recall, remembered, seconds_alone, spared_seconds


@pytest.fixture
def clock(monkeypatch):
    """Time passes where a test says so."""
    now = [100.0]
    monkeypatch.setattr(memory.time, "perf_counter", lambda: now[0])

    def passes(seconds, value=None):
        now[0] += seconds
        return value

    return passes


def test_nothing_is_kept_outside_of_a_block():
    made = []
    for _ in range(2):
        once("key", lambda: made.append(1) or "found")
    keep("key", "found", 1.0)
    assert len(made) == 2 and recall("key") is None
    with remembered():
        assert recall("key") is None


def test_an_inner_block_keeps_for_the_outer_one():
    with remembered():
        with remembered():
            assert once("key", lambda: 1) == 1
        assert once("key", lambda: 2) == 1 == recall("key")
    assert once("key", lambda: 2) == 2


def test_what_is_recalled_costs_what_it_took_to_make(clock):
    with remembered():
        for own in (1.0, 3.0):
            start, spared = memory.time.perf_counter(), spared_seconds()
            assert once("key", lambda: clock(5.0, "found")) == "found"
            clock(own)
            assert seconds_alone(start, spared) == 5.0 + own
        keep("key", "another", 2.0)
        start, spared = memory.time.perf_counter(), spared_seconds()
        assert recall("key", lambda found: found != "another") is None and seconds_alone(start, spared) == 0.0
        assert recall("key") == "another" and seconds_alone(start, spared) == 2.0


def test_no_edit_pays_for_what_serves_all(clock):
    start, spared = memory.time.perf_counter(), spared_seconds()
    clock(1.0)
    with pytest.raises(ValueError, match="failed"), for_all_edits():
        clock(7.0)
        raise ValueError("failed")
    assert seconds_alone(start, spared) == 1.0
