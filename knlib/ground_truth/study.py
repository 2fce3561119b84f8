"""What a scoreboard asks of a planted model: which facts, in which languages and phrasings, and which neurons are right for them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ..attribution import query_hash
from ..controls import generator
from ..errors import InputError, Literal
from ..facts import ATLAS, load_facts
from ..models import Model
from ..planting import Truth, load_truth, planted_queries
from ..planting.signatures import serves
from ..prediction import score_answers
from ..queries import build_queries, load_templates
from ..result_files import config_hash

# Of every fact: consistency scores depend on the number of phrasings, so all types have the same.
LANGUAGES, PHRASINGS = 4, 3
RETARGETED = "re-targeted"
KNOWN = 0.5  # P(answer) from which on a natural fact counts as known


@dataclass(frozen=True, eq=False)
class GroundStudy:
    """`facts`: one row per fact, `fact`, `kind` (its type; `re-targeted` for a known subject with another object), `relation`.
    `queries`: all that is asked of them. `natural`: one query for each of some facts that were not planted. `gates`: options of
    `localize` that say which queries and languages count."""

    model: Model
    truth: Truth
    facts: pd.DataFrame
    queries: pd.DataFrame
    natural: pd.DataFrame
    gates: dict

    @cached_property
    def hash(self) -> str:
        groups = self.truth.groups.to_json(orient="split", force_ascii=False)
        return config_hash({"groups": groups, "queries": query_hash(self.queries), "natural": query_hash(self.natural), "gates": self.gates,
                            "facts": self.facts["fact"].tolist()})  # fmt: skip

    def of(self, facts: list[str]) -> pd.DataFrame:
        """The queries of some facts."""
        return self.queries[self.queries["fact"].isin(set(facts))].reset_index(drop=True)

    @cached_property
    def labels(self) -> dict[str, "Labels"]:
        """By fact, which neurons are right."""
        uses = self.truth.groups.explode("neurons").groupby("neurons")["fact"].nunique()
        common = set(uses.index[uses > 1])
        groups = dict(tuple(self.truth.groups.groupby("fact")))
        asked = dict(tuple(self.queries.groupby("fact")))
        return {fact: _labels(groups[fact], asked[fact], common, self.model) for fact in self.facts["fact"]}


@dataclass(frozen=True, eq=False)
class Labels:
    """A fact's planted neurons, as flat numbers (layer times neurons of a layer, plus neuron).

    `own`: bool [neurons of the model], those that serve this fact alone, for a query that is asked; `common`: bool, those that
    other facts have too (of type `relation`); `by_language`: language -> bool, those of `own` that serve it; `groups`: the numbers of
    each group of its own.
    """

    own: np.ndarray
    common: np.ndarray
    by_language: dict[str, np.ndarray]
    groups: tuple[np.ndarray, ...]


def _labels(groups: pd.DataFrame, asked: pd.DataFrame, common: set, model: Model) -> Labels:
    size = model.n_layers * model.n_neurons

    def numbers(pairs) -> np.ndarray:
        return np.array([layer * model.n_neurons + neuron for layer, neuron in pairs], dtype=int)

    def mask(parts) -> np.ndarray:
        found = np.zeros(size, bool)
        for pairs in parts:
            found[numbers(pairs)] = True
        return found

    places = asked[["language", "name"]].drop_duplicates()
    rows = [row for row in groups.itertuples() if any(serves(row, p.language, p.name) for p in places.itertuples())]
    own = [row for row in rows if not set(row.neurons) <= common]
    served = {
        code: mask(row.neurons for row in own if any(serves(row, code, name) for name in part["name"]))
        for code, part in places.groupby("language", sort=False)
    }
    shared = mask(row.neurons for row in rows if row not in own)
    return Labels(mask(row.neurons for row in own), shared, served, tuple(numbers(row.neurons) for row in own))


def load_study(
    model: Model,
    *,
    truth: Truth | None = None,
    facts_each: int = 30,
    natural: int = 40,
    gates: dict | None = None,
    seed: int = 0,
) -> GroundStudy:
    """The scoreboard's questions to a planted model: up to `facts_each` verified facts of every kind, `natural` others.

    A fact is asked in 4 languages of different scripts, of those in which its signature holds, and in 3 trained phrasings; of type
    `query` in those that it was planted for. Other facts are Atlas facts that the model knows (P >= .5) and that were not re-targeted, relations in turn, one
    query each. `truth`: that of the model's folder.

    Raises `InputError` for a model without truth, a truth about other weights, and one without a verified fact.

    Example
    -------
    >>> study = load_study(load_model("planted-llama"))
    >>> study.facts["kind"].value_counts()
    """
    truth = load_truth(model.name, model) if truth is None else truth
    if truth.model != model.hash:
        raise InputError(f"model {model.name}", found=Literal(f"weights {model.hash}"),
                         expected=f"{truth.model}, which the truth is about")  # fmt: skip
    verified = truth.facts[truth.facts["verified"]]
    if not len(verified):
        raise InputError("truth", found=Literal("no verified fact"), expected="at least one")
    kind = np.where(verified["source"] == RETARGETED, RETARGETED, verified["type"])
    facts = verified[["fact", "relation"]].assign(kind=kind).groupby("kind", sort=False).head(facts_each)
    facts = facts[["fact", "kind", "relation"]].reset_index(drop=True)
    planted, templates = load_facts(ATLAS / "planted"), load_templates()
    asked, _ = build_queries(planted[planted["fact"].isin(facts["fact"])], templates, splits=("train",))
    asked = planted_queries(asked, truth)
    holding = verified.set_index("fact")["holding"]
    asked = asked[[row.language in holding[row.fact] for row in asked.itertuples()]]
    chosen = _chosen(asked[~asked["name"].str.contains("+", regex=False)], facts)
    others = _natural(model, planted, templates, natural, seed) if natural else asked[:0]
    default = {"min_languages": 3, "min_families": 2}
    return GroundStudy(model, truth, facts, chosen, others, default | (gates or {}))


def _chosen(queries: pd.DataFrame, facts: pd.DataFrame) -> pd.DataFrame:
    """Of every fact the queries in `LANGUAGES` languages and `PHRASINGS` phrasings, others for every fact."""
    parts = []
    for number, (_, own) in enumerate(queries.groupby("fact", sort=False)):
        languages = spread(list(dict.fromkeys(own["language"])), LANGUAGES, number)
        own = own[own["language"].isin(languages)]
        common = own.groupby("name")["language"].nunique()
        names = spread(sorted(common.index[common == len(languages)]), PHRASINGS, number)
        parts.append(own[own["name"].isin(names)])
    order = {fact: i for i, fact in enumerate(facts["fact"])}
    return pd.concat(parts).sort_values("fact", key=lambda c: c.map(order), kind="stable", ignore_index=True)


def spread(items: list, count: int, start: int) -> list:
    """`count` items, evenly spaced around the list (all where there are fewer), beginning at `start`.

    Example
    -------
    >>> spread(["en", "de", "fr", "es", "ru", "ja"], 3, 1)
    ['de', 'es', 'ja']
    """
    if len(items) <= count:
        return list(items)
    step = len(items) // count
    return [items[(start + i * step) % len(items)] for i in range(count)]


def _natural(model: Model, planted: pd.DataFrame, templates: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    facts = load_facts()
    known = set(zip(planted["subject_id"], planted["relation"], strict=True))
    facts = facts[[pair not in known for pair in zip(facts["subject_id"], facts["relation"], strict=True)]]
    plain = templates[(templates["split"] == "train") & ~templates["template"].str.contains("+", regex=False)]
    languages = list(dict.fromkeys(plain["language"]))
    order = []
    for relation, names in facts.groupby("relation")["fact"]:
        shuffled = generator(seed, relation, "natural").permutation(sorted(names))
        order += [(place, relation, str(name)) for place, name in enumerate(shuffled)]
    # Thrice as many as wanted: not all are known, and asking all facts would cost more than the scoreboard.
    names = [name for _, _, name in sorted(order)][: 3 * count]
    queries, _ = build_queries(facts[facts["fact"].isin(names)], plain)
    parts = []
    for number, name in enumerate(names):
        own = queries[(queries["fact"] == name) & (queries["language"] == languages[number % len(languages)])]
        parts.append(own.iloc[number % len(own) :][:1] if len(own) else own)
    rows = pd.concat(parts, ignore_index=True)
    p = np.exp(score_answers(model, *(rows[c] for c in ("prompt", "space", "answer", "suffix"))))
    return rows[p >= KNOWN].head(count).reset_index(drop=True)
