"""One fact's neurons in different languages: who shares them, in which layers, and how far the sets of two languages overlap.

Everything here starts from a neuron table of `knlib.localization.localize`: `fact`, `scope` (a language, or `all`), `layer`,
`neuron`. A language for which nothing was found has no rows; it says nothing about sharing, and does not count.
"""

import unicodedata
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from .errors import InputError
from .languages import script_of
from .localization import sharing
from .neuron_sets import neuron_sets
from .statistics import mean, paired_difference

# What `knlib.localization.sharing` calls a neuron, from one language's to all languages'.
KINDS = ("specific", "partial", "agnostic")
# Pairs of languages by script and by how the answer is spelled, nearest first.
PAIR_GROUPS = ("same script, spelled alike", "same script, spelled differently", "other script, spelled alike",
               "other script, spelled differently")  # fmt: skip


def layer_counts(table: pd.DataFrame, facts: Sequence[str], layers: int) -> pd.DataFrame:
    """How many neurons of each kind every fact has in every layer: one row per (fact, kind, layer), column `neurons`.

    `facts`: those asked; one without any neuron counts as 0 everywhere.

    Example
    -------
    >>> layer_counts(table, ["capital:FR"], 8).query("kind == 'agnostic'")["neurons"].tolist()
    [0, 0, 0, 1, 2, 0, 4, 1]
    """
    found = sharing(table).groupby(["fact", "kind", "layer"]).size()
    every = pd.MultiIndex.from_product([facts, KINDS, range(layers)], names=["fact", "kind", "layer"])
    return found.reindex(every, fill_value=0).rename("neurons").reset_index()


