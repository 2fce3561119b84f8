"""Synthetic tables of a scoreboard of letters, with the columns of `load_result`: for tests of figures."""

import numpy as np
import pandas as pd

from knlib.query_relevant.localizers import names

CLASSES = ("capital", "continent", "currency", "language", "part_of", "script")


def with_ends(columns, rows: int, scale: float = 10.0, seed: int = 0) -> dict[str, np.ndarray]:
    draw, table = np.random.default_rng(seed), {}
    for name in columns:
        value = draw.normal(0, scale, rows)
        table |= {name: value, f"{name}_low": value - scale / 5, f"{name}_high": value + scale / 4}
    return table


def board() -> pd.DataFrame:
    keys = [(name, factor, sample, questions) for name in names() for factor in (2.0, 0.0)
            for sample in ("held_out", "in_sample") for questions in ("all", "correct")]  # fmt: skip
    table = pd.DataFrame(keys, columns=["condition", "factor", "sample", "questions_of"])
    table = table.assign(**with_ends(["R", "U", "S", "R_odds"], len(table)))
    return table.assign(seconds_per_prompt=table["condition"].map(lambda name: 0.01 * (1 + len(name))))


def by_operation(columns, scale: float = 10.0, **more) -> pd.DataFrame:
    keys = [(name, factor) for name in names() for factor in (2.0, 0.0)]
    table = pd.DataFrame(keys, columns=["condition", "factor"])
    return table.assign(**with_ends(columns, len(table), scale, seed=1), **more)


def fact_language() -> pd.DataFrame:
    cells = {"same_same": 31.0, "same_other": 12.0, "other_same": 4.0, "other_other": -1.0}
    return by_operation(["fact", "language"], **cells)


def long_form() -> pd.DataFrame:
    return by_operation(["change"], 0.1).rename(columns={"change_low": "low", "change_high": "high"})


def doses() -> pd.DataFrame:
    rows = [(name, dose, group, 12, 20 * (dose - 1) * (name == "qrnca"), 20 * (dose - 1) - 6, 20 * (dose - 1) + 6, -4.0 * dose, 3.0 * dose)
            for name in ("qrnca", "random_layer_matched") for dose in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0) for group in ("other", "own")]  # fmt: skip
    return pd.DataFrame(
        rows, columns=["condition", "factor", "group", "questions", "change", "low", "high", "draw_low", "draw_high"]
    )


def flips() -> pd.DataFrame:
    rows = [(name, factor, place, flip, i, 40 + i, i / (40 + i), 0.8 * i / (40 + i), min(1, 1.3 * i / (40 + i)))
            for i, name in enumerate(names()) for factor in (2.0, 0.0) for place in ("own", "elsewhere")
            for flip in ("to_right", "to_wrong")]  # fmt: skip
    return pd.DataFrame(rows, columns=["condition", "factor", "place", "flip", "flipped", "of", "share", "low", "high"])


def predictors() -> pd.DataFrame:
    rows = [(kind, predictor, label, 60, 10 + 3 * i, 48, (10 + 3 * i) / 48, (8 + 2 * i) / 48, (14 + 4 * i) / 48)
            for kind in CLASSES for predictor in ("letter_vote", "answer_activity", "probe")
            for i, label in enumerate(("random", "other_class", "own"))]  # fmt: skip
    return pd.DataFrame(rows, columns=["class", "predictor", "set", "neurons", "right", "of", "share", "low", "high"])


def agreement() -> pd.DataFrame:
    found = [name for name in names() if name != "random"]
    return pd.DataFrame({"localizer": found, "questions": 4, "rank_correlation": np.linspace(-0.1, 1, len(found)),
                         "recall": np.linspace(0.05, 1, len(found)), "precision": np.linspace(0, 0.9, len(found))})  # fmt: skip


def accuracy(languages=("fr", "en", "zh")) -> pd.DataFrame:
    rows = [(code, f"{code}/{w}", letter, taught, 30, 0.9 if taught else 0.6, 0.5, 0.7, 0.9)
            for code in languages for w in range(3) for letter in "ABCD" for taught in (True, False)]  # fmt: skip
    return pd.DataFrame(
        rows,
        columns=["language", "wording", "answer", "taught", "prompts", "accuracy", "probability", "among_four", "mass"],
    )


def sizes() -> pd.DataFrame:
    return pd.DataFrame({"localizer": names(), "questions": 28, "mean": 11.5, "least": 4, "most": 20})


def layers(count: int = 8) -> pd.DataFrame:
    parts = [pd.DataFrame({"layer": range(count), "count": np.arange(count) * (i + 3), "null_low": 10.0, "null_high": 25.0,
                           "localizer": name, "gini": 0.4, "null_gini": 0.1, "p_value": 0.001}) for i, name in enumerate(names())]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def overlap() -> pd.DataFrame:
    rows = [(a, b, 40, 0.1 + 0.02 * i, 0.3, 0.01 if i % 2 else 0.5, kind)
            for kind, names_ in (("relation", CLASSES), ("language", ("ar", "de", "en", "fr", "ru", "zh")))
            for i, (a, b) in enumerate((a, b) for k, a in enumerate(names_) for b in names_[k + 1 :])]  # fmt: skip
    return pd.DataFrame(rows, columns=["a", "b", "size", "jaccard", "jaccard_null", "p_lower", "kind"])


def neurons(seed: int = 0) -> pd.DataFrame:
    """Questions of two relations in two languages, six neurons each, those of a relation mostly alike."""
    draw, rows = np.random.default_rng(seed), []
    for i in range(12):
        for code in ("en", "fr"):
            own = {*(10 * (i % 2) + draw.permutation(8)[:5]).tolist(), int(40 + draw.integers(60))}
            rows += [
                (f"f{i}", code, n % 4, n, float(draw.uniform(0.5, 1)), "capital" if i % 2 else "script") for n in own
            ]
    return pd.DataFrame(rows, columns=["fact", "language", "layer", "neuron", "score", "relation"])
