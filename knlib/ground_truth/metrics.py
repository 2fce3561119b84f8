"""How right an answer is: rankings of all neurons and sets of some against the planted ones."""

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from ..errors import InputError, Literal
from .answers import Answer
from .study import Labels

RANKING = ("auroc", "average_precision", "at_k")
SETS = ("precision", "recall", "selected", "common_selected")
MEASURES = (*RANKING, "groups_at_k", "common_at_k", *SETS)
LEVELS = tuple(round(0.1 * i, 1) for i in range(1, 11))
CURVE = tuple(f"precision at recall {level}" for level in LEVELS)
BINS = 5  # of the frequency in resampled queries
TOP = 20  # neurons of two rankings that are compared


def ranking(score: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """`auroc`, `average_precision` (both of scikit-learn) and `at_k`: precision, and recall, among the k best, k the number of true ones.

    `score`, `true` (bool) [neurons]. NaN without a true neuron. Equal scores among the k best stand in order of their number,
    which in a planted model is random. Raises `InputError` for scores that are not finite.

    Example
    -------
    >>> ranking(np.array([3.0, 1.0, 2.0]), np.array([True, False, True]))
    {'auroc': 1.0, 'average_precision': 1.0, 'at_k': 1.0}
    """
    if not np.isfinite(score).all():
        raise InputError("score", found=Literal("a score that is not finite"), expected="finite scores")
    if not true.any() or true.all():
        return dict.fromkeys(RANKING, np.nan)
    return {
        "auroc": float(roc_auc_score(true, score)), "average_precision": float(average_precision_score(true, score)),
        "at_k": float(true[best(score, int(true.sum()))].mean()),
    }  # fmt: skip


def curve(score: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Interpolated precision at recall .1, .2 ... 1: the best precision at this recall or a higher one, `CURVE`.

    Example
    -------
    >>> curve(np.array([3.0, 1.0, 2.0]), np.array([True, False, True]))["precision at recall 1.0"]
    1.0
    """
    if not true.any():
        return dict.fromkeys(CURVE, np.nan)
    precision, recall, _ = precision_recall_curve(true, score)
    return {name: float(precision[recall >= level - 1e-9].max()) for name, level in zip(CURVE, LEVELS, strict=True)}


def best(score: np.ndarray, k: int) -> np.ndarray:
    """Numbers of the k largest scores, the first of equal ones.

    Example
    -------
    >>> best(np.array([0.0, 2.0, 1.0]), 2)
    array([1, 2])
    """
    return np.argsort(-score, kind="stable")[:k]


def measures(answer: Answer, labels: Labels, width: int) -> pd.DataFrame:
    """Rows of one answer: `fact`, `scope`, `MEASURES` and `CURVE`.

    Scope `all`: the score over all languages against all neurons of the fact's own groups; `language`: each language's score against those
    that serve it, mean over languages. `groups_at_k`: share of the fact's groups of which half is among the k best (with two
    redundant ones: both, or one). `common_at_k`: share of the k best that is a relation's, not the fact's; `precision`, `recall`,
    `selected` (their number), `common_selected` (share of the relation's neurons): of the set that the method takes itself; precision is NaN
    where it takes none. `width`: neurons of a layer.

    Example
    -------
    >>> measures(answer, study.labels[answer.fact], model.n_neurons).set_index("scope")["auroc"]
    """
    sets = {
        scope: (part["layer"] * width + part["neuron"]).to_numpy() for scope, part in answer.selected.groupby("scope")
    }
    none, found = np.zeros(0, int), []
    if answer.score is not None:
        found.append({"scope": "all"} | _row(answer.score, sets.get("all", none), labels.own, labels))
    each = [
        _row(score, sets.get(code, none), labels.by_language[code], labels)
        for code, score in answer.by_language.items()
        if code in labels.by_language
    ]
    if each:
        means = pd.DataFrame(each)
        found.append({"scope": "language"} | {c: means[c].mean() for c in means})
    return pd.DataFrame(found, columns=["scope", *MEASURES, *CURVE]).assign(fact=answer.fact)


def _row(score: np.ndarray, taken: np.ndarray, true: np.ndarray, labels: Labels) -> dict[str, float]:
    k, has_common = int(true.sum()), labels.common.any()
    first = np.zeros(len(true), bool)
    first[best(score, k)] = True
    groups = [group for group in labels.groups if true[group].any()]
    hits = int(true[taken].sum())
    return ranking(score, true) | curve(score, true) | {
        "groups_at_k": float(np.mean([first[group].mean() >= 0.5 for group in groups])) if groups else np.nan,
        "common_at_k": float((first & labels.common).sum() / k) if has_common and k else np.nan,
        "precision": hits / len(taken) if len(taken) else np.nan,
        "recall": hits / k if k else np.nan, "selected": float(len(taken)),
        "common_selected": float(labels.common[taken].sum() / labels.common.sum()) if has_common else np.nan,
    }  # fmt: skip


def stability_bins(answer: Answer, labels: Labels, width: int) -> pd.DataFrame:
    """Of the neurons that a method takes, how many are true, by how often resampled queries find them again.

    Columns: `fact`, `scope` (`all` or `language`), `bin` (from 0: up to a fifth, ... of the resamples), `stated` (sum of the
    frequencies), `neurons`, `true`. No row for methods without frequencies.

    Example
    -------
    >>> stability_bins(answer, labels, 1144)[["bin", "neurons", "true"]]
    """
    table = answer.selected[answer.selected["frequency"].notna()]
    flat = (table["layer"] * width + table["neuron"]).to_numpy()
    masks = {"all": labels.own} | labels.by_language
    right = [bool(masks[scope][number]) for scope, number in zip(table["scope"], flat, strict=True)]
    table = table.assign(
        true=np.array(right, dtype=int), scope=np.where(table["scope"] == "all", "all", "language"),
        bin=np.minimum((table["frequency"] * BINS).astype(int), BINS - 1),
    )  # fmt: skip
    return table.groupby(["fact", "scope", "bin"], as_index=False).agg(
        stated=("frequency", "sum"), neurons=("true", "size"), true=("true", "sum")
    )


def agreement(scores: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """How a score ranks all neurons beside the exact effects: `spearman`, and `top`, the share of the 20 largest that both have.

    Both [layers, neurons] of one query.

    Example
    -------
    >>> agreement(exact, exact)
    {'spearman': 1.0, 'top': 1.0}
    """
    a, b = scores.ravel(), exact.ravel()
    k = min(TOP, a.size)
    shared = set(best(a, k).tolist()) & set(best(b, k).tolist())
    return {"spearman": float(spearmanr(a, b).statistic), "top": len(shared) / k}
