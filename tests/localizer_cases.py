"""Attributions with known neurons, for the tests of localizers, and what is read off their tables."""

import numpy as np
import pandas as pd
from synthetic_neurons import attributions_of

OURS = ("kn_share", "amig", "mean", "min_lang", "cas", "re_lcb")


def case(scores, *, relation="capital", answers=None, probability=None, **columns):
    """Attributions and queries from {fact: {language: [queries][neurons] or [queries][layers][neurons]}}."""
    rows, values = [], []
    for fact, languages in scores.items():
        for code, queries in languages.items():
            for number, value in enumerate(queries):
                answer = (answers or {}).get(fact, fact)
                rows.append((f"{fact}|{code}/{number}", fact, relation, code, answer))
                values.append(np.atleast_2d(np.asarray(value, dtype=float)))
    queries = pd.DataFrame(rows, columns=["query", "fact", "relation", "language", "answer"]).assign(**columns)
    return attributions_of(np.array(values), queries["query"], probability), queries


def pairs(table, scope="all", fact=None):
    """The neurons of a scope, of one fact or of all: a set of (layer, neuron)."""
    rows = table[(table["scope"] == scope) & ((table["fact"] == fact) | (fact is None))]
    return set(zip(rows["layer"].tolist(), rows["neuron"].tolist(), strict=True))


def random_case(seed=0, facts=3, neurons=40, codes=("en", "ru", "ja", "tr")):
    """Facts with some neurons that serve all languages, and noise."""
    draw = np.random.default_rng(seed)
    scores = {}
    for i in range(facts):
        shared = draw.choice(neurons, 4, replace=False)
        scores[f"fact {i}"] = {}
        for code in codes:
            value = 0.15 * draw.random((draw.integers(2, 5), 2, neurons))
            value[:, 1, shared] += draw.uniform(0.3, 1, 4)
            scores[f"fact {i}"][code] = value
    attributions, queries = case(scores)
    return attributions, queries.assign(entropy=draw.uniform(0.05, 0.6, len(queries)))


def planted():
    """Layer 1 has neurons 2 and 5 in four languages; layer 0 has neuron 3 in Russian and 4 in Japanese alone."""
    scores = {}
    for code in ("en", "ru", "ja", "tr"):
        value = np.zeros((4, 2, 8))
        value[:, 1, [2, 5]] = 1.0, 0.7
        value[:, 0, {"ru": [3], "ja": [4]}.get(code, [])] = 0.9
        scores[code] = value
    return case({"capital:FR": scores}, entropy=0.1)


def counts(report, **where):
    """How many rows a report has left out, of those with these values."""
    rows = report[np.logical_and.reduce([report[k] == v for k, v in where.items()])]
    return int(rows["count"].sum())
