"""What a cache's gate goes by: a probe of what a prompt asks for, and a threshold per language, from example queries."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import InputError, Literal
from ..models import Model
from .cache import Entry, end_states, wording
from .relation_probe import RelationProbe, can_fit, left_out_margins
from .states import output_module

EXAMPLE_COLUMNS = ("relation", "language", "template", "subject", "prompt")
LEAST_COSINE = 0.8  # where there is no probe


@dataclass(frozen=True, eq=False)
class RelationGate:
    """`probe`: of words, and of states behind `layer` at a prompt's end; `thresholds`: language -> the least margin that is let through.

    `report`: language -> {`threshold`, `hits`, `false`}, the shares of examples let through, in templates that were left out,
    for the relation that they ask for and for each other one; `options`: what it was calibrated with.

    Example
    -------
    >>> gate = RelationGate.calibrated(model, examples)
    >>> gate.report["en"]
    {'threshold': -12.5, 'hits': 1.0, 'false': 0.01}
    """

    layer: int
    probe: RelationProbe
    thresholds: dict[str, float]
    report: dict[str, dict]
    options: dict

    @classmethod
    def calibrated(
        cls, model: Model, examples: pd.DataFrame, *, layer: int | None = None, false_hits: float = 0.01
    ) -> "RelationGate":
        """From queries with `EXAMPLE_COLUMNS`, of any facts: the probe from all, thresholds from templates left out of its fit.

        A language's threshold lets a share `false_hits` of its examples through for a relation that they do not ask for.
        `layer`: default the middle one. Raises `InputError` for other tables, for a relation and language with one
        template only (nothing could be left out), and for less than two relations.

        Example
        -------
        >>> gate = RelationGate.calibrated(load_model("atlas-gpt2"), queries)
        """
        check_examples(examples)
        if not 0 < false_hits < 1:
            raise InputError("false_hits", found=false_hits, expected="a share between 0 and 1")
        layer = model.n_layers // 2 if layer is None else layer
        output_module(model, layer, "mlp")
        relations = examples["relation"].tolist()
        if not can_fit(relations):
            raise InputError("examples", found=Literal(f"{len(set(relations))} relations in {len(relations)} queries"),
                             expected="at least two relations, and more queries than relations")  # fmt: skip
        states = end_states(model, examples["prompt"], layer)
        wordings = [wording(model, *row) for row in zip(examples["prompt"], examples["subject"], strict=True)]
        probe = RelationProbe.fit(states, wordings, relations)
        margins = left_out_margins(states, wordings, examples)
        own = np.asarray(relations)[:, None] == np.asarray(probe.names)[None]
        report = {}
        for code in dict.fromkeys(examples["language"]):
            here = (examples["language"] == code).to_numpy()
            right, wrong = margins[here][own[here]], margins[here][~own[here]]
            threshold = float(np.quantile(wrong, 1 - false_hits, method="higher"))
            report[code] = {"threshold": threshold, "hits": float((right > threshold).mean()),
                            "false": float((wrong > threshold).mean())}  # fmt: skip
        options = {"layer": layer, "false_hits": false_hits, "examples": len(examples)}
        return cls(layer, probe, {code: row["threshold"] for code, row in report.items()}, report, options)

    def check(self, entries: list[Entry]) -> None:
        """Raises `InputError` for an entry of a relation, or with a language, of which the gate has seen no example."""
        for entry in entries:
            for name, found, known in (("relation", [entry.relation], self.probe.names),
                                       ("language", list(entry.keys), self.thresholds)):  # fmt: skip
                for value in found:
                    if value not in known:
                        raise InputError(f"gate, {name} of edit {entry.edit}", found=value,
                                         expected=Literal("one of its examples': " + " ".join(known)))  # fmt: skip


def check_examples(examples: pd.DataFrame) -> None:
    """Raises `InputError` for what is no table with `EXAMPLE_COLUMNS`, other than text in them, and one template alone.

    Example
    -------
    >>> check_examples(queries)
    """
    if not isinstance(examples, pd.DataFrame) or not set(EXAMPLE_COLUMNS) <= set(examples) or not len(examples):
        found = Literal(" ".join(map(str, examples)) if isinstance(examples, pd.DataFrame) else type(examples).__name__)
        raise InputError("examples", found=found, expected="queries with columns " + " ".join(EXAMPLE_COLUMNS))
    for column in EXAMPLE_COLUMNS:
        for value in examples[column]:
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"examples, {column}", found=value, expected="text")
    for (relation, code), count in examples.groupby(["relation", "language"])["template"].nunique().items():
        if count < 2:
            raise InputError(f"examples, {relation} in {code}", found=Literal("one template"), expected="two or more")
