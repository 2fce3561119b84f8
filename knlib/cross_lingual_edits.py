"""Edit a fact in one language through neurons of several kinds; ask in all languages what has changed.

The question is that of "One Mind, Many Tongues" (Cao et al., arXiv 2411.17401): is a fact edited in every language where its
language-agnostic neurons are? Their protocol is not public; this one is ours.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from .controls import neuron_pairs
from .editing.neurons import EDIT_COLUMNS, value_edit
from .errors import InputError
from .models import Model
from .perplexity import text_loss
from .uses import answers, before_after, check_arms, check_disjoint, required, spelled_alike, with_controls

# From the prompt that was edited to facts that the edit should leave alone.
GROUPS = {
    "request": "edited\nprompt",
    "paraphrase": "same language,\nother phrasings",
    "language": "other\nlanguages",
    "same_string": "other languages,\nsame spelling",
    "relation": "other fact,\nsame relation",
    "other": "other\nrelation",
}
LOCALITY = ("relation", "other")


def edit_groups(
    edits: pd.DataFrame, located: pd.DataFrame, held_out: pd.DataFrame, others: pd.DataFrame
) -> pd.DataFrame:
    """The queries that every edit is tried on, in six groups (`GROUPS`).

    `edits`: one query a fact, the request, with `new` (`knlib.counterfactuals.with_new_objects`); its language is the edit's.
    `located`: the queries that the neurons were found with; `held_out`: queries of the same facts in all languages, with
    `new`; `others`: queries of other relations. Returns query rows with `group`, `owner` (the edited fact), `new` (the owner's
    new object, also where another fact is asked) and `same_string` (the old or new answer is spelled as in the request:
    in other languages these are a group of their own). Owners go round the other facts of their relation, and
    `others`; a fact whose own answer is the owner's new one is not asked.

    Raises `InputError` for missing columns, a fact edited twice, `others` of an edited relation, and a template that comes
    in two of: located, requests, held out or others.

    Example
    -------
    >>> groups = edit_groups(edits, located, held_out, others)
    >>> groups.groupby("group", sort=False).size()
    """
    for name, table, columns in (("edits", edits, (*EDIT_COLUMNS, "language", "relation", "template")),
                                 ("held_out", held_out, ("fact", "language", "template", "answer", "new"))):  # fmt: skip
        required(name, table, columns)
    if edits["fact"].duplicated().any():
        raise InputError(
            "edits", found=edits.loc[edits["fact"].duplicated(), "fact"].iloc[0], expected="each fact once"
        )
    mixed = set(others["relation"]) & set(edits["relation"])
    if mixed:
        raise InputError("others", found=min(mixed), expected="queries of relations without an edit")
    check_disjoint(located, pd.concat([edits, held_out, others]))
    check_disjoint(edits, held_out)
    source = edits.set_index("fact")["language"]
    own = held_out[held_out["fact"].isin(source.index)]
    own = own.assign(owner=own["fact"], same_string=spelled_alike(own, edits))
    own["group"] = "language"
    own["group"] = own["group"].mask(own["same_string"], "same_string")
    own["group"] = own["group"].mask(own["language"] == own["owner"].map(source), "paraphrase")
    parts = [edits.assign(owner=edits["fact"], group="request", same_string=True), own]
    strangers = list(dict.fromkeys(others["fact"]))
    for relation, facts in edits.groupby("relation", sort=False)["fact"]:
        names = list(facts)
        parts += _partners(held_out[held_out["relation"] == relation], names, [*names[1:], *names[:1]], "relation", own)
    parts += _partners(others, list(source.index), strangers, "other", own)
    order = {name: i for i, name in enumerate(GROUPS)}
    return pd.concat(parts).sort_values("group", key=lambda c: c.map(order), kind="stable", ignore_index=True)


def _partners(
    queries: pd.DataFrame, owners: Sequence[str], asked: Sequence[str], group: str, own: pd.DataFrame
) -> list[pd.DataFrame]:
    """For every owner the queries of one of the facts `asked`, with the owner's new object as `new`."""
    parts = []
    for i, owner in enumerate(owners):
        if not asked or asked[i % len(asked)] == owner:
            continue
        rows = queries[queries["fact"] == asked[i % len(asked)]]
        names = own[own["owner"] == owner].drop_duplicates("language").set_index("language")["new"]
        rows = rows.assign(owner=owner, group=group, same_string=False, new=rows["language"].map(names))
        parts.append(rows[rows["new"].notna() & (rows["new"] != rows["answer"])])
    return parts


