"""Localizers: from attributions to the neurons of every fact, in each language and over all, by one call.

Every module of this folder is imported, and registers its localizers: `kn_share`, `amig`, `mean`, `min_lang`, `cas`,
`re_lcb`. A file added to it appears in `LOCALIZERS`, and with that in every comparison.
"""

from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pandas as pd

from ..attribution import Attributions
from ..errors import InputError, Literal
from .entropy import with_entropy
from .gates import REASONS, REPORT_COLUMNS, Report, gather, lacks_languages, relation_generic
from .kn import relation_neurons
from .permutation_null import null_threshold
from .random_effects import random_effects
from .registry import LOCALIZERS, Evidence, Localizer, Verdict, register
from .sharing import sharing
from .stability import stability

__all__ = ["LOCALIZERS", "REASONS", "Evidence", "Verdict", "localize", "null_threshold", "register",
           "relation_neurons", "sharing", "with_entropy"]  # fmt: skip

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

TABLE_COLUMNS = {
    "fact": str, "relation": str, "scope": str, "layer": int, "neuron": int, "score": float, "mu": float, "tau2": float,
    "se2": float, "i2": float, "uq": float, "uq_estimable": bool, "n_l": float, "languages": int, "queries": int,
    "frequency": float, "stability": float,
}  # fmt: skip


def localize(
    name: str,
    attributions: Attributions,
    queries: pd.DataFrame,
    *,
    min_gold_prob: float = 1e-3,
    max_entropy: float = 0.8,
    min_languages: int = 3,
    min_families: int = 2,
    drop_generic: bool = True,
    resamples: int = 100,
    seed: int = 0,
    report: bool = False,
    **options,
) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
    """The neurons that a localizer of the registry finds for every fact, in each language and over all of them.

    `queries`: a query table, of which the attributions hold every id (they may hold more). Optional columns:
    `probability` (the answer's; default: that of the attributions), `n_sites` (tokens of the answer), `entropy`
    (normalized, over the relation's objects: `with_entropy` adds both; without it all queries weigh alike).
    `options`: the localizer's own.

    Returns a neuron table, one row per (fact, scope, layer, neuron), best score first:

    - `fact`, `relation`, `scope` (a language code, or `all`), `layer`, `neuron`, `score` (the localizer's)
    - `mu`: mean scaled score, in the language or over languages; `uq`: query uncertainty, the variance of a language's mean
      (`all`: mean over languages; only a floor where not `uq_estimable`: no language has two queries); `tau2`: language
      uncertainty, the variance between languages, and `i2`, its share (NaN with one language); `se2`: variance of
      `mu`. Of the random-effects model, whatever the localizer
    - `n_l`: effective number of queries of a language (`all`: mean); `queries`, `languages`: how many speak for the neuron
    - `frequency`: share of `resamples` of the queries that find the neuron again; `stability`: mean Jaccard overlap of the
      fact's set with the resampled ones (both NaN with `resamples=0`)
    - `relation_generic`: whether more than 10 % of the relation's facts have the neuron (NA: too few facts or objects to
      tell); such neurons are dropped unless `drop_generic=False`

    What is left out is counted, by the reasons of `REASONS`: in sum in `table.attrs["left_out"]` (reason -> count), and
    with `report=True` as a second table (`relation`, `fact`, `language` or scope, `reason`, `count`). The frame's `attrs`
    hold no frame because `pandas.concat`, `merge` and `to_parquet` fail or lose them with one. Queries with a
    probability below `min_gold_prob` are invalid; languages with a mean entropy above `max_entropy` are left out; scope
    `all` needs `min_languages` of `min_families` after that.

    Raises `InputError` for unknown names and options, missing columns, ids without attributions.

    Example
    -------
    >>> table = localize("re_lcb", attributions, with_entropy(model, queries, facts))
    >>> table[table["scope"] == "all"].groupby("fact").head(3)
    """
    if name not in LOCALIZERS:
        raise InputError("localizer", found=name, expected=Literal("one of " + " ".join(LOCALIZERS)))
    if resamples < 0:
        raise InputError("resamples", found=resamples, expected="0 or more")
    localizer = LOCALIZERS[name]
    options = localizer.options(options)
    facts, left_out = gather(attributions, queries, min_gold_prob=min_gold_prob, max_entropy=max_entropy,
                             reach=_reach(localizer, options))  # fmt: skip
    tuned = {relation: _tuned(localizer, facts, relation, options) for relation in {f.relation for f in facts}}
    parts = []
    for fact in facts:
        why = lacks_languages(fact, min_languages, min_families)
        if why:
            left_out.append((fact.relation, fact.fact, "all", why, len(fact.languages)))
        if fact.languages:
            parts += _fact_rows(localizer, fact, tuned[fact.relation], why is None, resamples, seed, left_out)
    table = _table(parts, attributions)
    table["relation_generic"], not_judged = relation_generic(table, queries)
    left_out += not_judged
    if drop_generic:
        table = _without_generic(table, left_out)
    counts = pd.DataFrame(left_out, columns=REPORT_COLUMNS)
    table.attrs["left_out"] = {str(k): int(v) for k, v in counts.groupby("reason")["count"].sum().items()}
    return (table, counts) if report else table


