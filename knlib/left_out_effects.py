"""Do neurons that were located without a language carry the fact in it? The test of "language-agnostic"."""

from collections.abc import Sequence

import pandas as pd

from .attribution import Attributions
from .effects import effects
from .errors import InputError
from .languages import LANGUAGES
from .localization import LOCALIZERS, localize
from .models import Model
from .plots import by_script
from .statistics import paired_difference, ratio_of_means

CONTROL = "layer_matched"
COLUMNS = ["fact", "relation", "language", "neurons", "queries", "p_before", "p_neurons", "p_control",
           "log_before", "log_neurons", "log_control"]  # fmt: skip

_ESTIMATES = ("change", "control", "difference", "log_difference")
SUMMARY = ["facts", "neurons", *(f"{name}{end}" for name in _ESTIMATES for end in ("", "_low", "_high")), "excludes_0"]


def folds(languages: Sequence[str], size: int = 3) -> list[tuple[str, ...]]:
    """Groups of at most `size` languages that are left out together; relatives share a group, so none helps locate.

    A branch (Romance, say) of more than `size` languages is divided. With few languages the groups are smaller, so that two
    always stay to locate with. Raises `InputError` for fewer than three languages.

    Example
    -------
    >>> folds(("en", "ja", "fr", "es", "zh", "de"), 3)
    [('en', 'de'), ('fr', 'es'), ('zh', 'ja')]
    """
    order = by_script(dict.fromkeys(languages))
    if len(order) < 3:
        raise InputError("languages", found=order, expected="at least three: one left out, two to locate with")
    if size < 1:
        raise InputError("size", found=size, expected="at least 1")
    size = min(size, len(order) - 2)
    branches: dict[str, list[str]] = {}
    for code in order:
        branches.setdefault(LANGUAGES[code].family if code in LANGUAGES else code, []).append(code)
    groups: list[list[str]] = [[]]
    for codes in branches.values():
        for start in range(0, len(codes), size):
            part = codes[start : start + size]
            if len(groups[-1]) + len(part) > size:
                groups.append([])
            groups[-1] += part
    return [tuple(group) for group in groups]


def left_out_neurons(
    attributions: Attributions,
    queries: pd.DataFrame,
    *,
    localizer: str = "re_lcb",
    size: int = 3,
    **options,
) -> pd.DataFrame:
    """The language-agnostic neurons of every fact, for each language located without it and without its group of `folds`.

    `queries`: those to locate with, with `entropy` and `n_sites` of `with_entropy`. `options`: of
    `knlib.localization.localize`. Returns a neuron table (scope `all`), best score of a fact first, with the column
    `language`, the one left out. With three or four languages in all two may be left: then two are enough.

    Example
    -------
    >>> neurons = left_out_neurons(attributions, queries)
    >>> neurons[(neurons["fact"] == "capital:FR") & (neurons["language"] == "ja")]  # Japanese had no say in these
    """
    parts = []
    for group in folds(queries["language"].unique(), size):
        known = queries[~queries["language"].isin(group)]
        gates = {"min_languages": 2, "min_families": 1} if known["language"].nunique() < 3 else {}
        table = localize(localizer, attributions, known, **{"resamples": 0} | gates | options)
        table = table[table["scope"] == "all"]
        parts += [table.assign(language=code) for code in group]
    return pd.concat(parts, ignore_index=True)


def left_out_effects(
    model: Model,
    attributions: Attributions,
    queries: pd.DataFrame,
    held_out: pd.DataFrame,
    *,
    localizer: str = "re_lcb",
    size: int = 3,
    seed: int = 0,
    **options,
) -> pd.DataFrame:
    """What suppressing a fact's language-agnostic neurons does in languages that did not help to locate them.

    `held_out`: queries of other templates, on which the effect is measured; beside it that of as many random neurons of
    the same layers, drawn anew for every query. The other arguments are those of `left_out_neurons`.

    Returns a row per fact and language asked: `fact`, `relation`, `language`, `neurons` (how many; 0 where nothing was located,
    and nothing changes), `queries`, and means over these of P(answer), `p_before`, `p_neurons`, `p_control`, and of its
    logarithm, `log_before`, `log_neurons`, `log_control`.

    Raises `InputError` where a template serves both to locate and to test, and for fewer than three languages.

    Example
    -------
    >>> table = left_out_effects(model, attributions, queries, held_out)
    >>> left_out_summary(table)[["difference", "difference_low", "difference_high"]]
    """
    _check_templates(queries, held_out)
    neurons = left_out_neurons(attributions, queries, localizer=localizer, size=size, **options)
    return _suppressed(model, neurons, held_out, seed)


def _check_templates(queries: pd.DataFrame, held_out: pd.DataFrame) -> None:
    shared = set(queries["template"]) & set(held_out["template"])
    if shared:
        raise InputError("held_out", found=min(shared), expected="templates that the neurons were not located with")


def _suppressed(model: Model, neurons: pd.DataFrame, asked: pd.DataFrame, seed: int) -> pd.DataFrame:
    """`neurons` by fact and language that is asked."""
    if asked.empty:
        return pd.DataFrame(columns=COLUMNS)
    found = effects(model, asked, neurons, controls=(CONTROL,), match=("fact", "language"), seed=seed)
    return by_fact_and_language(found.merge(asked[["query", "fact", "relation", "language"]], on="query"))