def layer_profile(counts: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Mean neurons per fact by kind and layer, with 95 % intervals over facts: columns `mean`, `low`, `high`.

    `counts`: of `layer_counts`. Raises `InputError` for fewer than two facts.
    """
    rows = {}
    for key, group in counts.groupby(["kind", "layer"], sort=False):
        found = mean(group["neurons"], group["fact"], seed=seed)
        rows[key] = (found.estimate, found.low, found.high)
    profile = pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "low", "high"])
    profile.index = pd.MultiIndex.from_tuples(rows, names=["kind", "layer"])
    return profile


def language_counts(table: pd.DataFrame, facts: Sequence[str], languages: int) -> pd.Series:
    """Mean neurons per fact by the number of languages in whose own sets they are, 1 to `languages`.

    Example
    -------
    >>> language_counts(table, table["fact"].unique(), 3).tolist()
    [20.5, 3.0, 1.5]
    """
    own = table[table["scope"] != "all"]
    counts = own.groupby(["fact", "layer", "neuron"])["scope"].nunique().value_counts()
    return counts.reindex(range(1, languages + 1), fill_value=0) / len(facts)


def pair_overlaps(table: pd.DataFrame, facts: pd.DataFrame, languages: Sequence[str]) -> pd.DataFrame:
    """Jaccard overlap of one fact's neurons in two languages, beside that of different facts in the same two languages.

    One row per fact and pair of languages (`a` before `b` in `languages`) in which both sets have neurons:

    - `same`: overlap of the fact's neurons in a and in b
    - `same_answer`: mean overlap with facts of the relation that have another subject and the same object (NaN: none)
    - `other_answer`: mean overlap with facts of the relation that have another object (NaN: none). The matched control:
      same relation, same languages, other fact. Both directions count: this fact in a with the other in b, and
      this one in b with the other in a
    - `alike` (whether the answer is spelled alike, NFC and case folded), `same_script`, and `group` of both (`PAIR_GROUPS`)

    `table`: neurons by `fact` and `scope`. `facts`: the benchmark's (`fact`, `relation`, `object_id`, `object`). Raises
    `InputError` for a fact of the table that `facts` does not have.

    Example
    -------
    >>> pair_overlaps(table, facts, ("en", "de")).groupby("group")[["same", "other_answer"]].mean()
    """
    sets = neuron_sets(table[table["scope"] != "all"], ["fact", "scope"])
    known = facts.set_index("fact")
    for fact in dict.fromkeys(fact for fact, _ in sets):
        if fact not in known.index:
            raise InputError("table, fact", found=fact, expected="a fact of the table `facts`")
    names = dict(zip(facts["fact"], facts["object"], strict=True))
    rows = []
    for relation, group in known.loc[list(dict.fromkeys(fact for fact, _ in sets))].groupby("relation", sort=False):
        objects, order = group["object_id"].to_numpy(), list(group.index)
        same_object = objects[:, None] == objects
        kinds = {"same_answer": same_object & ~np.eye(len(order), dtype=bool), "other_answer": ~same_object}
        for a, b in combinations(languages, 2):
            index = _jaccards([sets.get((fact, a)) for fact in order], [sets.get((fact, b)) for fact in order])
            for i in np.flatnonzero(np.isfinite(np.diag(index))):
                alike = _folded(names[order[i]][a]) == _folded(names[order[i]][b])
                row = {"fact": order[i], "relation": relation, "a": a, "b": b, "same": index[i, i], "alike": alike}
                for column, partners in kinds.items():
                    # Both directions: this fact in a with the other in b, the other in a with this one in b.
                    found = np.concatenate([index[i, partners[i]], index[partners[i], i]])
                    found = found[np.isfinite(found)]
                    row[column] = found.mean() if len(found) else np.nan
                rows.append(row | {"same_script": script_of(a) == script_of(b)})
    columns = ["fact", "relation", "a", "b", "same", "same_answer", "other_answer", "alike", "same_script"]
    pairs = pd.DataFrame(rows, columns=columns)
    script = np.where(pairs["same_script"], "same script", "other script")
    return pairs.assign(group=[f"{s}, spelled {'alike' if alike else 'differently'}"
                               for s, alike in zip(script, pairs["alike"], strict=True)])  # fmt: skip


def overlap_summary(pairs: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Same fact against other answers by group of `PAIR_GROUPS`, with 95 % intervals over facts.

    `pairs`: of `pair_overlaps`; rows without a control are left out, so that the comparison is paired, and so are groups of
    fewer than two facts. Columns: `facts`, `pairs`; `same`, `other`, `difference`, each with `_low` and `_high`; and for the
    `twins`, the facts that share their answer with another one: `twin`, their overlap with it, beside `twin_same`, their
    overlap with themselves (no intervals: two twins have one value).

    Example
    -------
    >>> overlap_summary(pairs)[["same", "other", "difference_low", "difference_high"]]
    """
    rows = {}
    for name in PAIR_GROUPS:
        group = pairs[(pairs["group"] == name) & pairs["other_answer"].notna()]
        if group["fact"].nunique() < 2:
            continue
        found = {
            "same": mean(group["same"], group["fact"], seed=seed),
            "other": mean(group["other_answer"], group["fact"], seed=seed),
            "difference": paired_difference(group["same"], group["other_answer"], group["fact"], seed=seed),
        }
        twins = group[group["same_answer"].notna()]
        row = {"facts": group["fact"].nunique(), "pairs": len(group), "twins": twins["fact"].nunique(),
               "twin": twins["same_answer"].mean(), "twin_same": twins["same"].mean()}  # fmt: skip
        for column, interval in found.items():
            row |= {column: interval.estimate, f"{column}_low": interval.low, f"{column}_high": interval.high}
        rows[name] = row
    ends = [f"{name}{end}" for name in ("same", "other", "difference") for end in ("", "_low", "_high")]
    columns = ["facts", "pairs", *ends, "twins", "twin", "twin_same"]
    return pd.DataFrame(list(rows.values()), index=list(rows), columns=columns).rename_axis("group")


def overlap_matrix(pairs: pd.DataFrame, value: str, languages: Sequence[str]) -> pd.DataFrame:
    """Languages x languages: mean of a column of `pair_overlaps` over facts, symmetric, NaN where there is no pair.

    Example
    -------
    >>> overlap_matrix(pairs[pairs["alike"]], "same", ("en", "de")).loc["de", "en"]
    0.4
    """
    means = pairs.groupby(["a", "b"])[value].mean()
    matrix = means.unstack().reindex(index=languages, columns=languages)
    return matrix.combine_first(matrix.T).loc[list(languages), list(languages)]


def shared_neurons(table: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """The neurons that a fact has in language a and in language b: `fact`, `layer`, `neuron`, `kind`, `found_in`.

    `kind` is `agnostic` where a localizer also found the neuron over all languages, else `partial`.

    Example
    -------
    >>> shared_neurons(table, "en", "ja").groupby("fact").size()
    """
    found = sharing(table)
    return found[[a in codes and b in codes for codes in found["found_in"]]].reset_index(drop=True)


def shared_facts(shared: pd.DataFrame, facts: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """The facts whose neurons two languages share, most first: answers in both, number, and the neurons as layer·neuron.

    `shared`: of `shared_neurons`; `facts`: the benchmark's rows. Columns: the two languages, `shared`, `neurons`; by `fact`.
    """
    names = facts.set_index("fact")["object"]
    rows = {
        fact: {a: names[fact][a][0], b: names[fact][b][0], "shared": len(group),
               "neurons": " ".join(f"{layer}·{neuron}" for layer, neuron in sorted(zip(group["layer"], group["neuron"], strict=True)))}
        for fact, group in shared.groupby("fact", sort=False)
    }  # fmt: skip
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(dict.fromkeys([a, b, "shared", "neurons"])))
    return table.rename_axis("fact").sort_values("shared", ascending=False, kind="stable")


def _jaccards(ones: list[set | None], others: list[set | None]) -> np.ndarray:
    """[ones, others]: Jaccard index of each pair of sets; NaN where either is missing."""
    values = np.full((len(ones), len(others)), np.nan)
    for i, one in enumerate(ones):
        for j, other in enumerate(others):
            if one and other:
                shared = len(one & other)
                values[i, j] = shared / (len(one) + len(other) - shared)
    return values


def _folded(names: Sequence[str]) -> str:
    return unicodedata.normalize("NFC", names[0]).casefold()
