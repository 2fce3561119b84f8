"""knlib.benchmark_builder as a command: the report, the files, and bad input in one line with exit code 2."""

import lzma
import os
import re
from pathlib import Path

import pytest
from mlama_files import NAMES, TEMPLATES, write_packed, write_published

from knlib.benchmark_builder import build_benchmark, main
from knlib.benchmark_report import write_benchmark
from knlib.benchmark_sources import read_source
from knlib.errors import InputError


@pytest.fixture
def published(tmp_path) -> Path:
    return write_published(tmp_path / "source")


@pytest.fixture
def packed(tmp_path) -> Path:
    return write_packed(tmp_path / "packed")


def test_command_writes_and_prints_the_report(published, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(published), str(out), "--languages", "en,fi", "--relations", "P36"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip() == (out / "report.md").read_text("utf8").strip()
    names, templates = printed.split("## ")[1:3]
    assert f"| in | {sum(NAMES.values())} |" in names and "| kept | 6 |" in names
    assert f"| in | {sum(TEMPLATES.values())} |" in templates and "CC BY-NC 4.0" in printed
    assert "| en | 8 | 62 | 3 |" in printed  # patterns, answer last in 5 of 8, kept
    assert sorted(path.name for path in out.iterdir()) == ["facts.jsonl", "report.csv", "report.md", "templates.jsonl"]
    before = (out / "facts.jsonl").read_bytes()
    assert main([str(published), str(out), "--relations", "P36"]) == 0 and (out / "facts.jsonl").read_bytes() == before


def changed(path: str, text: str | bytes):
    def change(root: Path) -> None:
        (root / path).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


BAD = {
    "no folder": (None, ["SOURCE/none"], r"SOURCE/none: found no such folder, expected a folder with mLAMA or mParaRel files"),
    "other folder": (None, ["SOURCE/mlama"], r"SOURCE/mlama: found neither mlama/ nor mpararel/ nor master.tsv.xz, expected a folder with mLAMA or mParaRel files"),
    "unknown language": (None, ["SOURCE", "--languages", "en,xx"], r"languages: found 'xx', expected one of en fi"),
    "unknown relation": (None, ["SOURCE", "--relations", "P36,P0"], r"relations: found 'P0', expected one of P19 P36"),
    "nothing left": (None, ["SOURCE", "--relations", "P19"], r"benchmark: found no fact that passes the gates, expected other languages or relations, or a smaller number of languages at least"),
    "mode": (None, ["SOURCE", "--mode", "bert"], r"mode: found 'bert', expected one of causal mlm"),
    "one query": (None, ["SOURCE", "--min-queries", "1"], r"min_queries: found 1, expected 2 or more: a fact needs paraphrases"),
    "many languages": (None, ["SOURCE", "--min-languages", "3"], r"min_languages: found 3, expected 1 to 2, the languages chosen"),
    "cap": (None, ["SOURCE", "--cap", "0"], r"cap: found 0, expected 1 or more"),
    "broken line": (changed("mlama/fi/P36.jsonl", '{"lineid": 0,'), ["SOURCE"], r"fi/P36.jsonl, line 1: found broken JSON at column 14: .*, expected a JSON object"),
    "no lineid": (changed("mlama/fi/P36.jsonl", '{"lineid": "one"}'), ["SOURCE"], r"fi/P36.jsonl, line 1, field 'lineid': found 'one', expected a line number"),
    "no label": (changed("mlama/fi/P36.jsonl", '{"lineid": 1, "sub_uri": "Q1", "obj_uri": "Q2"}'), ["SOURCE"], r"fi/P36.jsonl, line 1, field 'sub_label': found None, expected text"),
    "pattern": (changed("mpararel/patterns/en/P36.jsonl", '{"pattern": 7}'), ["SOURCE"], r"en/P36.jsonl, line 1, field 'pattern': found 7, expected text"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_code_2(published, tmp_path, capsys, change, arguments, message):
    if change:
        change(published)
    given = [argument.replace("SOURCE", str(published)) for argument in arguments]
    assert main([given[0], str(tmp_path / "out"), *given[1:]]) == 2
    assert_one_line(capsys.readouterr().err, message.replace("SOURCE", str(published)))
    assert not (tmp_path / "out").exists()


BAD_PACKED = {
    "no labels": (lambda root: (root / "mlama_templates.jsonl").unlink(), r".*mlama_templates.jsonl: found no such file, expected a JSON-lines file"),
    "not xz": (changed("labels/fi.tsv.xz", b"plain"), r"fi.tsv.xz: found unreadable data: .*, expected UTF-8 text packed by xz"),
    "columns": (changed("labels/fi.tsv.xz", lzma.compress(b"h\nm\tP36\t1")), r"fi.tsv.xz, line 2: found 3 columns, expected 5, separated by tabs"),
    "line number": (changed("labels/fi.tsv.xz", lzma.compress(b"h\nm\tP36\tx\ta\tb")), r"fi.tsv.xz, line 2, column 3: found 'x', expected a line number"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_PACKED.values(), ids=BAD_PACKED)
def test_bad_packed_input_is_one_line_and_code_2(packed, tmp_path, capsys, change, message):
    change(packed)
    assert main([str(packed), str(tmp_path / "out")]) == 2
    assert_one_line(capsys.readouterr().err, message)


def assert_one_line(captured: str, pattern: str) -> None:
    found = captured.splitlines()
    assert len(found) == 1, captured
    assert re.fullmatch(rf"error: {pattern}", found[0]), found[0]


def test_facts_of_others_are_not_overwritten(published, tmp_path, capsys):
    (tmp_path / "facts.jsonl").write_text("mine")
    assert main([str(published), str(tmp_path)]) == 2
    assert_one_line(
        capsys.readouterr().err, r".*: found a facts.jsonl that was not built here, expected another folder"
    )
    assert (tmp_path / "facts.jsonl").read_text() == "mine"


def test_a_failed_write_leaves_no_half_file(published, tmp_path, monkeypatch):
    benchmark = build_benchmark(read_source(published))
    write_benchmark(benchmark, tmp_path / "out")
    before = (tmp_path / "out" / "facts.jsonl").read_bytes()

    def fail(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="found No space left on device, expected a folder to write to"):
        write_benchmark(build_benchmark(read_source(published), min_languages=1), tmp_path / "out")
    assert (tmp_path / "out" / "facts.jsonl").read_bytes() == before
