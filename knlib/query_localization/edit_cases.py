"""What the editing cells share: for every fact what is asked about its edits, and what its neuron sets are made of."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ..controls import Pairs
from ..counterfactuals import with_new_objects
from ..errors import InputError, Literal
from ..models import Model
from ..queries import load_templates
from ..sites import make_sites, neuron_vectors
from .consistency import labels
from .edit_metrics import Answers, EditTest
from .edit_questions import held_out_text, inverse_queries, neighbour_queries, own_queries, sentences_for
from .located import located
from .results import Result
from .strategies import Fitted, relative, top
from .study import Study
from .weight_edits import erase, update

EDITS = ("erase", "update")
# Of both editing experiments. An update's old answer goes with strength `rho_old`, the new one comes with that of `rhos` which
# does best in part A, on `pilot` facts of each relation.
DEFAULTS = {"embedding": "input", "rho_old": 1.0, "rhos": [0.5, 1.0, 2.0, 4.0, 8.0], "pilot": 2, "seed": 0}


@dataclass(frozen=True, eq=False)
class Case:
    """The edit of one fact: `request` (the query it is made by, as a row), `test` and its answers `before`, `fitted`."""

    fact: str
    relation: str
    label: str | None
    edit: str
    request: tuple
    test: EditTest
    before: Answers
    fitted: Fitted

    def metrics(self, change: AbstractContextManager) -> dict[str, float]:
        """`EditTest.compare` of what is in force within `change`."""
        with change:
            after = self.test.ask()
        return self.test.compare(self.before, after, edit=self.edit)

    def row(self, metrics: dict[str, float], **names) -> dict:
        """A row of a result: the fact, `names`, and the metrics."""
        return {"fact": self.fact, "relation": self.relation, "label": self.label, **names, **metrics}


@dataclass(frozen=True, eq=False)
class Cases:
    """What all cases of a cell share.

    `queries`: the study's, with `new`, `new_id` for an update; `scores` [queries of part A, layers, neurons]: relative ones, in
    the order of `fitted_queries`; `text`: the held-out one; `labels`: fact -> consistent or inconsistent (others have none).
    """

    study: Study
    options: dict
    queries: pd.DataFrame
    scores: np.ndarray
    text: pd.DataFrame
    templates: pd.DataFrame
    labels: dict

    @cached_property
    def fitted_queries(self) -> pd.DataFrame:
        return self.queries[self.queries["part"] == "A"]

    @cached_property
    def relation_totals(self) -> dict[str, tuple[np.ndarray, int]]:
        """Relation -> sum over its facts of their mean scores, and how many facts."""
        found = {}
        facts = self.fitted_queries["fact"].to_numpy()
        for relation, group in self.fitted_queries.groupby("relation", sort=False):
            names = group["fact"].unique()
            total = sum(self.scores[facts == name].mean(0, dtype=float) for name in names)
            found[relation] = (total, len(names))
        return found

    def case(self, fact: str, *, tested: str = "B") -> Case:
        """Everything about one fact, tested on a part; it depends on seed and fact, not on which others are asked for."""
        model, seed, edit = self.study.model, self.options["seed"], self.options["edit"]
        own = own_queries(self.queries, fact, aim="answer" if edit == "erase" else "new", tested=tested, seed=seed)
        request = own.iloc[0]
        if edit == "update":
            templates = self.templates[self.templates["part"] == tested]
            own = pd.concat([own, inverse_queries(self.study.facts, templates, request)], ignore_index=True)
        others = self.queries[self.queries["part"] == tested]
        test = EditTest(
            model, own, neighbour_queries(others, fact, new=request["new"] if edit == "update" else None, seed=seed),
            sentences_for(model, self.text, fact, tokens=self.options["text_tokens"], seed=seed), seed=seed,
        )  # fmt: skip
        fitted = self.fitted(fact, request["query"])
        row = next(own.head(1).itertuples())
        return Case(fact, row.relation, self.labels.get(fact), edit, row, test, test.ask(), fitted)

    def fitted(self, fact: str, request: str) -> Fitted:
        rows = (self.fitted_queries["fact"] == fact).to_numpy()
        own = self.fitted_queries[rows]
        activations = _activations(self.study.model, own)
        total, count = self.relation_totals[own["relation"].iloc[0]]
        number = own["query"].tolist().index(request)
        return Fitted(fact, self.scores[rows], number, activations, total, count)

    def changed(self, case: Case, neurons: Pairs, rho: float | None = None) -> AbstractContextManager:
        """The cell's edit of the case's fact through `neurons`: an update with strength `rho` of the new answer, or by the rule
        of mode `paper` where it is None."""
        model, embedding = self.study.model, self.options["embedding"]
        if case.edit == "erase":
            return erase(model, neurons)
        if rho is None:
            return update(model, neurons, case.request, mode="paper", embedding=embedding)
        return update(model, neurons, case.request, strength=(self.options["rho_old"], rho), embedding=embedding)

    def fitted_rho(self, m: int) -> float:
        """The strength of `rhos` that does best in part A (mean of reliability, generality over its other queries, locality over
        its neighbours) with the best `m` neurons of the request; the least of equals. 0 where the cell erases."""
        if self.options["edit"] == "erase":
            return 0.0
        firsts = self.queries.drop_duplicates("fact").groupby("relation", sort=False).head(self.options["pilot"])
        found = []
        for fact in firsts["fact"]:
            case = self.case(fact, tested="A")
            neurons = top(case.fitted.scores[case.fitted.own], m)
            found.append([case.metrics(self.changed(case, neurons, rho))["avg"] for rho in self.options["rhos"]])
        return float(self.options["rhos"][int(np.argmax(np.mean(found, axis=0)))])


def prepare_cases(study: Study, options: dict, inputs: dict[str, Result]) -> Cases:
    """What the editing cells need of all facts. `options`: `edit`, `text_tokens` and those of `DEFAULTS`; `inputs`: the `ig`
    cell, whose labels are used.

    Raises `InputError` for another edit.

    Example
    -------
    >>> cases = prepare_cases(study, DEFAULTS | {"edit": "erase", "text_tokens": 64}, {"A1": consistency})
    """
    if options["edit"] not in EDITS:
        raise InputError("edit", found=options["edit"], expected=Literal(" or ".join(EDITS)))
    queries = study.queries.reset_index(drop=True)
    if options["edit"] == "update":
        queries = with_new_objects(queries, study.facts, seed=options["seed"])
    # Part B's scores are left behind: no set is fitted on them.
    fitted = (queries["part"] == "A").to_numpy()
    scores = relative(located(study).scores.values[fitted])
    language = queries["language"].iloc[0]
    templates = load_templates(languages=(language,))
    text = held_out_text(study.model, study.facts, templates, seed=options["seed"])
    part = queries.drop_duplicates("template").set_index("template")["part"]
    asked = templates[templates["template"].isin(part.index)]
    asked = asked.assign(part=asked["template"].map(part))
    known = {fact: label for result in inputs.values() for fact, label in labels(result).items()}
    return Cases(study, options, queries, scores, text, asked, known)


def _activations(model: Model, queries: pd.DataFrame) -> np.ndarray:
    """Neurons where the answer is predicted, mean over its tokens, [queries, layers, neurons]."""
    sites = make_sites(model, queries)
    vectors = neuron_vectors(model, [site.ids for site in sites], [site.position for site in sites]).cpu().numpy()
    owners = np.array([site.query for site in sites])
    return np.stack([vectors[owners == number].mean(0) for number in range(len(queries))])
