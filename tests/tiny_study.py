"""A study on a tiny random model: two relations of six facts in eight phrasings, all counted as known."""

import pandas as pd
from tiny_models import tiny_model

from knlib.query_localization.study import Study

SUBJECTS = ("ba", "da", "fa", "ga", "ka", "la")
OBJECTS = ("pe", "lati", "suda", "moki", "no", "tena")
WORDS = ("kilo", "nupe", "sipo", "mira", "tebu", "dago", "fuli", "repo")


def tiny_study(kind: str = "gpt2", seed: int = 0) -> Study:
    """With templates 0-3 as part A, the others B; answers of one and of two tokens."""
    facts = pd.DataFrame([
        {"fact": f"{relation}:{subject}", "relation": relation, "subject_id": subject, "object_id": object_,
         "subject": {"en": (subject,)}, "object": {"en": (object_,)}, "leak": (), "ambiguous": ()}
        for relation in "rs" for subject, object_ in zip(SUBJECTS, OBJECTS, strict=True)
    ])  # fmt: skip
    queries = pd.DataFrame([
        {"query": f"{row.fact}|{row.relation}/en/train{i}", "fact": row.fact, "relation": row.relation, "language": "en",
         "template": f"{row.relation}/en/train{i}", "split": "train", "held_out": None, "subject": row.subject["en"][0],
         "prompt": f"{word} {row.relation} {row.subject['en'][0]} po", "space": " ", "answer": row.object["en"][0],
         "suffix": ".", "aliases": (), "part": "A" if i < 4 else "B"}
        for row in facts.itertuples() for i, word in enumerate(WORDS)
    ])  # fmt: skip
    return Study(tiny_model(kind, seed=seed), facts, queries, {"gated": 0}, {"seed": 0})
