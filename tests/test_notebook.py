"""notebook.py: parameters of notebooks, and what is kept of their outputs."""

import pickle

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import knlib.notebook
from knlib.errors import InputError
from knlib.notebook import cleaned, jobs_of, notebooks, parameters_of, plan, run, typed

PARAMETERS = """
# A comment, and a line that is no assignment
"text"
MODEL = "atlas-llama"  # which model
LANGUAGES = ["en", "ja"]
N_FACTS = 5
SHARE = 0.25
FAST = True
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two numbered notebooks with parameters, and one without a number."""
    for name, source in (
        ("01_first", PARAMETERS),
        ("02_second", 'MODEL = "atlas-gpt2"\nDEPTH = 2'),
        ("draft", "X = 1"),
    ):
        cells = [
            new_markdown_cell("# Title"),
            new_code_cell("y = 1"),
            new_code_cell(source, metadata={"tags": ["parameters"]}),
        ]
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(knlib.notebook, "NOTEBOOKS", tmp_path)
    return tmp_path


def test_parameters_are_the_literals_of_the_tagged_cell(folder):
    found = parameters_of(folder / "01_first.ipynb")
    assert found == {"MODEL": "atlas-llama", "LANGUAGES": ["en", "ja"], "N_FACTS": 5, "SHARE": 0.25, "FAST": True}


def test_a_notebook_without_parameters_is_an_error(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("x = 1")]), tmp_path / "01_bare.ipynb")
    with pytest.raises(InputError, match=r"01_bare.ipynb: found no cell tagged 'parameters', expected exactly one"):
        parameters_of(tmp_path / "01_bare.ipynb")


def test_numbered_notebooks_in_order(folder):
    assert [path.stem for path in notebooks()] == ["01_first", "02_second"]
    assert [path.stem for number in ("2", "02", "02_second") for path in notebooks(number)] == ["02_second"] * 3


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("12", 5, 12),
        ("-3", 5, -3),
        ("0.5", 1.0, 0.5),
        ("1e-3", 1.0, 0.001),
        ("3", 1.0, 3.0),
        ("true", False, True),
        ("False", True, False),
        ("0", True, False),
        ("1", False, True),
        ("en,ja", "all", "en,ja"),
        ("5", "all", "5"),
    ],
)
def test_values_take_the_type_of_their_default(text, default, value):
    found = typed("NAME", text, default)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "default", "kind"), [("1.5", 5, "a whole number"), ("x", 0.5, "a number"), ("yes", True, "True or False")]
)
def test_values_of_another_type_are_refused(text, default, kind):
    with pytest.raises(InputError, match=f"NAME: found '{text}', expected {kind}"):
        typed("NAME", text, default)


def test_plan_gives_each_notebook_the_parameters_it_has(folder):
    first, second = notebooks()
    assert plan([]) == [(first, {}), (second, {})]
    assert plan(["MODEL=mine", "N_FACTS=9"]) == [(first, {"MODEL": "mine", "N_FACTS": 9}), (second, {"MODEL": "mine"})]
    assert plan(["NOTEBOOK=2", "DEPTH=3"]) == [(second, {"DEPTH": 3})]
    assert plan(["NOTEBOOK=02", "MODEL=a=b"]) == [(second, {"MODEL": "a=b"})]


def test_plan_rejects_unknown_parameters_and_lists_the_known(folder):
    with pytest.raises(InputError) as caught:
        plan(["MODELS=x"])
    assert str(caught.value) == (
        "parameter: found MODELS, expected one of NOTEBOOK MODEL LANGUAGES N_FACTS SHARE FAST DEPTH"
    )
    with pytest.raises(InputError, match="parameter: found N_FACTS, expected one of NOTEBOOK MODEL DEPTH"):
        plan(["NOTEBOOK=02", "N_FACTS=3"])  # the other notebook's


def test_cleaned_keeps_results_and_drops_what_differs_between_runs():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Slider()"}
    outputs = [
        new_output("stream", name="stdout", text="accuracy 0.97\n"),
        new_output("stream", name="stderr", text="100%|####| 3/3 [00:01]\n"),
        new_output("display_data", data=widget),
        new_output("execute_result", data={"text/plain": "3"}, execution_count=7),
    ]
    cell = new_code_cell(
        "x", outputs=outputs, execution_count=7, metadata={"tags": ["keep"], "execution": {"iopub.status.busy": "now"}}
    )
    notebook = new_notebook(
        cells=[new_markdown_cell("# Title"), cell], metadata={"widgets": {}, "papermill": {"duration": 3}}
    )
    found = cleaned(notebook)
    nbformat.validate(found)
    assert set(found.metadata) == {"kernelspec", "language_info"}
    assert found.cells[0].source == "# Title"
    code = found.cells[1]
    assert code.metadata == {"tags": ["keep"]} and code.execution_count == 7
    assert [output.output_type for output in code.outputs] == ["stream", "execute_result"]
    assert code.outputs[0].text == "accuracy 0.97\n" and code.outputs[1].execution_count == 7
    assert cleaned(found) == found


def test_shipped_notebooks_have_parameters_that_are_known_by_name():
    for path in notebooks():
        found = parameters_of(path)
        assert found and all(name.isupper() for name in found), path.name


def test_notebooks_run_side_by_side_and_an_error_arrives(folder, monkeypatch, capfd):
    monkeypatch.setattr(knlib.notebook, "BUILD", folder / "build")
    monkeypatch.setattr("knlib.gallery.write_index", lambda: None)
    for path in notebooks():
        notebook = nbformat.read(path, as_version=4)
        notebook.metadata = {
            "kernelspec": {"name": "python3", "display_name": "Python 3"},
            "language_info": {"name": "python"},
        }
        nbformat.write(notebook, path)
    run(["JOBS=2", "MODEL=mine"])
    for name in ("01_first", "02_second"):
        done = nbformat.read(folder / "build" / f"{name}.ipynb", as_version=4)
        assert any('MODEL = "mine"' in cell.source for cell in done.cells)
    assert "02_second done" in capfd.readouterr().out
    notebook = nbformat.read(folder / "02_second.ipynb", as_version=4)
    notebook.cells.append(new_code_cell("1 / 0"))
    nbformat.write(notebook, folder / "02_second.ipynb")
    with pytest.raises(InputError, match=r"02_second.ipynb, cell \d: found ZeroDivisionError"):
        run(["JOBS=2"])


@pytest.mark.parametrize("text", ["0", "two", "-1", ""])
def test_jobs_is_a_whole_number(text):
    assert jobs_of(["A=1", "JOBS=3"]) == (3, ["A=1"]) and jobs_of(["A=1"]) == (1, ["A=1"])
    with pytest.raises(InputError, match="JOBS"):
        jobs_of([f"JOBS={text}"])


def test_an_error_keeps_its_words_between_processes():
    error = InputError("file, line 3", found="x", expected="y")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is InputError and str(again) == str(error) == "file, line 3: found 'x', expected y"
