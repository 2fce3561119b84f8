"""What knowledge synapses do to a query's neurons and to its answer, beside sets like them (spec, section 4; the D cells)."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..controls import Pairs, activation_matched, generator
from ..models import Model
from . import consistency
from .intervals import Draws
from .located import located
from .mapping import answer_changes, by_label, consistent_code, site_activations, tested_queries, top_neurons
from .measure import Asked, Change, Measured, asked, measure
from .mediation import mediated_share, mediation_changes
from .study import Study
from .synapse_conditions import CONTROLS, Condition, conditions
from .synapses import Columns, attention_columns, column_kinds

DEFAULTS = {"size": 10, "queries": 1, "alpha": 0.3, "alphas": [0.1, 0.2, 0.5], "seed": 0}
VALUE_MEASURES = ("d_value", "d_value_matched", "d_size", "d_size_matched")
ANSWER_MEASURES = ("d_log_p", "flip")
DECIMALS = 4  # of the rows: they are many
KEYS = ("mode", "alpha", "operator", "factor", "set")


@dataclass(frozen=True, eq=False)
class Prepared:
    """`members`: number of a tested query -> its neurons; `alike`: (template, meaning of each column) -> numbers of all queries."""

    tested: pd.DataFrame
    members: dict[int, Pairs]
    alike: dict[tuple, list[int]]
    labels: pd.Series


def prepare(study: Study, options: dict, inputs: dict) -> Prepared:
    """What all chunks need: the tested queries, their neurons, which queries' columns align, labels of the `ig` cell."""
    (result,) = inputs.values()
    tested = tested_queries(study, options["queries"], options["seed"])
    scores = located(study, "ig").scores.values
    members = {index: top_neurons(scores[index], options["size"]) for index in tested.index}
    alike = defaultdict(list)
    for index, query in zip(study.queries.index, study.queries.itertuples(), strict=True):
        if query.part == "B":
            alike[_columns_of(study.model, query)].append(index)
    return Prepared(tested, members, dict(alike), consistency.labels(result))


def _columns_of(model: Model, query) -> tuple:
    return query.template, *column_kinds(model, query, asked(model, query)).tolist()


def rows(study: Study, options: dict, prepared: Prepared, facts: list[str]) -> pd.DataFrame:
    """One row per tested query and condition: `fact`, `query` (its number in the study), `consistent` (1, 0, or nothing where the
    fact has no label), what is changed (`mode`, `alpha`, `operator`, `factor`, `set`), `n` entries that hold `mass` of all
    attention, for `self` the shares of them in `sinks` and in the answer's columns (`masks`), and what follows.

    Option `read`: `value`: `d_value` of the query's neurons = (mean after - mean before) / mean |before| over neurons and sites,
    `d_size` the same with every neuron's sign turned so that it was positive before, both also of `matched` neurons, like them in
    layer and activation; `answer`: `d_log_p` and `flip` as in `answer_changes`, with the runs of `mediation_changes` as sets where
    `factor` is 0, and all `DOSES` where it is not. No set `mass_matched` where what is left holds too little.
    """
    found = []
    own = prepared.tested[prepared.tested["fact"].isin(facts)]
    for index, query in zip(own.index, own.itertuples(), strict=True):
        head = {"fact": query.fact, "query": index, "consistent": consistent_code(prepared.labels, query.fact)}
        found += [head | row for row in _query_rows(study, options, prepared, index, query)]
    measures = VALUE_MEASURES if options["read"] == "value" else ANSWER_MEASURES
    numbers = ["n", "mass", "sinks", "masks", *measures]
    table = pd.DataFrame(found, columns=["fact", "query", "consistent", *KEYS, *numbers])
    table["consistent"] = table["consistent"].astype("Int64")
    return table.assign(**{name: table[name].astype(float).round(DECIMALS) + 0.0 for name in numbers[1:]})


def _query_rows(study: Study, options: dict, prepared: Prepared, index: int, query) -> list[dict]:
    model, seed, factor = study.model, options["seed"], options["factor"]
    read_answer = options["read"] == "answer"
    own, tokens = attention_columns(model, query), asked(model, query)
    tried = conditions(model, own, _other(study, prepared, query, seed), factor, options,
                       doses=read_answer and factor != 0, key=query.query)  # fmt: skip
    members = prepared.members[index]
    matched = activation_matched(members, site_activations(model, tokens), generator(seed, query.query, "matched"))
    changes = [Change(), *(condition.change() for condition in tried)]
    seen = measure(model, tokens, changes, read=members + matched, answer=read_answer)
    table = [_described(condition, own) for condition in tried]
    if not read_answer:
        sets = {"": seen.values[..., : len(members)], "_matched": seen.values[..., len(members) :]}
        for suffix, values in sets.items():
            for name, numbers in value_changes(values).items():
                for row, number in zip(table, numbers, strict=True):
                    row[name + suffix] = number
        return table
    if factor == 0:
        seen, held = _with_mediation(model, tokens, tried[0], members, matched, seen)
        table += [_described(tried[0], own) | {"set": name, "sinks": None, "masks": None} for name in held]
    effects = answer_changes(seen)
    for name in ANSWER_MEASURES:
        for row, number in zip(table, effects[name], strict=True):
            row[name] = number
    return table


