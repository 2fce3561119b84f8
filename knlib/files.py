"""Files that are whole or not there: a killed run leaves no half of one under its name."""

import os
from collections.abc import Callable
from pathlib import Path

# What a killed run may leave, beside the files.
LEFTOVERS = ".*.tmp"


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """`write(temporary)` writes under another name in the folder; then the file is flushed to disk and renamed.

    Example
    -------
    >>> atomically(Path("table.parquet"), table.to_parquet)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write(temporary)
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """`atomically` a text in UTF-8, its line ends as they are."""
    atomically(path, lambda temporary: temporary.write_bytes(text.encode()))
