"""A file is whole or not there."""

import pytest

import knlib.files
from knlib.files import LEFTOVERS, atomically, write_text


def test_text_is_written_as_it_is_into_folders_that_are_made(tmp_path):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "é\r\nü\n")
    assert path.read_bytes() == "é\r\nü\n".encode() and [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("moment", ["while writing", "before the rename"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, moment):
    path = tmp_path / "table"
    write_text(path, "old")

    def stop(*_):
        raise KeyboardInterrupt

    def half(temporary):
        temporary.write_text("ne")
        if moment == "while writing":
            stop()

    if moment == "before the rename":
        monkeypatch.setattr(knlib.files.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        atomically(path, half)
    monkeypatch.undo()
    assert path.read_text() == "old" and len(list(tmp_path.glob(LEFTOVERS))) == 1
    write_text(path, "new")
    assert path.read_text() == "new"