def value_changes(values: np.ndarray) -> dict[str, np.ndarray]:
    """`d_value` and `d_size` of neurons under changes, relative to the first entry; `values` [changes, sites, neurons].

    Gated neurons have either sign: a mean over them may stand still while all of them shrink, which `d_size` shows.

    Example
    -------
    >>> value_changes(np.array([[[2.0, -2.0]], [[1.0, -1.0]]]))
    {'d_value': array([0.]), 'd_size': array([-0.5])}
    """
    gap, size = values[1:] - values[0], np.abs(values[0]).mean()
    size = size if size > 0 else np.nan
    return {"d_value": gap.mean((1, 2)) / size, "d_size": (gap * np.sign(values[0])).mean((1, 2)) / size}


def _with_mediation(
    model: Model, tokens: Asked, condition: Condition, members: Pairs, matched: Pairs, seen: Measured
) -> tuple[Measured, list[str]]:
    """What was seen, with the runs of `mediation_changes` for the first condition tried behind it, and their names."""
    cut = len(members)
    clean, changed = ({"members": v[:, :cut], "matched": v[:, cut:]} for v in seen.values[:2])
    held = mediation_changes(condition.change().synapses, {"members": members, "matched": matched}, clean, changed)
    more = measure(model, tokens, list(held.values()))
    odds, top = np.vstack([seen.log_odds, more.log_odds]), np.vstack([seen.top, more.top])
    return Measured(odds, top, seen.values), list(held)


def _described(condition: Condition, own: Columns) -> dict:
    entries = condition.entries
    row = {key: getattr(condition, key) for key in KEYS}
    row |= {"n": int(entries.sum()), "mass": own.mass[entries].sum() / own.mass.sum(), "sinks": None, "masks": None}
    if condition.set == "self" and row["n"]:
        row["sinks"] = entries[..., own.sinks].sum() / row["n"]
        row["masks"] = entries[..., own.kinds == "answer"].sum() / row["n"]
    return row


def _other(study: Study, prepared: Prepared, query, seed: int) -> Columns | None:
    """What is looked at in a query of another fact and object, with the same template and aligned columns."""
    table = study.queries.loc[prepared.alike[_columns_of(study.model, query)]]
    table = table[(table["fact"] != query.fact) & (table["answer"] != query.answer)]
    if table.empty:
        return None
    chosen = int(generator(seed, query.query, "aligned").integers(len(table)))
    return attention_columns(study.model, next(table.iloc[[chosen]].itertuples()))


def summary(study: Study, options: dict, rows: pd.DataFrame) -> dict:
    """Means of every condition with intervals (`effects`), `self` less each control, paired (`self_less`; H4 reads `mass_matched`
    of mode `norm`), members less matched neurons (`members_less_matched`), the main comparison by label, and where they were
    run the mediated shares."""
    draws = Draws(dict(zip(study.queries["fact"], study.queries["relation"], strict=True)), seed=options["seed"])
    value = options["read"] == "value"
    measures = VALUE_MEASURES if value else ANSWER_MEASURES
    main = ["d_value", "d_size"] if value else ["d_log_p"]
    effects, less, specific = [], [], []
    for key, group in rows.groupby(list(KEYS), sort=False):
        names = dict(zip(KEYS, key, strict=True)) | {"n": float(group["n"].mean()), "mass": float(group["mass"].mean())}
        shares = {name: float(group[name].mean()) for name in ("sinks", "masks") if group[name].notna().any()}
        found = {m: draws.mean(group[m], group["fact"]) for m in measures}
        effects.append(names | shares | found)
        if value:
            specific.append(names | {m: draws.mean(group[m] - group[f"{m}_matched"], group["fact"]) for m in main})
    for key, group in rows.groupby(list(KEYS[:-1]), sort=False):
        names = dict(zip(KEYS[:-1], key, strict=True))
        less += [names | {"set": control} | found for control, found in _less(group, main, draws).items()]
    norm = rows[(rows["mode"] == "norm") & (rows["alpha"] == options["alpha"]) & (rows["operator"] == "plain")
                & (rows["factor"] == options["factor"])]  # fmt: skip
    found = {
        "facts": int(rows["fact"].nunique()), "queries": int(rows["query"].nunique()),
        "effects": effects, "self_less": less,
        "self_less_by_label": {name: _less(own, main, draws) for name, own in by_label(norm).items()},
    }  # fmt: skip
    if value:
        return found | {"members_less_matched": specific}
    if options["factor"] == 0:
        wide = norm.pivot_table(index=["fact", "query"], columns="set", values="d_log_p").reset_index()
        found["mediation"] = mediated_share(wide.rename(columns={"self": "free"}), draws)
    return found


def _less(group: pd.DataFrame, measures: list[str], draws: Draws) -> dict[str, dict]:
    """`self` less each other set that is a control, over queries that have both."""
    found: dict[str, dict] = {}
    for measure_name in measures:
        wide = group.pivot_table(index=["fact", "query"], columns="set", values=measure_name)
        for name in CONTROLS:
            if name in wide and "self" in wide:
                gap = (wide["self"] - wide[name]).dropna()
                found.setdefault(name, {})[measure_name] = draws.mean(gap, gap.index.get_level_values("fact"))
    return found