def by_fact_and_language(found: pd.DataFrame) -> pd.DataFrame:
    """Means over the queries of a fact in a language, neurons and control side by side: the columns of `left_out_effects`.

    `found`: rows of `knlib.effects.effects` with `fact`, `relation`, `language`.
    """
    if found.empty:
        return pd.DataFrame(columns=COLUMNS)
    keys = ["fact", "relation", "language"]
    measured = ["n", "p_before", "p_after", "log_p_before", "log_p_after"]
    parts = {name: rows.groupby(keys, sort=False)[measured] for name, rows in found.groupby("condition")}
    own, control = parts["neurons"].mean(), parts[CONTROL].mean()
    table = pd.DataFrame({
        "neurons": own["n"].astype(int), "queries": parts["neurons"].size(),
        "p_before": own["p_before"], "p_neurons": own["p_after"], "p_control": control["p_after"],
        "log_before": own["log_p_before"], "log_neurons": own["log_p_after"], "log_control": control["log_p_after"],
    })  # fmt: skip
    return table.reset_index()[COLUMNS]


def left_out_summary(table: pd.DataFrame, by: str | None = None, *, seed: int = 0) -> pd.DataFrame:
    """The effect beside the control's, over all rows or by a column, with 95 % intervals over facts.

    `table`: of `left_out_effects`. Columns: `facts`, `neurons` (mean number); `change` and `control`: how P(answer) changed under
    the neurons and under the random ones, over P before (ratios of means); `difference`: P under the neurons less P
    under the control, paired; `log_difference`: the same of log P; each with `_low` and `_high`; and `excludes_0`: whether
    the interval of `difference` does. Groups of fewer than two facts have no interval and no row.

    Example
    -------
    >>> left_out_summary(table, "language")[["change", "control", "excludes_0"]]
    """
    groups = [("all", table)] if by is None else list(table.groupby(by, sort=False))
    rows = {}
    for name, group in groups:
        if group["fact"].nunique() < 2:
            continue
        fact, before = group["fact"], group["p_before"]
        found = {
            "change": ratio_of_means(group["p_neurons"] - before, before, fact, seed=seed),
            "control": ratio_of_means(group["p_control"] - before, before, fact, seed=seed),
            "difference": paired_difference(group["p_neurons"], group["p_control"], fact, seed=seed),
            "log_difference": paired_difference(group["log_neurons"], group["log_control"], fact, seed=seed),
        }
        row = {"facts": fact.nunique(), "neurons": group["neurons"].mean()}
        for column, interval in found.items():
            row |= {column: interval.estimate, f"{column}_low": interval.low, f"{column}_high": interval.high}
        rows[name] = row | {"excludes_0": bool(found["difference"].low * found["difference"].high > 0)}
    return pd.DataFrame(list(rows.values()), index=list(rows), columns=SUMMARY).rename_axis(by or "rows")


def compare_left_out(
    model: Model,
    attributions: Attributions,
    queries: pd.DataFrame,
    held_out: pd.DataFrame,
    *,
    most: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """`left_out_summary` of every localizer in the registry at its defaults: index (`set`, `localizer`).

    Only of facts and languages for which it has neurons. `set`: `whole`, or `best`: at most `most` of each, best score
    first, so that localizers with large sets gain nothing by that. A localizer with neurons for fewer than two facts has NaN but for `facts`.

    Example
    -------
    >>> compare_left_out(model, attributions, queries, held_out).loc["whole", ["neurons", "change", "control"]]
    """
    _check_templates(queries, held_out)
    rows: dict[str, dict] = {"whole": {}, "best": {}}
    for name in LOCALIZERS:
        neurons = left_out_neurons(attributions, queries, localizer=name)
        best = neurons.groupby(["fact", "language"], sort=False).head(most)
        for kind, table in (("whole", neurons), ("best", best)):
            asked = held_out.merge(table[["fact", "language"]].drop_duplicates(), on=["fact", "language"])
            found = _suppressed(model, table, asked, seed)
            summary = left_out_summary(found, seed=seed)
            rows[kind][name] = summary.loc["all"] if len(summary) else {"facts": found["fact"].nunique()}
    tables = {kind: pd.DataFrame.from_dict(found, orient="index") for kind, found in rows.items()}
    return pd.concat(tables, names=["set", "localizer"]).reindex(columns=SUMMARY)


def verdict(row: pd.Series) -> str:
    """One sentence about a row of `left_out_summary`, whichever way it went.

    Example
    -------
    >>> verdict(left_out_summary(table).loc["all"])
    'P(answer) changes by -48 %, with random neurons by -1 %; difference -0.410 [-0.440, -0.380]: lower than with ...'
    """
    numbers = (
        f"P(answer) changes by {100 * row['change']:+.0f} %, with random neurons by {100 * row['control']:+.0f} %; "
        f"difference {row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
    )
    if not row["excludes_0"]:
        return f"{numbers}: the interval does not exclude 0"
    return (
        f"{numbers}: {'lower' if row['difference'] < 0 else 'higher'} than with random neurons, the interval excludes 0"
    )


def verdicts(table: pd.DataFrame) -> list[str]:
    """`verdict` over the facts with neurons, and over all facts asked: where nothing was located, nothing changes.

    Example
    -------
    >>> verdicts(left_out_effects(model, attributions, queries, held_out))[1]
    'all 280 known facts: P(answer) changes by -1 %, with random neurons by +0 %; ...'
    """
    some = table[table["neurons"] > 0]
    lines = []
    for name, rows in (("facts with neurons", some), ("known facts", table)):
        summary, count = left_out_summary(rows), rows["fact"].nunique()
        said = verdict(summary.loc["all"]) if len(summary) else "too few for an interval"
        lines.append(f"{'all ' if rows is table else ''}{count} {name}: {said}")
    return lines
