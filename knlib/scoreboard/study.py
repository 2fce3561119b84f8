"""What all arms share: a model, the edits in one balanced order, their questions, and what editors are given besides."""

import inspect
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ..attribution import query_hash
from ..controls import generator
from ..edit_questions import edit_questions, known_edits
from ..edit_set import LOCATING, EditSet, load_edits
from ..editing.gate_calibration import RelationGate
from ..editing.registry import EDITORS
from ..errors import InputError, Literal
from ..models import Model
from ..queries import build_queries, load_atlas
from .arms import Arm

TABLES = ("requests", "locating", "paraphrases", "locality", "portability")
TEXTS, DRIFT_TEXTS = 1500, 300  # sentences: more than ten tokens per neuron; of the text whose perplexity is read
EXAMPLE_TEMPLATES, EXAMPLE_FACTS = r".*/train\d", 2  # without lead-ins; facts of a relation
LOCATED_WITH = ("train1", "train4")  # of an edit and language: attribution costs more than all else


@dataclass(frozen=True, eq=False)
class EditStudy:
    """`names`: the edits in an order in which every part of them holds all relations; `questions` of `edit_questions`.

    `texts`: sentences without an edited fact, alike many per language, for moments and scales; `drift_texts`: others, whose
    perplexity tells what an edit did to the rest; `examples`: queries of facts about other subjects, to calibrate gates with.
    """

    model: Model
    facts: pd.DataFrame
    edits: EditSet
    names: list[str]
    questions: pd.DataFrame
    texts: list[str]
    drift_texts: list[str]
    examples: pd.DataFrame

    @cached_property
    def hash(self) -> str:
        """16 hex digits of all that is asked and requested."""
        asked = self.questions.assign(query=self.questions["template"], answer=self.questions["target"])
        return query_hash(asked.assign(aliases=[() for _ in range(len(asked))]))

    @cached_property
    def known(self) -> list[str]:
        """The edits whose old answer the unedited model gives in most languages (`knlib.edit_questions.known_edits`)."""
        return known_edits(self.model, self.edits.requests, self.facts)

    @cached_property
    def gate(self) -> RelationGate:
        return RelationGate.calibrated(self.model, self.examples)

    def requests(self, names: list[str]) -> pd.DataFrame:
        """The requests of some edits, edit by edit, in the given order."""
        order = {name: number for number, name in enumerate(names)}
        own = self.edits.requests[self.edits.requests["edit"].isin(order)]
        return own.sort_values("edit", key=lambda column: column.map(order), kind="stable", ignore_index=True)

    def inputs(self, arm: Arm, requests: pd.DataFrame) -> dict:
        """The arm's options and what its editor asks for besides, for these requests."""
        wanted = set(inspect.signature(EDITORS[arm.editor].find).parameters)
        own = requests[["edit", "fact", "language", "new"]]
        locating = self.edits.locating.merge(own, on=["edit", "fact", "language"])
        number = locating["template"].str.split("/").str[-1]
        given = {
            "texts": self.texts, "facts": self.facts,
            "contexts": locating[number.isin(LOCATING[: arm.contexts])].reset_index(drop=True) if arm.contexts else None,
            "locating": locating[number.isin(LOCATED_WITH)].reset_index(drop=True),
            "gate": self.gate if "gate" in wanted else None,
        }  # fmt: skip
        return {name: value for name, value in given.items() if name in wanted} | arm.options


def load_study(model: Model, *, split: str = "test", edits: int | None = None, languages=None) -> EditStudy:
    """The study of a model on the shipped edit set, or on its first `edits` in balanced order.

    Raises `InputError` for a masked model, as `load_edits`, and for more edits than there are.

    Example
    -------
    >>> study = load_study(load_model("atlas-gpt2"), split="dev", edits=5)
    >>> len(study.names), study.questions["kind"].nunique()
    (5, 7)
    """
    if model.kind != "causal":
        raise InputError(f"model {model.name}", found=Literal(f"a {model.kind} model"), expected="a causal one")
    whole, (facts, templates) = load_edits(languages=languages, split=split), load_atlas(languages=languages)
    names = balanced(whole.requests)
    if edits is not None and not 0 < edits <= len(names):
        raise InputError("edits", found=edits, expected=f"1 to {len(names)}")
    names = names[:edits]
    own = replace(whole, **{name: _only(getattr(whole, name), names) for name in TABLES})
    texts = _sentences(facts, templates, load_edits(languages=languages).requests["fact"])
    return EditStudy(
        model, facts, own, names, edit_questions(own, neighbours=1), texts[DRIFT_TEXTS:],
        texts[:DRIFT_TEXTS], _examples(facts, templates, whole.requests),
    )  # fmt: skip


def balanced(requests: pd.DataFrame) -> list[str]:
    """Edits ordered so that every beginning holds the relations in the proportions of the whole.

    Example
    -------
    >>> balanced(edits.requests)[:5]
    """
    own = requests.drop_duplicates("edit")[["edit", "relation"]]
    number = own.groupby("relation").cumcount() + 0.5
    place = number / own["relation"].map(own["relation"].value_counts())
    return own.assign(place=place).sort_values(["place", "edit"])["edit"].tolist()


def _only(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    return table[table["edit"].isin(names)].reset_index(drop=True)


def _sentences(facts: pd.DataFrame, templates: pd.DataFrame, edited: pd.Series) -> list[str]:
    """Sentences of facts that nobody edits, in their languages' request template; the languages alternate."""
    number = templates["template"].str.split("/").str[-1]
    queries, _ = build_queries(facts[~facts["fact"].isin(set(edited))], templates[number == "train0"])
    sentence = queries["prompt"] + queries["space"] + queries["answer"] + queries["suffix"]
    order = np.empty(len(queries))
    for language, rows in queries.groupby("language", sort=False).groups.items():
        order[queries.index.get_indexer(rows)] = generator(0, language, "texts").permutation(len(rows))
    chosen = queries.assign(sentence=sentence, order=order).sort_values(["order", "language"], kind="stable")
    return chosen["sentence"].head(TEXTS + DRIFT_TEXTS).tolist()


def _examples(facts: pd.DataFrame, templates: pd.DataFrame, requests: pd.DataFrame) -> pd.DataFrame:
    """Facts about subjects that nobody edits, in every trained construction."""
    subject = facts.set_index("fact")["subject_id"]
    edited = set(subject[list(set(requests["fact"]))])
    other = facts[~facts["subject_id"].isin(edited)]
    chosen = other[other.groupby("relation").cumcount() < EXAMPLE_FACTS]
    return build_queries(chosen, templates[templates["template"].str.fullmatch(EXAMPLE_TEMPLATES)])[0]
