"""The notebooks' kept numbers are really compared: one changed digit in a kept table fails the run."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "01_benchmark_inspection.ipynb"


def run(notebook, folder: Path) -> subprocess.CompletedProcess:
    """nbval as `make test` calls it, on one notebook in another folder."""
    path = folder / "copy.ipynb"
    nbformat.write(notebook, path)
    options = re.search(r"^NBVAL = (.*)$", (ROOT / "Makefile").read_text("utf8"), re.M)[1].split()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def head():
    """The first compared table of notebook 01 and what it needs: the cells up to it, in a copy."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    last = next(i for i, c in enumerate(notebook.cells) if "nbval-check-output" in c.metadata.get("tags", []))
    notebook.cells = notebook.cells[: last + 1]
    return notebook


def test_kept_output_passes(head, tmp_path):
    result = run(head, tmp_path)
    assert result.returncode == 0, result.stdout[-2000:]


def test_changed_number_fails(head, tmp_path):
    changed = nbformat.from_dict(head)
    data = changed.cells[-1].outputs[0]["data"]
    for kind, text in data.items():
        data[kind] = re.sub(r"\d{3}", lambda found: str(int(found[0]) - 1), text, count=1)
    result = run(changed, tmp_path)
    assert result.returncode == 1, result.stdout[-2000:]
    assert "1 failed" in result.stdout
