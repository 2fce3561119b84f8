"""Enhance neurons of facts that a model knows in some languages and not in others: does the rest follow?

"One Mind, Many Tongues" (Cao et al., arXiv 2411.17401) names this use of language-agnostic knowledge neurons; its protocol is
not public, this one is ours.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .controls import generator, neuron_pairs
from .editing.neurons import scale_columns
from .errors import InputError, Literal
from .models import Model
from .uses import answers, before_after, check_arms, check_disjoint, required, with_controls

GROUPS = {"wrong": "languages\nwithout the fact", "right": "languages\nwith it", "other": "other\nfacts"}


def enhancement_groups(
    model: Model,
    located: pd.DataFrame,
    held_out: pd.DataFrame,
    others: pd.DataFrame,
    facts: pd.DataFrame,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """The queries of facts that the model answers in some languages and not in others, and of other facts, for harm.

    `located`: the queries that the neurons are found with; `held_out`: queries of the facts in question, in other phrasings;
    `others`: queries of other facts. A language has a fact if all of its held-out phrasings are right, and lacks it if none
    is; other languages are left out, and facts without one of each kind. Returns query rows with `group` (`GROUPS`), `owner`
    (the fact to enhance; facts of `others` go round) and `half`: `dev` or `test`, by fact, at random.

    Raises `InputError` for templates that locate and test, for a fact in both `held_out` and `others`, and with fewer than
    two facts left.

    Example
    -------
    >>> groups = enhancement_groups(model, located, held_out, others, facts)
    >>> groups.groupby(["half", "group"])["owner"].nunique()
    """
    check_disjoint(located, pd.concat([held_out, others]))
    both = set(held_out["fact"]) & set(others["fact"])
    if both:
        raise InputError("others", found=min(both), expected="facts that are not in held_out")
    held_out = held_out.reset_index(drop=True)
    right = answers(model, held_out, facts)["right"].groupby([held_out["fact"], held_out["language"]]).transform("mean")
    group = pd.Series(np.select([right == 0, right == 1], ["wrong", "right"], ""), index=held_out.index)
    kinds = group.groupby(held_out["fact"]).agg(set)
    names = [fact for fact in kinds.index if {"wrong", "right"} <= kinds[fact]]
    if len(names) < 2:
        raise InputError("held_out", found=Literal(f"{len(names)} fact(s) that some languages have and some lack"),
                         expected="at least two, one for each half")  # fmt: skip
    own = held_out.assign(owner=held_out["fact"], group=group)[held_out["fact"].isin(names) & (group != "")]
    strangers = list(dict.fromkeys(others["fact"]))
    partners = [
        others[others["fact"] == strangers[i % len(strangers)]].assign(owner=name, group="other")
        for i, name in enumerate(names) if strangers
    ]  # fmt: skip
    order = generator(seed, "halves").permutation(len(names))
    half = {names[place]: ("dev", "test")[i % 2] for i, place in enumerate(order)}
    table = pd.concat([own, *partners], ignore_index=True)
    return table.assign(half=table["owner"].map(half))


def enhancement(
    model: Model,
    groups: pd.DataFrame,
    arms: dict[str, pd.DataFrame],
    facts: pd.DataFrame,
    *,
    factors: Sequence[float] = (1.5, 2.0, 3.0),
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """What scaling the down-projection columns of a fact's neurons does to its answers, beside matched controls.

    `groups`: of `enhancement_groups`; `arms`: name -> neurons (`fact`, `layer`, `neuron`). On the half `dev` all `factors`
    are tried; on the half `test` only the one with which most queries of the group `wrong` became right there (of equal ones, that
    with the largest mean probability of the answer). Neurons and controls, `draws` of each, choose apart. A fact without
    neurons is not changed, and counts so.

    Returns one row per (owner, arm, condition, draw, factor, query): `n`, `half`, `group`, `language`, `right` and `p_answer`,
    each `_before` and `_after`, `unchanged`, and `score`: 1 for a wrong answer made right, -1 for a right one made wrong, else 0.

    Raises `InputError` for no factors, arms that are no tables of neurons, and a half without a query of the group `wrong`.

    Example
    -------
    >>> found = enhancement(model, groups, {"LAKN": lakn}, facts, draws=3)
    >>> use_summary(found[found["half"] == "test"], ["arm", "group"])
    """
    required("groups", groups, ("owner", "group", "half", "query", "answer"))
    check_arms(arms)
    if not len(factors):
        raise InputError("factors", found=factors, expected="at least one")
    for half in ("dev", "test"):
        if not ((groups["half"] == half) & (groups["group"] == "wrong")).any():
            raise InputError(
                "groups", found=Literal(f"no wrong answer in the half {half}"), expected="some in both halves"
            )
    groups = groups.reset_index(drop=True)
    before = answers(model, groups, facts)
    parts = []

    def scaled(arm: str, half: str, factors_of: dict[str, Sequence[float]]) -> pd.DataFrame:
        rows = []
        for owner, part in groups[groups["half"] == half].groupby("owner", sort=False):
            pairs = neuron_pairs(model, arms[arm][arms[arm]["fact"] == owner])
            old = before.loc[part.index]
            for condition, draw, chosen in with_controls(model, pairs, draws, seed, owner, arm):
                for factor in factors_of[condition]:
                    after = old
                    if chosen:
                        with scale_columns(model, chosen, factor):
                            after = answers(model, part, facts)
                    rows.append(before_after(part, old, after).assign(
                        arm=arm, condition=condition, draw=draw, factor=factor, n=len(chosen), half=half))  # fmt: skip
        return pd.concat(rows, ignore_index=True)

    for arm in arms:
        dev = scaled(arm, "dev", {"neurons": factors, "control": factors})
        best = {name: [best_factor(dev[dev["condition"] == name])] for name in ("neurons", "control")}
        parts += [dev, scaled(arm, "test", best)]
    table = pd.concat(parts, ignore_index=True)
    table["score"] = table["right_after"].astype(float) - table["right_before"]
    return table


def best_factor(table: pd.DataFrame) -> float:
    """The factor with which most queries of the group `wrong` became right; of equal ones, that with the largest mean P.

    Example
    -------
    >>> best_factor(found[(found["half"] == "dev") & (found["condition"] == "neurons")])
    1.5
    """
    wrong = table[table["group"] == "wrong"].groupby("factor")[["right_after", "p_answer_after"]].mean()
    return wrong.sort_values(["right_after", "p_answer_after"]).index[-1]
