"""A Query Localization study of Atlas facts on a model of any kind."""

import numpy as np

from knlib.queries import build_queries
from knlib.query_localization.study import PART_A, Study

COUNTRIES = ["FR", "EG", "NP", "CL"]


def make_study(model, facts, templates, *, relations=("capital", "continent"), phrasings=6) -> Study:
    """Facts of four countries; a random model knows none, which consistency does not ask."""
    chosen = facts[facts["subject_id"].isin(COUNTRIES) & facts["relation"].isin(relations)]
    plain = templates[(templates["language"] == "en") & (templates["split"] == "train")]
    kept = plain[plain["relation"].isin(relations)].groupby("relation").head(phrasings)
    queries, _ = build_queries(chosen, kept)
    number = queries.groupby(["relation", "fact"]).cumcount()
    queries["part"] = np.where(number < PART_A, "A", "B")
    return Study(model, facts, queries.sort_values("fact", kind="stable", ignore_index=True), {}, {})
