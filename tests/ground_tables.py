"""Synthetic tables of a scoreboard with the rows of a real one: known values, no model."""

import numpy as np
import pandas as pd

from knlib.ground_truth.consistency import NAMES
from knlib.ground_truth.estimates import ALL, confusion
from knlib.ground_truth.letters import PREFIX
from knlib.ground_truth.metrics import CURVE, MEASURES
from knlib.ground_truth.plots import KINDS
from knlib.ground_truth.scorers import rows

FACTS = 26  # of each kind
# Planted neurons of a fact, by turns; other kinds have 8.
SIZES = {"language": (1, 2, 4), "agnostic": (4, 8, 16), "distributed": (64,)}
SHARED = ("cs_1", "cs_2", "jaccard")
DECISIONS = ("agnostic", "language", "half", "query", "none")


def levels() -> dict[str, float]:
    """How good each row is, by name; the truth 1, random 0."""
    names = [*rows(), "lafn", "lafn at the answer"]
    found = dict(zip(names, np.linspace(0.05, 0.92, len(names)), strict=True))
    return found | {"ablation": 0.85, "random": 0.0, "truth": 1.0}


def facts_table(each: int = FACTS) -> pd.DataFrame:
    """The table `facts`: measures of every fact, kinds easier and harder by turns."""
    draw, parts = np.random.default_rng(0), []
    for row, level in levels().items():
        count = -(-each // 8) if row == "ablation" else each
        ease = np.repeat(1 - 0.08 * np.arange(len(KINDS)), count)[:, None]
        values = np.clip(level * ease + 0.15 * draw.normal(size=(len(ease), len(MEASURES))), 0, 1)
        table = pd.DataFrame(np.full_like(values, level) if level in (0, 1) else values, columns=list(MEASURES))
        kind = np.repeat(KINDS, count)
        parts.append(table.assign(row=row, kind=kind, fact=[f"{name}:{i % count}" for i, name in enumerate(kind)]))
    facts = pd.concat(parts, ignore_index=True)
    for share, name in zip(np.linspace(1, 0.5, len(CURVE)), CURVE, strict=True):
        facts[name] = facts["average_precision"] * share
    facts.loc[facts["kind"] != "relation", ["common_at_k", "common_selected"]] = np.nan
    true = facts["row"] == "truth"
    number = facts["fact"].str.split(":").str[1].astype(int)
    sizes = [SIZES.get(kind, (8,)) for kind in facts["kind"]]
    facts["selected"] = facts["selected"].where(
        ~true, [own[n % len(own)] for own, n in zip(sizes, number, strict=True)]
    )
    return pd.concat([facts.assign(scope=scope) for scope in ("all", "language")], ignore_index=True)


def board_table(facts: pd.DataFrame) -> pd.DataFrame:
    """As `estimates.board`, with intervals of two standard errors; a method that starts from letters has scope `language` only."""
    both = pd.concat([facts, facts.assign(kind=ALL)]).melt(["row", "kind", "scope"], list(MEASURES), "measure").dropna()
    found = (
        both.groupby(["row", "kind", "scope", "measure"], sort=False)["value"]
        .agg(["mean", "sem", "size"])
        .reset_index()
    )
    found = found.assign(
        estimate=found["mean"], low=found["mean"] - 2 * found["sem"], high=found["mean"] + 2 * found["sem"]
    )
    found = found.rename(columns={"size": "facts"}).drop(columns=["mean", "sem"])
    letters = found[(found["row"] == "ig") & (found["scope"] == "language")].assign(row=PREFIX + "qrnca")
    return pd.concat([found, letters], ignore_index=True)


def costs_table() -> pd.DataFrame:
    names = list(levels())
    passes = np.geomspace(12, 90_000, len(names))
    return pd.DataFrame({"row": names, "seconds": passes / 900, "passes": passes}).assign(
        passes=lambda t: t["passes"].where(t["row"] != "truth", 0)
    )


def curves_table(facts: pd.DataFrame) -> pd.DataFrame:
    return facts.groupby(["row", "kind", "scope"], sort=False, as_index=False)[list(CURVE)].mean()


def calibration_table() -> pd.DataFrame:
    names = [name for name in rows() if name.startswith(("re_lcb", "amig"))]
    found = [(row, scope, b, 0.1 + 0.2 * b, share, share - 0.06, share + 0.06, 10 * 4**b, 40) for row in names for scope in ("all", "language")
             for b, share in enumerate(np.linspace(0.1, 0.8, 5))]  # fmt: skip
    return pd.DataFrame(found, columns=["row", "scope", "bin", "stated", "estimate", "low", "high", "neurons", "facts"])


def confusion_table() -> pd.DataFrame:
    draw = np.random.default_rng(1)
    found = [(row, f"{kind}{i}", kind, kind if kind in DECISIONS and draw.random() < 0.6 else draw.choice(DECISIONS))
             for row in rows() if " from ig" in row or row == "ig" for kind in KINDS for i in range(FACTS)]  # fmt: skip
    return confusion(pd.DataFrame(found, columns=["row", "fact", "kind", "decision"]))


def consistency_table(each: int = FACTS) -> pd.DataFrame:
    """Overlaps of `agnostic` facts around .7, of `query` facts around .2."""
    draw, parts = np.random.default_rng(2), []
    for kind, level in (("agnostic", 0.7), ("query", 0.2), ("half", 0.5)):
        values = np.clip(level + 0.12 * draw.normal(size=(each, len(NAMES))), 0, 1)
        parts.append(
            pd.DataFrame(values, columns=list(NAMES)).assign(
                scores="ig", kind=kind, fact=[f"{kind}{i}" for i in range(each)]
            )
        )
    return pd.concat(parts, ignore_index=True)


def agreement_table() -> pd.DataFrame:
    names = [row for row in rows() if " from " not in row]
    found = [
        (name, measure, x, x - 0.05, x + 0.05, 40)
        for measure in ("spearman", "top")
        for name, x in zip(names, np.linspace(-0.05, 0.8, len(names)), strict=True)
    ]
    return pd.DataFrame(found, columns=["scores", "measure", "estimate", "low", "high", "facts"])


def signature_table() -> pd.DataFrame:
    """Of `signatures`: what each type should look like."""
    full = {"agnostic": [("all", True, 0.0, 1.0)], "half": [("latin", True, 0.0, 0.9), ("latin", False, 0.9, 0.0)],
            "language": [("en", True, 0.0, 0.95), ("en", False, 0.9, 0.01)], "query": [("train0", True, 0.0, 0.95), ("train0", False, 0.9, 0.0)],
            "redundant": [("first", True, 0.9, 0.9)], "relation": [("own", True, 0.02, 0.05), ("relation", True, 0.3, 0.03)],
            "distributed": [("all", True, 0.0, 0.98), ("few", True, 0.8, 0.02)]}  # fmt: skip
    found = [(f"{kind}{i}", kind, group, inside, 0.97, 0.0, without, only) for kind, groups in full.items()
             for group, inside, without, only in groups for i in range(3)]  # fmt: skip
    return pd.DataFrame(found, columns=["fact", "type", "group", "inside", "p_all", "p_none", "p_without", "p_only"])


def neuron_table() -> pd.DataFrame:
    draw, parts = np.random.default_rng(3), []
    for kind, count, own, elsewhere, norm, fires in (("planted", 900, 8, 0.1, 1.5, 0.02), ("natural", 60, 1.5, 0.5, 0.9, 0.3),
                                                     ("old", 7000, np.nan, 0.2, 0.8, 0.1), ("dummy", 40, np.nan, 0, 0, 0)):  # fmt: skip
        spread = np.exp(0.5 * draw.normal(size=(3, count)))
        parts.append(pd.DataFrame({"kind": kind, "own": own * spread[0], "elsewhere": elsewhere * spread[1], "norm": norm * spread[2],
                                   "fires": np.clip(fires * spread[0], 0, 1)}))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def watch_table(languages=("en", "ru", "zh", "ar")) -> pd.DataFrame:
    found = []
    for step in range(0, 51, 5):
        for i, code in enumerate(languages):
            p = 1 / (1 + np.exp(-(step - 15 - 3 * i) / 3))
            found += [
                (step, code, "trained phrasings", p),
                (step, code, "held-out phrasings", 0.7 * p),
                (step, code, "group silent", 0.001),
            ]
        found += [
            (step, "all", "loud at its queries", 0.02 + 0.2 * step),
            (step, "all", "loud elsewhere", 0.01 + 0.001 * step),
        ]
    return pd.DataFrame(found, columns=["step", "language", "what", "p"])
