"""Bad input of every kind: one line on stderr that says where, what was found and what was expected; exit code 2."""

import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import FACTS, TEMPLATES, WORDINGS, fact_row, write_rows

import knlib.notebook
from knlib.check import main as check

LINE = json.dumps(FACTS[0], ensure_ascii=False).encode()


def assert_one_line(captured: str, pattern: str) -> None:
    lines = captured.splitlines()
    assert len(lines) == 1, captured
    assert re.fullmatch(rf"error: {pattern}", lines[0]), lines[0]


def changed(row: dict, **fields) -> list[dict]:
    """The row with other fields; a field given as None is left out."""
    return [{key: value for key, value in (row | fields).items() if value is not None}]


def subject(**names) -> list[dict]:
    return changed(FACTS[0], subject={"id": "FR"} | names)


# Bytes of facts.jsonl -> the message, without "error: "
FILES = {
    "empty": (b" \n\n", r"facts.jsonl: found an empty file, expected one JSON object a line"),
    "byte-order mark": (b"\xef\xbb\xbf" + LINE, r"facts.jsonl, line 1: found a byte-order mark, expected UTF-8 without one"),
    "CRLF": (LINE + b"\r\n", r"facts.jsonl, line 1: found a Windows line end \(CRLF\), expected LF line ends"),
    "huge line": (LINE + b"\n" + b'"' + b"x" * 1_000_001 + b'"', r"facts.jsonl, line 2: found 1,000,003 bytes, expected at most 1,000,000"),
    "empty line": (LINE + b"\n\n" + LINE, r"facts.jsonl, line 2: found an empty line, expected a JSON object"),
    "Latin-1": ('{"fact": "é"}'.encode("latin-1"), r"facts.jsonl, line 1: found bytes that are not UTF-8 at column 11, expected UTF-8 text"),
    "UTF-16": (LINE.decode().encode("utf-16"), r"facts.jsonl, line 1: found bytes that are not UTF-8 at column 1, expected UTF-8 text"),
    "broken JSON": (LINE + b'\n{"fact": }', r"facts.jsonl, line 2: found broken JSON at column 10: Expecting value, expected a JSON object"),
    "two objects": (LINE + LINE, r"facts.jsonl, line 1: found broken JSON at column \d+: Extra data, expected a JSON object"),
    "not an object": (b"[1, 2]", r"facts.jsonl, line 1: found \[1, 2\], expected a JSON object"),
    "endless number": (b'{"fact": ' + b"1" * 5000 + b"}", r"facts.jsonl, line 1: found JSON beyond limits: .*, expected a JSON object"),
    "endless nesting": (b"[" * 200_000, r"facts.jsonl, line 1: found JSON beyond limits: .*, expected a JSON object"),
}  # fmt: skip

# Rows of facts.jsonl, put behind a good row -> the message
ROWS = {
    "missing field": (changed(FACTS[0], relation=None), r"field 'relation': found nothing, expected text"),
    "number for text": (changed(FACTS[0], fact=7), r"field 'fact': found 7, expected non-empty text"),
    "empty id": (changed(FACTS[0], fact=" "), r"field 'fact': found ' ', expected non-empty text"),
    "duplicate id": (changed(FACTS[1]), r"field 'fact': found 'capital:RU', expected an id of its own \(line 1 has this one\)"),
    "two objects": (changed(FACTS[1], fact="capital:RU2"), r"field 'subject': found 'RU', expected one object per subject and relation \(line 1 has another\)"),
    "no subject": (changed(FACTS[0], subject=None), r"field 'subject': found None, expected an object with 'id' and names by language"),
    "subject as text": (changed(FACTS[0], subject="France"), r"field 'subject': found 'France', expected an object with 'id' and names by language"),
    "no subject id": (changed(FACTS[0], subject={"en": ["France"]}), r"field 'subject', field 'id': found nothing, expected text"),
    "no language": (subject(), r"field 'subject': found no language, expected names in at least one language"),
    "name outside a list": (subject(en="France"), r"field 'subject', language 'en': found 'France', expected a list of names"),
    "no name": (subject(en=[]), r"field 'subject', language 'en': found \[\], expected a list of names"),
    "empty name": (subject(en=["France", ""]), r"field 'subject', language 'en': found '', expected non-empty text"),
    "blank around a name": (subject(en=["France "]), r"field 'subject', language 'en': found 'France ', expected text without blanks around it"),
    "name not in NFC": (subject(tr=["Tu\u0308rkiye"]), r"field 'subject', language 'tr': found '.*', expected NFC-normalized text"),
    "flags as text": (changed(FACTS[0], withheld="en"), r"field 'withheld': found 'en', expected a list of language codes"),
}  # fmt: skip


