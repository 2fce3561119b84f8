"""The file `truth.json` beside a planted model: which facts were planted how, and which neurons hold them."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..errors import InputError, Literal
from ..files import write_text
from ..models import SHIPPED, Model

GROUP_COLUMNS = ["fact", "type", "relation", "group", "languages", "templates", "neurons"]
FACT_COLUMNS = ["fact", "type", "relation", "source", "languages", "holding", "verified", "verified_held_out"]


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known about a planted model.

    `model`: the hash of its weights; `base`: name of the model it was made from, `base_hash`: its weights' hash; `old`: neurons per
    layer that came from it; `seed`: of `neuron_orders`, by which old and new ones were shuffled.

    `facts`: one row per planted fact: `fact`, `type`, `relation`, `source`, `languages` (in which it was planted), `holding`
    (those in which its signature holds on the phrasings it was trained on), `verified` (it holds in most of them, see
    `verdicts`), `verified_held_out` (and on others; None where the type has none).
    `groups`: one row per fact and group of neurons that serves it: `fact`, `type`, `relation`, `group`, `languages` and `templates` (names of
    templates such as `train3`; None: all) in which it does, `neurons` ((layer, neuron) pairs; of type `distributed` the strongest first).
    `dummies`: new neurons that do nothing.
    """

    model: str
    base: str
    base_hash: str
    old: int
    seed: int
    facts: pd.DataFrame
    groups: pd.DataFrame
    dummies: tuple[tuple[int, int], ...] = ()
    more: dict = field(default_factory=dict)

    @property
    def planted(self) -> list[tuple[int, int]]:
        """All new neurons that belong to a fact, sorted."""
        return sorted({pair for pairs in self.groups["neurons"] for pair in pairs})

    def neurons(self, *, verified: bool = True) -> pd.DataFrame:
        """The truth as a neuron table: one row per fact, group and neuron: `fact`, `type`, `relation`, `group`, `layer`, `neuron`.

        Only facts whose signature holds, unless `verified=False`.

        Example
        -------
        >>> load_truth("planted-llama").neurons().groupby("type")["fact"].nunique()
        """
        kept = self.groups
        if verified:
            kept = kept[kept["fact"].isin(self.facts.loc[self.facts["verified"], "fact"])]
        rows = [
            (row.fact, row.type, row.relation, row.group, *pair) for row in kept.itertuples() for pair in row.neurons
        ]
        return pd.DataFrame(rows, columns=["fact", "type", "relation", "group", "layer", "neuron"])


def load_truth(source: str | Path, model: Model | None = None) -> Truth:
    """The truth of a planted model: a shipped one's name, a folder, or a file. With `model`, only if it is about these weights.

    Raises `InputError` for a missing or malformed file, and for a model with other weights.

    Example
    -------
    >>> model = load_model("planted-llama")
    >>> truth = load_truth("planted-llama", model)
    """
    path = Path(source)
    if not path.exists() and (SHIPPED / str(source)).is_dir():
        path = SHIPPED / str(source)
    if path.is_dir():
        path = path / "truth.json"
    if not path.is_file():
        raise InputError(source, found=Literal("no truth.json"), expected="the folder of a planted model")
    try:
        found = json.loads(path.read_text("utf8"))
        groups = [
            (*(row[key] for key in GROUP_COLUMNS[:4]), _tuple(row["languages"]), _tuple(row["templates"]),
             tuple((int(layer), int(neuron)) for layer, neuron in row["neurons"]))
            for row in found["groups"]
        ]  # fmt: skip
        facts = [tuple(_tuple(row[key]) if key in ("languages", "holding") else row[key] for key in FACT_COLUMNS)
                 for row in found["facts"]]  # fmt: skip
        truth = Truth(
            found["model"], found["base"], found["base_hash"], int(found["old"]), int(found["seed"]),
            pd.DataFrame(facts, columns=FACT_COLUMNS), pd.DataFrame(groups, columns=GROUP_COLUMNS),
            tuple((int(layer), int(neuron)) for layer, neuron in found["dummies"]), found.get("more", {}),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(path.name, found=Literal(f"no truth about a model ({type(error).__name__}: {error})"),
                         expected="a file of save_truth") from None  # fmt: skip
    if model is not None and model.hash != truth.model:
        raise InputError(f"model {model.name}", found=Literal(f"weights {model.hash}"),
                         expected=f"{truth.model} (float32), which {path.name} is about")  # fmt: skip
    return truth


def _tuple(value) -> tuple | None:
    return None if value is None else tuple(value)


def save_truth(truth: Truth, path: Path) -> None:
    """Write a truth so that `load_truth` gives it back.

    Example
    -------
    >>> save_truth(truth, folder / "truth.json")
    """
    head = {key: getattr(truth, key) for key in ("model", "base", "base_hash", "old", "seed", "more", "dummies")}
    tables = {
        name: [json.dumps(row, ensure_ascii=False) for row in getattr(truth, name).to_dict("records")]
        for name in ("facts", "groups")
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    lines += [f"{json.dumps(name)}: [\n" + ",\n".join(rows) + "\n]" for name, rows in tables.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
