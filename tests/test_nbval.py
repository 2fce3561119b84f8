"""The notebooks' kept numbers are really compared: one changed digit in a kept table fails the run.

That they pass unchanged is what `make test` sees of the notebooks themselves.
"""

import re
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "01_benchmark_inspection.ipynb"


def run(notebook, folder: Path) -> subprocess.CompletedProcess:
    """nbval as `make test` calls it, on one notebook in another folder."""
    path = folder / "copy.ipynb"
    nbformat.write(notebook, path)
    options = re.search(r"^NBVAL = (.*)$", (ROOT / "Makefile").read_text("utf8"), re.M)[1].split()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_changed_number_fails(tmp_path):
    changed = nbformat.read(NOTEBOOK, as_version=4)
    # The first compared table, and the cells that it needs.
    last = next(i for i, c in enumerate(changed.cells) if "nbval-check-output" in c.metadata.get("tags", []))
    changed.cells = changed.cells[: last + 1]
    data = changed.cells[-1].outputs[0]["data"]
    for kind, text in data.items():
        data[kind] = re.sub(r"\d{3}", lambda found: str(int(found[0]) - 1), text, count=1)
    result = run(changed, tmp_path)
    assert result.returncode == 1, result.stdout[-2000:]
    assert "1 failed" in result.stdout and "passed" in result.stdout