def template(**fields) -> dict:
    return {"templates": changed(TEMPLATES[0], **fields)}


def wording(**fields) -> dict:
    return {"wordings": changed(WORDINGS[0], **fields)}


# Other rows of the three files -> the message
TABLES = {
    "template without subject": (template(text="The capital is {O}."), r"templates.jsonl, line 1, field 'text': found 'The capital is {O}.', expected the slot {S} exactly once"),
    "template without answer": (template(text="The capital of {S}."), r"templates.jsonl, line 1, field 'text': found .*, expected the slot {O} exactly once"),
    "template with two subjects": (template(text="{S}, {S}: {O}"), r"templates.jsonl, line 1, field 'text': found .*, expected the slot {S} exactly once"),
    "answer first": (template(text="{O}, capital of {S}."), r"templates.jsonl, line 1, field 'text': found .*, expected {S} before {O}: the answer comes last"),
    "words behind the answer": (template(text="{S} has {O} as capital."), r"templates.jsonl, line 1, field 'text': found .*, expected nothing but punctuation after {O}"),
    "template without text": (template(text=None), r"templates.jsonl, line 1, field 'text': found None, expected text with the slots {S} and {O}"),
    "unknown split": (template(split="test"), r"templates.jsonl, line 1, field 'split': found 'test', expected train or half or held_out"),
    "duplicate template": ({"templates": TEMPLATES[:1] * 2}, r"templates.jsonl, line 2, field 'template': found 'capital/en/0', expected an id of its own \(line 1 has this one\)"),
    "unknown relation": (template(relation="mayor"), r"templates.jsonl, field 'relation': found 'mayor', expected a relation that facts.jsonl has"),
    "missing language": (template(language="ja"), r"templates.jsonl, field 'language': found 'ja', expected a language that facts.jsonl has"),
    "no templates": ({"templates": None}, r"\S*templates.jsonl: found no such file, expected a JSON-lines file"),
    "question without subject": (wording(question="Which capital?"), r"multiple_choice.jsonl, line 1, field 'question': found 'Which capital\?', expected the slot {S} exactly once"),
    "options without letter": (wording(options="- {O}"), r"multiple_choice.jsonl, line 1, field 'options': found '- {O}', expected the slot {L} exactly once"),
    "wording without cue": (wording(cue=None), r"multiple_choice.jsonl, line 1, field 'cue': found nothing, expected text"),
    "wording of a missing language": (wording(language="ja"), r"multiple_choice.jsonl, field 'language': found 'ja', expected a language that facts.jsonl has"),
    "wording of an unknown relation": (wording(relation="mayor"), r"multiple_choice.jsonl, field 'relation': found 'mayor', expected a relation that facts.jsonl has"),
}  # fmt: skip

ARGUMENTS = {
    "unknown language": (["--languages", "en,xx"], r"languages: found 'xx', expected one of en de"),
    "language without templates": (["--languages", "tr"], r"languages: found 'tr', expected one of en de"),
    "unknown relation": (["--relations", "capital,mayor"], r"relations: found 'mayor', expected one of capital"),
}  # fmt: skip