def _reach(localizer: Localizer, options: dict) -> float | None:
    """The least scaled score without which the localizer finds no neuron, as far as it says so."""
    values = [options[name] for name in localizer.reach]
    return min((min(v.values()) if isinstance(v, dict) else v for v in values), default=None)


def _tuned(localizer: Localizer, facts: list[Evidence], relation: str, options: dict) -> dict:
    if localizer.tune is None:
        return options
    return localizer.tune([f for f in facts if f.relation == relation and f.languages], **options)


def _fact_rows(
    localizer: Localizer, fact: Evidence, options: dict, over_all: bool, resamples: int, seed: int, left_out: Report
) -> list[dict[str, np.ndarray]]:
    """Columns of a fact's rows, scope by scope."""
    verdict = localizer.find(fact, **options)
    support = verdict.language_found if verdict.support is None else verdict.support
    estimate = random_effects(fact.scores, fact.language, fact.certainty * fact.multiplicity)
    several = np.nan if len(fact.languages) == 1 else 1.0
    if resamples:
        frequency, jaccard, empty = stability(localizer, fact, options, verdict, resamples=resamples, seed=seed)
    else:
        frequency = np.full((1 + len(fact.languages), len(fact.neurons)), np.nan)
        jaccard, empty = np.full(len(frequency), np.nan), np.zeros(len(frequency), int)
    parts = []
    for number, scope in enumerate(("all", *fact.languages)):
        k = number - 1
        if number == 0:
            if not over_all:
                continue
            found, score, mu, se2 = verdict.found, verdict.score, estimate.mu, estimate.se2
            uq, n, own = estimate.uq.mean(0), estimate.n.mean(), slice(None)
        else:
            found, score, mu = verdict.language_found[k], verdict.language_score[k], estimate.m[k]
            se2 = uq = estimate.uq[k]
            n, own = estimate.n[k], fact.language == k
        if empty[number]:
            left_out.append((fact.relation, fact.fact, scope, "empty_resamples", int(empty[number])))
        at = np.flatnonzero(found)
        at = at[np.argsort(-score[at], kind="stable")]
        same = {"fact": fact.fact, "relation": fact.relation, "scope": scope, "uq_estimable": estimate.estimable,
                "n_l": n, "stability": jaccard[number]}  # fmt: skip
        parts.append({
            "neuron": fact.neurons[at], "score": score[at], "mu": mu[at], "tau2": estimate.tau2[at] * several,
            "se2": se2[at], "i2": estimate.i2[at] * several, "uq": uq[at], "languages": support.sum(0)[at],
            "queries": verdict.reached[own].sum(0)[at], "frequency": frequency[number][at],
            **{column: np.full(len(at), value) for column, value in same.items()},
        })  # fmt: skip
    return parts


def _table(parts: list[dict[str, np.ndarray]], attributions: Attributions) -> pd.DataFrame:
    columns = {name: [part[name] for part in parts] for name in TABLE_COLUMNS if name != "layer"}
    flat = {name: np.concatenate(values) if values else [] for name, values in columns.items()}
    table = pd.DataFrame(flat).assign(layer=0).astype(TABLE_COLUMNS)[list(TABLE_COLUMNS)]
    place, table["neuron"] = np.divmod(table["neuron"].to_numpy(), attributions.scores.shape[2])
    table["layer"] = attributions.scores["layer"].values[place]
    return table


def _without_generic(table: pd.DataFrame, left_out: Report) -> pd.DataFrame:
    generic = table["relation_generic"].fillna(False).to_numpy(bool)
    for (relation, fact, scope), rows in table[generic].groupby(["relation", "fact", "scope"], sort=False):
        left_out.append((relation, fact, scope, "relation_generic", len(rows)))
    return table[~generic].reset_index(drop=True)
