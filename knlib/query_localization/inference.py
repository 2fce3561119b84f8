"""How sure is a mean over facts, when facts come in a few relations? A two-stage bootstrap, and a mixed model."""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from ..controls import generator
from ..errors import InputError, Literal
from ..statistics import holm

DRAWS = 2000
# Candidate predictors of a consistency score: formula term -> column.
TERMS = {"C(model)": "model", "C(method)": "method", "np.log(k)": "k", "size": "size"}


def relation_draws(relations, *, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each fact is in each bootstrap draw, [draws, facts]: relations are drawn, then facts within each.

    `relations` [facts]. A relation drawn twice has its facts drawn twice, anew. With few relations the intervals that follow
    are rough, and rather too narrow. Raises `InputError` for no fact.

    Example
    -------
    >>> relation_draws(["capital", "capital", "country"], draws=2).sum(1).min() >= 2
    True
    """
    codes, names = pd.factorize(pd.Series(list(relations)))
    if not len(codes):
        raise InputError("relations", found=Literal("no fact"), expected="at least one")
    draw = generator(seed, "relations, then facts")
    often = draw.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    found = np.zeros((draws, len(codes)))
    for number in range(len(names)):
        own = np.flatnonzero(codes == number)
        # n facts are drawn for each copy of the relation: copies of one relation add up to one larger multinomial.
        found[:, own] = draw.multinomial(often[:, number] * len(own), np.full(len(own), 1 / len(own)))
    return found


@dataclass(frozen=True, eq=False)
class MixedModel:
    """`terms`: one row per term with `estimate`, `low`, `high`, `p`, `p_holm`; `relation_sd`: spread between relations;
    `left_out`: predictors that do not vary; `converged`."""

    terms: pd.DataFrame
    relation_sd: float
    left_out: tuple[str, ...]
    converged: bool


def mixed_model(table: pd.DataFrame, value: str = "cs_2") -> MixedModel:
    """What a consistency score depends on: value ~ model + method + log(k) + size + (1 | relation), by REML.

    `table`: one row per fact, model and method, with these columns; rows without a value are left out, as are predictors
    with a single value. p-values are two-sided (Wald) and adjusted by Holm over the terms. Facts that several models and
    methods share count as independent here: for differences between them take intervals of paired differences.

    Raises `InputError` for missing columns, one relation, or nothing that varies.

    Example
    -------
    >>> mixed_model(pd.concat([a1.rows.assign(model="atlas-gpt2"), a4.rows.assign(model="atlas-llama")])).terms
    """
    wanted = {*TERMS.values(), "relation", value}
    if not wanted <= set(table):
        raise InputError("table", found=list(table), expected="columns " + " ".join(sorted(wanted)))
    table = table.dropna(subset=[value])
    if table["relation"].nunique() < 2:
        raise InputError("table", found=Literal(f"{table['relation'].nunique()} relation(s)"), expected="at least two")
    varied = {term: column for term, column in TERMS.items() if table[column].nunique() > 1}
    if not varied:
        raise InputError("table", found=Literal("rows that differ in no predictor"), expected="two models or methods")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told by `converged`
        fit = smf.mixedlm(f"{value} ~ {' + '.join(varied)}", table, groups=table["relation"]).fit(reml=True)
    names = list(fit.fe_params.index)
    bounds = fit.conf_int().loc[names]
    terms = pd.DataFrame({"estimate": fit.fe_params, "low": bounds[0], "high": bounds[1], "p": fit.pvalues[names]})
    slopes = terms.index != "Intercept"
    terms.loc[slopes, "p_holm"] = holm(terms.loc[slopes, "p"].fillna(1))
    left_out = tuple(column for column in TERMS.values() if column not in varied.values())
    return MixedModel(terms, float(np.sqrt(fit.cov_re.iloc[0, 0])), left_out, bool(fit.converged))
