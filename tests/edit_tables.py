"""Facts, templates' queries and neurons for tests of the three uses, on models of `tiny_models` (syllables)."""

import pandas as pd

from knlib.counterfactuals import with_new_objects

NAMES = {"A": ("ba", "bo"), "B": ("da", "do"), "C": ("fa", "fo"), "D": ("ga", "go")}
# Object by language; the object of A is spelled alike in both.
OBJECTS = {"A": ("pe", "pe"), "B": ("lati", "ruli"), "C": ("suda", "nike"), "D": ("moki", "tena")}
LANGUAGES = ("en", "ja")
WORDS = {"locate": "kilo", "request": "nupe", "held0": "sipo", "held1": "mira"}


def facts() -> pd.DataFrame:
    """Two relations, `r` and `s`, of four facts each with the same names."""
    return pd.DataFrame([
        {"fact": f"{relation}:{key}", "relation": relation, "subject_id": key, "object_id": key,
         "subject": {code: (name,) for code, name in zip(LANGUAGES, NAMES[key], strict=True)},
         "object": {code: (name,) for code, name in zip(LANGUAGES, OBJECTS[key], strict=True)}}
        for relation in "rs" for key in NAMES
    ])  # fmt: skip


def queries(
    *templates: str, relation: str = "r", languages: tuple[str, ...] = LANGUAGES, new: bool = True
) -> pd.DataFrame:
    """Every fact of a relation in some templates of `WORDS`, as `build_queries` gives them."""
    table = facts()
    rows = [
        {"query": f"{row.fact}|{code}/{template}", "fact": row.fact, "relation": relation, "language": code,
         "template": f"{relation}/{code}/{template}", "subject": row.subject[code][0],
         "prompt": f"{WORDS[template]} {relation} {row.subject[code][0]}", "space": " ", "answer": row.object[code][0],
         "suffix": "."}
        for row in table[table["relation"] == relation].itertuples() for code in languages for template in templates
    ]  # fmt: skip
    found = pd.DataFrame(rows)
    return with_new_objects(found, table, seed=1) if new else found


def neurons() -> pd.DataFrame:
    """A neuron table of the facts of `r`: two neurons a language, one over all; C has none in English."""
    rows = []
    for i, key in enumerate(NAMES):
        for j, scope in enumerate(("en", "ja")):
            if (key, scope) != ("C", "en"):
                rows += [(f"r:{key}", scope, 1, 2 * i + j, 0.9 - 0.1 * j), (f"r:{key}", scope, 2, i, 0.5)]
        rows.append((f"r:{key}", "all", 2, i, 0.4))
    return pd.DataFrame(rows, columns=["fact", "scope", "layer", "neuron", "score"])
