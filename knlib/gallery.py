"""Figures on disk: every one is saved with its notebook, parameters and caption, and listed in figures/README.md."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

FIGURES = Path(__file__).resolve().parents[1] / "figures"
DPI = 110


class Gallery:
    """Saves a notebook's figures as `figures/<notebook>_<name>.png` with a caption.

    Example
    -------
    >>> gallery = Gallery("01_benchmark_inspection", {"MODELS": "atlas-llama"})  # doctest: +SKIP
    >>> gallery.save(figure, "coverage", "Facts per language and relation.")  # doctest: +SKIP
    """

    def __init__(self, notebook: str, parameters: dict, *, folder: str | Path = FIGURES):
        self.notebook, self.parameters, self.folder = notebook, parameters, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, figure: Figure, name: str, caption: str) -> Figure:
        """Write the figure and its entry; returns the figure, closed, so that a cell can end with this call."""
        stem = f"{self.notebook.split('_')[0]}_{name}"
        figure.savefig(self.folder / f"{stem}.png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        entry = {"figure": f"{stem}.png", "notebook": self.notebook, "parameters": self.parameters, "caption": caption}
        # A file for each notebook: several may run side by side.
        path = self.folder / f"{self.notebook}.json"
        entries = json.loads(path.read_text("utf8")) if path.exists() else {}
        entries[stem] = entry
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(entries, indent=1, ensure_ascii=False, sort_keys=True) + "\n", "utf8")
        temporary.replace(path)
        plt.close(figure)  # or the inline backend would show it a second time
        return figure


def write_index(folder: str | Path = FIGURES) -> None:
    """Write `README.md` of the figures folder from the entries that the notebooks left there."""
    folder = Path(folder)
    entries: dict[str, dict] = {}
    for path in sorted(folder.glob("*.json")):
        entries |= json.loads(path.read_text("utf8"))
    lines = ["# Figures", "", "Written by the notebooks (`make figures`); do not edit.", ""]
    for _, entry in sorted(entries.items()):
        shown = ", ".join(f"`{name}={value}`" for name, value in entry["parameters"].items())
        lines += [
            f"## {entry['figure'].removesuffix('.png').replace('_', ' ')}", "",
            f"![{entry['caption']}]({entry['figure']})", "",
            entry["caption"], "",
            f"Notebook [`{entry['notebook']}`](../notebooks/{entry['notebook']}.ipynb), parameters {shown}.", "",
        ]  # fmt: skip
    (folder / "README.md").write_text("\n".join(lines), "utf8")