def edit_arms(neurons: pd.DataFrame, edits: pd.DataFrame, *, k: int = 20) -> dict[str, pd.DataFrame]:
    """Four choices of a fact's neurons, by name, from a table of `knlib.localization.localize`; at most `k` of each fact.

    `KN source`: those of the edit's language; `KN target`: those of the language asked (column `language`, `k` of each);
    `KN union`: of any language; `LAKN`: those of scope `all`. The best by `score` (in the union, by a neuron's best score),
    since a set of hundreds and one of two would not be compared by how they were found. Columns `fact`, `layer`, `neuron`.

    Example
    -------
    >>> {name: len(table) for name, table in edit_arms(neurons, edits).items()}
    {'KN source': 98, 'KN target': 1170, 'KN union': 120, 'LAKN': 14}
    """
    required("neurons", neurons, ("fact", "scope", "layer", "neuron", "score"))
    known = neurons[neurons["fact"].isin(edits["fact"])].sort_values("score", ascending=False, kind="stable")
    each, everywhere = known[known["scope"] != "all"], known[known["scope"] == "all"]
    source = each["fact"].map(edits.set_index("fact")["language"])
    columns = ["fact", "layer", "neuron"]
    return {
        "KN source": each.loc[each["scope"] == source, columns].groupby("fact").head(k),
        "KN target": each.groupby(["fact", "scope"])
        .head(k)
        .rename(columns={"scope": "language"})[[*columns, "language"]],
        "KN union": each[columns].drop_duplicates().groupby("fact").head(k),
        "LAKN": everywhere[columns].groupby("fact").head(k),
    }


def cross_lingual_edits(
    model: Model,
    edits: pd.DataFrame,
    groups: pd.DataFrame,
    arms: dict[str, pd.DataFrame],
    facts: pd.DataFrame,
    *,
    editors: dict[str, Callable] | None = None,
    sentences: Sequence[str] = (),
    l1: float = 1.0,
    l2: float = 8.0,
    draws: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """What each edit, one at a time, does to its groups of queries, beside matched controls.

    `edits`, `groups`: of `edit_groups` (with requests for a fact in several languages, here alone, the edit's directions are
    means over them); `arms`: name -> neurons (`fact`, `layer`, `neuron`, and `language` where they differ by the language
    asked), as `edit_arms` makes them; `facts`: with all objects of the relations asked. `editors`: arm -> editor with the
    signature of `knlib.editing.value_edit`, which edits where none is given. `sentences`: text without the edited facts.
    Each arm has `draws` controls: as
    many other neurons of the same layers, edited alike. A fact without neurons is not changed, and counts so.

    Returns one row per (owner, arm, condition, draw, query): `n` (neurons edited), `group`, `language`, `same_string`;
    `success` (the model's answer is the new object), `right` (the query's own answer), `p_new`, `p_answer`, each `_before`
    and `_after`; `unchanged` (the same prediction); `score`: `success_after` in the fact's own groups, `unchanged` in those
    of locality; `d_loss`: by how many nats a token `sentences` get less likely (NaN without). `knlib.uses.use_summary`
    gives intervals.

    Raises `InputError` as `value_edit`, and for arms that are no tables of neurons.

    Example
    -------
    >>> edited = cross_lingual_edits(model, edits, groups, edit_arms(neurons, edits), facts, draws=3)
    >>> use_summary(edited, ["arm", "group"])[["estimate", "low", "high", "control"]]
    """
    required("groups", groups, ("owner", "group", "query", "language", "new", "answer"))
    check_arms(arms)
    groups = groups.reset_index(drop=True)
    before = answers(model, groups, facts)
    loss = text_loss(model, sentences) if sentences else np.nan
    parts = []
    for owner, asked in groups.groupby("owner", sort=False):
        edit = edits[edits["fact"] == owner]
        for arm, table in arms.items():
            editor = (editors or {}).get(arm, value_edit)
            own = table[table["fact"] == owner]
            by_language = "language" in table
            for language, part in asked.groupby("language", sort=False) if by_language else [("", asked)]:
                pairs = neuron_pairs(model, own[own["language"] == language] if by_language else own)
                for condition, draw, chosen in with_controls(model, pairs, draws, seed, owner, arm, language):
                    old = after = before.loc[part.index]
                    changed = loss
                    if chosen:
                        neurons = pd.DataFrame(chosen, columns=["layer", "neuron"]).assign(fact=owner)
                        with editor(model, edit, neurons, l1=l1, l2=l2):
                            after = answers(model, part, facts)
                            changed = text_loss(model, sentences) if sentences else np.nan
                    rows = before_after(part, old, after).assign(d_loss=changed - loss)
                    parts.append(rows.assign(arm=arm, condition=condition, draw=draw, n=len(chosen)))
    table = pd.concat(parts, ignore_index=True)
    table["score"] = table["success_after"].where(~table["group"].isin(LOCALITY), table["unchanged"]).astype(float)
    return table
