"""Run the numbered notebooks with parameters, and record them: `python -m knlib.notebook run MODEL=... NOTEBOOK=01`.

papermill ignores parameters that a notebook does not have; this runner rejects them and lists those it knows.
"""

import ast
import base64
import io
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import nbformat
from PIL import Image

from .errors import InputError, Literal, said_in_one_line

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "build" / "notebooks"
CELL_TIMEOUT = 1200


def notebooks(number: str | None = None) -> list[Path]:
    """The numbered notebooks in order, or the one of that number (`"01"`, `"1"` or its name)."""
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if number is None:
        return found
    chosen = [path for path in found if path.stem == number or path.stem.split("_")[0] == number.zfill(2)]
    if not chosen:
        known = " ".join(path.stem.split("_")[0] for path in found)
        raise InputError("NOTEBOOK", found=number, expected=Literal(f"one of {known}"))
    return chosen


def parameters_of(path: Path) -> dict[str, object]:
    """Names and defaults in the cell tagged `parameters`: one literal a line."""
    for cell in nbformat.read(path, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            return {
                node.targets[0].id: ast.literal_eval(node.value)
                for node in ast.parse(cell.source).body
                if isinstance(node, ast.Assign)
            }
    raise InputError(path.name, found=Literal("no cell tagged 'parameters'"), expected="exactly one")


def typed(name: str, text: str, default: object) -> object:
    """The value of a parameter given as text, in the type of its default.

    Example
    -------
    >>> typed("N_FACTS", "12", 5), typed("LANGUAGES", "en,ja", "all"), typed("RECOMPUTE", "true", False)
    (12, 'en,ja', True)
    """
    if isinstance(default, bool):
        if text.lower() not in ("true", "false", "1", "0"):
            raise InputError(name, found=text, expected="True or False")
        return text.lower() in ("true", "1")
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise InputError(name, found=text, expected=kind) from None
    return text


def plan(arguments: list[str]) -> list[tuple[Path, dict[str, object]]]:
    """The notebooks to run and the parameters that each gets, from `NAME=value` arguments.

    Raises `InputError` for an argument without `=` and for a name that none of the chosen notebooks has.
    """
    given = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise InputError("argument", found=argument, expected="NAME=value")
        given[name] = value
    chosen = notebooks(given.pop("NOTEBOOK", None))
    known = {path: parameters_of(path) for path in chosen}
    names = list(dict.fromkeys(name for defaults in known.values() for name in defaults))
    for name in given:
        if name not in names:
            raise InputError("parameter", found=Literal(name), expected=Literal("one of NOTEBOOK " + " ".join(names)))
    return [
        (path, {name: typed(name, value, known[path][name]) for name, value in given.items() if name in known[path]})
        for path in chosen
    ]


def run(arguments: list[str]) -> None:
    """Execute the chosen notebooks with papermill, `JOBS=2` side by side; copies with outputs go to build/notebooks."""
    from .gallery import write_index

    jobs, arguments = jobs_of(arguments)
    steps = plan(arguments)
    BUILD.mkdir(parents=True, exist_ok=True)
    if jobs == 1:
        for path, parameters in steps:
            _execute(path, parameters, BUILD, None)
    else:
        # Processes, not threads: a notebook's client owns its event loop.
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            threads = max(1, (os.cpu_count() or 1) // jobs)
            running = [pool.submit(_execute, path, parameters, BUILD, threads) for path, parameters in steps]
            try:
                for future in as_completed(running):
                    future.result()
            except InputError:
                pool.shutdown(cancel_futures=True)
                raise
    write_index()


def jobs_of(arguments: list[str]) -> tuple[int, list[str]]:
    """How many notebooks run at once, from `JOBS=n` (default 1), and the other arguments."""
    given = [argument for argument in arguments if argument.startswith("JOBS=")]
    text = given[-1].removeprefix("JOBS=") if given else "1"
    if not text.isdigit() or int(text) < 1:
        raise InputError("JOBS", found=text, expected="a whole number from 1")
    return int(text), [argument for argument in arguments if argument not in given]


def _execute(path: Path, parameters: dict[str, object], build: Path, threads: int | None) -> None:
    import papermill

    shown = " ".join(f"{name}={value}" for name, value in parameters.items())
    print(f"{path.stem} {shown}".rstrip(), flush=True)
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # the kernel inherits it
    start = time.monotonic()
    try:
        papermill.execute_notebook(
            str(path), str(build / path.name), parameters=parameters, cwd=str(path.parent),
            progress_bar=False, execution_timeout=CELL_TIMEOUT, kernel_name="python3",
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        raise InputError(f"{path.name}, cell {error.exec_count}", found=Literal(f"{error.ename}: {error.evalue}"),
                         expected=f"a run to the end (see build/notebooks/{path.name})") from None  # fmt: skip
    print(f"{path.stem} done in {time.monotonic() - start:.0f} s", flush=True)


def record(arguments: list[str]) -> None:
    """Execute the chosen notebooks on their defaults and keep the outputs in place, cleaned for comparison."""
    from nbclient import NotebookClient

    from .gallery import write_index

    for path, parameters in plan(arguments):
        if parameters:
            raise InputError("record", found=Literal(" ".join(parameters)), expected="defaults only")
        print(f"recording {path.stem}", flush=True)
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(
            notebook, timeout=CELL_TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
        ).execute()
        nbformat.write(cleaned(notebook), path)
    write_index()


def cleaned(notebook):
    """The notebook without what differs from run to run: timings, widget state, progress bars, warnings.

    Execution counts stay: nbval takes a cell without one for a cell that was never run.
    """
    notebook.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    })  # fmt: skip
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        kept = []
        for output in cell.outputs:
            if output.get("output_type") == "stream" and output.get("name") == "stderr":
                continue
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                continue
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = fewer_colours(output.data["image/png"])
            kept.append(output)
        cell.outputs = kept
    return notebook


def fewer_colours(png: str) -> str:
    """A picture (base64) with 256 colours, a half to a quarter of the size, where that is smaller: a notebook is to be read in git.

    The figures folder keeps all colours.
    """
    packed = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    found = base64.b64encode(packed.getvalue()).decode() + "\n" * png.endswith("\n")
    return min(found, png, key=len)


def main() -> int:
    commands = {"run": run, "record": record}

    def work():
        if len(sys.argv) < 2 or sys.argv[1] not in commands:
            raise InputError("command", found=" ".join(sys.argv[1:2]), expected="run or record")
        commands[sys.argv[1]](sys.argv[2:])

    return said_in_one_line(work)


if __name__ == "__main__":
    sys.exit(main())