def test_the_good_folder_passes(benchmark, capsys):
    assert check([str(benchmark())]) == 0
    out = capsys.readouterr()
    assert out.err == "" and out.out.splitlines()[0] == "5 facts, 1 relations"


def test_names_may_differ_between_facts(benchmark, capsys):
    """Names in other languages than the rest are no error: there is no query, and no option, where one is missing."""
    rows = [*FACTS, fact_row("capital:JP", {"id": "JP", "ja": "日本"}, {"id": "tokyo", "ja": "東京"})]
    assert check([str(benchmark(rows))]) == 0
    assert " 3 dropped: no_name" in capsys.readouterr().out


@pytest.mark.parametrize(("data", "message"), FILES.values(), ids=FILES)
def test_files(benchmark, capsys, data, message):
    folder = benchmark()
    (folder / "facts.jsonl").write_bytes(data)
    assert check([str(folder)]) == 2
    assert_one_line(capsys.readouterr().err, message)


@pytest.mark.parametrize(("rows", "message"), ROWS.values(), ids=ROWS)
def test_fact_rows(benchmark, capsys, rows, message):
    assert check([str(benchmark(FACTS[1:2] + rows))]) == 2
    assert_one_line(capsys.readouterr().err, rf"facts.jsonl, line 2, {message}")


@pytest.mark.parametrize(("tables", "message"), TABLES.values(), ids=TABLES)
def test_templates_and_wordings(benchmark, capsys, tables, message):
    assert check([str(benchmark(**tables))]) == 2
    assert_one_line(capsys.readouterr().err, message)


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(benchmark, capsys, arguments, message):
    assert check([str(benchmark()), *arguments]) == 2
    assert_one_line(capsys.readouterr().err, message)


@pytest.mark.parametrize("kind", ["missing folder", "file for a folder"])
def test_no_folder(tmp_path, capsys, kind):
    path = tmp_path / "here"
    if kind == "file for a folder":
        write_rows(path, FACTS)
    assert check([str(path)]) == 2
    assert_one_line(capsys.readouterr().err, r"\S+/here/facts.jsonl: found no such file, expected a JSON-lines file")


