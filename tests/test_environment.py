"""The repository installs alike everywhere: pins agree, nothing is huge, no path of one machine is in it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1_000_000
# Assembled, so that this file does not hold what it forbids.
MACHINE_PATH = re.compile(
    "(?<![\\w.-])/("
    + "|".join(("work/[a-z]", "home/[a-z]", "root/", "Users/[A-Za-z]", "content/drive", "kaggle/"))
    + ")|(?<![A-Za-z])[A-Z]:\\\\\\w"
)


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text("utf8").splitlines()
    return {line.split("==")[0]: line for line in lines if line.strip() and not line.startswith("#")}


@pytest.fixture(scope="module")
def files():
    """What is, or will be, in the repository: tracked files, and others that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    found = [ROOT / name for name in listed.decode().split("\0") if name]
    found = [path for path in found if path.is_file()]
    assert len(found) > 20
    return found


def test_environment_yml_agrees_with_pyproject(project):
    """pip installs the package itself, so pyproject's bounds hold; what is named beside it must keep them."""
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text("utf8"))["dependencies"]
    conda = [entry for entry in dependencies if isinstance(entry, str)]
    assert {re.split("[=<>]", entry)[0].strip() for entry in conda} == {"python", "pip"}
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    options = sorted(entry for entry in pip if entry.startswith("-"))
    assert options == ["-c constraints.txt", "-e .[dev]"]
    bounds = {Requirement(entry).name: Requirement(entry).specifier for entry in project["dependencies"]}
    for entry in map(Requirement, (entry for entry in pip if not entry.startswith("-"))):
        assert entry.name in bounds, entry
        assert bounds[entry.name].contains(str(entry.specifier).removeprefix("==")), entry


def test_torch_is_the_same_in_makefile_and_environment():
    pinned = re.search(r"^TORCH \?= (\S+)$", (ROOT / "Makefile").read_text("utf8"), re.MULTILINE).group(1)
    assert f"- {pinned}\n" in (ROOT / "environment.yml").read_text("utf8")


def test_conda_and_pyproject_want_the_same_python(project):
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text("utf8"))["dependencies"]
    (python,) = [entry for entry in dependencies if isinstance(entry, str) and entry.startswith("python")]
    version = re.search(r"\d+\.\d+", python).group()
    assert Requirement(f"python{project['requires-python']}").specifier.contains(version)


def test_every_dependency_is_pinned_within_its_bounds(project, pins):
    """torch alone is pinned in the Makefile: which build is right depends on the machine."""
    makefile = (ROOT / "Makefile").read_text("utf8")
    pins = pins | {"torch": re.search(r"^TORCH \?= (torch==\S+)$", makefile, re.MULTILINE).group(1)}
    for entry in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(entry)
        pinned = Requirement(pins[wanted.name])
        assert wanted.specifier.contains(str(pinned.specifier).removeprefix("==")), (entry, str(pinned))


def test_constraints_are_exact_and_of_no_machine(pins):
    assert "torch" not in pins
    for name, line in pins.items():
        assert re.fullmatch(r"[a-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), line  # no path, no URL, no +cpu
        assert not re.match(r"(nvidia|cuda|cupy|triton)", name), line


def test_no_file_is_over_30_megabytes_nor_the_tree_over_120(files):
    sizes = {path: path.stat().st_size for path in files}
    assert max(sizes.values()) <= 30 * MEGABYTE, max(sizes, key=sizes.get)
    assert sum(sizes.values()) <= 120 * MEGABYTE


def test_no_file_names_a_path_of_one_machine(files):
    found = []
    for path in files:
        data = path.read_bytes()
        if b"\0" in data[:8000]:
            continue
        for number, line in enumerate(data.decode("utf8").splitlines(), 1):
            if match := MACHINE_PATH.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert found == []


def test_the_check_for_machine_paths_can_fail():
    assert MACHINE_PATH.search("see /" + "home/ann/x") and MACHINE_PATH.search("in C:" + "\\Users")
    assert not MACHINE_PATH.search("https://host/" + "homepage and data/" + "work/notes")


def test_text_files_are_utf8_with_unix_line_ends(files):
    for path in files:
        data = path.read_bytes()
        if b"\0" not in data[:8000]:
            data.decode("utf8")
            assert b"\r\n" not in data and not data.startswith(b"\xef\xbb\xbf"), path
