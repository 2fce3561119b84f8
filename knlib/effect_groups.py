"""Whom a fact's neurons are tried on: its own queries, its paraphrases, other languages, other facts."""

from collections.abc import Sequence

import pandas as pd

from .effects import effects
from .errors import InputError, Literal
from .models import Model
from .statistics import paired_difference, ratio_of_means

# From the queries that the neurons were found with to those that they should have nothing to do with.
GROUPS = {
    "same": "queries used\nto locate",
    "paraphrase": "other\nphrasings",
    "language": "other\nlanguage",
    "relation": "other fact,\nsame relation",
    "other": "other\nrelation",
}


def effect_groups(
    neurons: pd.DataFrame, located: pd.DataFrame, held_out: pd.DataFrame, others: pd.DataFrame
) -> pd.DataFrame:
    """The queries on which every fact's neurons are tried, in five groups of growing distance (`GROUPS`).

    `neurons`: columns `fact`, `language`, `layer`, `neuron`. `located`: the queries that they were found with; `held_out`:
    queries of the same facts in other phrasings; `others`: queries of another relation. Returns query rows with `group`,
    `owner` and `source`: fact and language of the neurons to scale (for `knlib.effects.effects` with
    `match=("owner", "source")`), and a `query` id that is unique over groups. Partners go round: the next fact, the
    next language of the same fact. Queries whose owner and source have no neurons are left out.

    Raises `InputError` where a query stands in both `located` and `held_out`, or with fewer than two facts.

    Example
    -------
    >>> groups = effect_groups(neurons, located, held_out, others)
    >>> groups.groupby("group", sort=False).size()
    """
    shared = sorted(set(located["query"]) & set(held_out["query"]))
    if shared:
        raise InputError("held_out", found=shared[0], expected="queries that the neurons were not located with")
    facts, languages = list(dict.fromkeys(neurons["fact"])), list(dict.fromkeys(neurons["language"]))
    if len(facts) < 2:
        raise InputError("neurons", found=Literal(f"{len(facts)} fact(s)"), expected="at least two facts")
    strangers = list(dict.fromkeys(others["fact"]))
    pairing = {fact: facts[i % len(facts)] for i, fact in enumerate(strangers)}
    own, elsewhere = held_out["fact"], held_out["language"]
    parts = [
        located.assign(group="same", owner=located["fact"], source=located["language"]),
        held_out.assign(group="paraphrase", owner=own, source=elsewhere),
        held_out.assign(group="relation", owner=own.map(_next(facts)), source=elsewhere),
        others.assign(group="other", owner=others["fact"].map(pairing), source=others["language"]),
    ]
    if len(languages) > 1:
        parts.insert(2, held_out.assign(group="language", owner=own, source=elsewhere.map(_next(languages))))
    table = pd.concat(parts, ignore_index=True)
    table["query"] = table["group"] + "|" + table["query"]
    have = set(zip(neurons["fact"], neurons["language"], strict=True))
    keep = [pair in have for pair in zip(table["owner"], table["source"], strict=True)]
    return table[keep].reset_index(drop=True)


def _next(names: Sequence[str]) -> dict[str, str]:
    return dict(zip(names, [*names[1:], *names[:1]], strict=True))


def group_effects(
    model: Model, groups: pd.DataFrame, neurons: pd.DataFrame, *, factors: Sequence[float], seed: int = 0
) -> pd.DataFrame:
    """`knlib.effects.effects` on all groups with a layer-matched control, for several factors.

    `groups`: of `effect_groups`; `neurons`: columns `fact`, `language`, `layer`, `neuron`. Adds the columns `factor`,
    `group`, `owner` to the effects.

    Example
    -------
    >>> effect_summary(group_effects(model, groups, neurons, factors=(0.0, 2.0)), ["factor", "group"])
    """
    owned = neurons.rename(columns={"fact": "owner", "language": "source"})
    found = [
        effects(model, groups, owned, factor=factor, controls=("layer_matched",), match=("owner", "source"), seed=seed)
        .assign(factor=factor)
        for factor in factors
    ]  # fmt: skip
    kept = groups[["query", "group", "owner"]]
    return pd.concat(found, ignore_index=True).merge(kept, on="query", validate="many_to_one")


def effect_summary(table: pd.DataFrame, by: list[str], *, control: str = "layer_matched") -> pd.DataFrame:
    """How scaling changed P(answer), for the neurons and the control, with 95 % intervals over the neurons' facts.

    `table`: rows of `knlib.effects.effects` with `owner` and the columns `by`. Returns one row per group and condition:
    `change`, `low`, `high` (mean of p_after - p_before over mean of p_before: a ratio of means, as Dai et al. 2022
    report it, arXiv 2104.08696), `queries`, `facts`; and in the rows of `neurons` `log_change`, `log_low`, `log_high`:
    the change of log P less the control's, in nats, paired by query.

    Example
    -------
    >>> effect_summary(table, ["group"]).loc[("paraphrase", "neurons"), ["change", "low", "high"]]
    """
    rows = {}
    for key, group in table.groupby(by, sort=False):
        parts = {name: part.set_index("query") for name, part in group.groupby("condition", sort=False)}
        for condition in ("neurons", control):
            part = parts[condition]
            found = ratio_of_means(part["p_after"] - part["p_before"], part["p_before"], part["owner"])
            row = {"change": found.estimate, "low": found.low, "high": found.high}
            if condition == "neurons":
                other = parts[control].loc[part.index]
                log = paired_difference(part["log_p_after"], other["log_p_after"], part["owner"])
                row |= {"log_change": log.estimate, "log_low": log.low, "log_high": log.high}
            rows[(*key, condition)] = row | {"queries": len(part), "facts": found.clusters}
    summary = pd.DataFrame.from_dict(rows, orient="index")
    summary.index = pd.MultiIndex.from_tuples(rows, names=[*by, "condition"])
    return summary


def compare_methods(
    model: Model, tables: dict[str, pd.DataFrame], queries: pd.DataFrame, *, factor: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """What scaling each method's neurons does to the same queries: `effect_summary` by method, and `neurons`.

    `tables`: name -> neurons, with `language` where they are of one language (then only its queries are asked). Facts and
    languages without neurons are not asked; a method with neurons for fewer than two facts has no interval and no rows.
    `neurons`: mean number scaled per query.

    Example
    -------
    >>> compare_methods(model, {"kn": kn, "amig": amig}, held_out)[["neurons", "change", "low", "high"]]
    """
    rows = []
    for name, table in tables.items():
        by = [column for column in ("fact", "language") if column in table]
        asked = queries.merge(table[by].drop_duplicates(), on=by)
        if asked["fact"].nunique() < 2:
            continue
        found = effects(model, asked, table, factor=factor, controls=("layer_matched",), match=tuple(by), seed=seed)
        found = found.merge(asked[["query", "fact"]].rename(columns={"fact": "owner"}), on="query")
        rows.append(effect_summary(found.assign(method=name), ["method"]).assign(neurons=found["n"].mean()))
    return pd.concat(rows) if rows else pd.DataFrame()