def _config(**fields):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def _write(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


def _remove(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


# What is done to a good model folder -> the message
MODELS = {
    "without config": (_remove("config.json"), r"model folder \S+: found no config.json, expected a transformers folder"),
    "without weights": (_remove("model.safetensors"), r"model folder \S+: found no weights, expected model.safetensors .*"),
    "without tokenizer": (_remove("tokenizer.json", "tokenizer_config.json"), r"model folder \S+: found no tokenizer, expected tokenizer.json"),
    "broken config": (_write("config.json", b"{"), r"model \S+: found nothing that loads \(.*not a valid JSON file.\), expected one of .*"),
    "broken tokenizer": (_write("tokenizer.json", b"{"), r"model \S+: found nothing that loads \(.*\), expected one of .*"),
    "empty weights": (_write("model.safetensors", b""), r"model \S+: found nothing that loads \(.*header.*\), expected one of .*"),
    "unknown type": (_write("config.json", b'{"model_type": "oracle"}'), r"model \S+: found nothing that loads \(.*oracle.*\), expected one of .*"),
    "no language model": (_write("config.json", b'{"model_type": "vit"}'), r"model \S+: found 'vit', expected a causal or masked language model"),
    "field of another type": (_config(n_layer="many"), r"model \S+: found nothing that loads \(.*n_layer.*\), expected one of .*"),
    "weights of another width": (_config(n_inner=44), r"model \S+: found no fitting weights for 9 parameters \(\S+ ...\), expected all that GPT2LMHeadModel has .*"),
    "too few layers": (_config(n_layer=4), r"model \S+: found no fitting weights for 12 parameters \(\S+h.3\S+ ...\), expected all that GPT2LMHeadModel has .*"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), MODELS.values(), ids=MODELS)
def test_model_folders(tiny_folder, tmp_path, capfd, spoil, message):
    folder = shutil.copytree(tiny_folder("gpt2"), tmp_path / "model")
    spoil(folder)
    capfd.readouterr()
    assert check(["--model", str(folder)]) == 2
    assert_one_line(capfd.readouterr().err, message)


def test_cut_off_weights(tiny_folder, tmp_path, capfd):
    folder = shutil.copytree(tiny_folder("gpt2"), tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert check(["--model", str(folder)]) == 2
    assert_one_line(
        capfd.readouterr().err, r"model \S+: found nothing that loads \(.*not fully covered\), expected one of .*"
    )


def test_the_good_model_passes(tiny_folder, capfd):
    assert check(["--model", str(tiny_folder("gpt2"))]) == 0
    out = capfd.readouterr()
    assert out.err == "" and re.fullmatch(r"gpt2: causal, 3 layers of 40 neurons, weights [0-9a-f]{16}\n", out.out)


@pytest.mark.parametrize("name", ["no-such-model", "not/a/model", "two words", "/no/such/folder"])
def test_unknown_models(capfd, name):
    assert check(["--model", name]) == 2
    assert_one_line(
        capfd.readouterr().err,
        rf"model {name}: found nothing that loads \(.*\), expected one of .*a model folder, or a Hugging Face id",
    )


# Arguments of `python -m knlib.notebook` -> the message
NOTEBOOKS = {
    "no command": ([], r"command: found '', expected run or record"),
    "unknown command": (["walk"], r"command: found 'walk', expected run or record"),
    "unknown parameter": (["run", "N_FACT=3"], r"parameter: found N_FACT, expected one of NOTEBOOK MODEL N_FACTS FAST"),
    "argument without =": (["run", "N_FACTS"], r"argument: found 'N_FACTS', expected NAME=value"),
    "unknown notebook": (["run", "NOTEBOOK=09"], r"NOTEBOOK: found '09', expected one of 01"),
    "text for a number": (["run", "N_FACTS=many"], r"N_FACTS: found 'many', expected a whole number"),
    "number for a switch": (["run", "FAST=2"], r"FAST: found '2', expected True or False"),
    "recording other values": (["record", "N_FACTS=3"], r"record: found N_FACTS, expected defaults only"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_notebook_runs(tmp_path, monkeypatch, capsys, arguments, message):
    cell = nbformat.v4.new_code_cell(
        'MODEL = "atlas-llama"\nN_FACTS = 5\nFAST = True', metadata={"tags": ["parameters"]}
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "01_first.ipynb")
    monkeypatch.setattr(knlib.notebook, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["knlib.notebook", *arguments])
    assert knlib.notebook.main() == 2
    assert_one_line(capsys.readouterr().err, message)


# The same as real commands, once each.


def command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, timeout=300)


def test_check_as_a_command(benchmark):
    done = command("knlib.check", benchmark(FACTS[:1] * 2))
    assert done.returncode == 2 and done.stdout == ""
    assert_one_line(
        done.stderr,
        r"facts.jsonl, line 2, field 'fact': found 'capital:FR', expected an id of its own \(line 1 has this one\)",
    )


def test_check_of_a_model_as_a_command(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    done = command("knlib.check", "--model", tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert_one_line(done.stderr, r"model folder \S+: found no weights, expected .*")


def test_notebook_run_as_a_command():
    done = command("knlib.notebook", "run", "NO_SUCH_PARAMETER=1")
    assert done.returncode == 2 and done.stdout == ""
    assert_one_line(done.stderr, r"parameter: found NO_SUCH_PARAMETER, expected one of NOTEBOOK .*")


def test_kinds_of_bad_input_are_counted():
    assert len(FILES) + len(ROWS) + len(TABLES) + len(ARGUMENTS) + len(MODELS) + len(NOTEBOOKS) >= 25
