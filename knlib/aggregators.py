"""The same attributions under every localizer: what each keeps, how sure it is, how its sets react to threshold and luck."""

from collections.abc import Hashable, Sequence

import pandas as pd

from .attribution import Attributions
from .effect_groups import compare_methods
from .errors import InputError
from .localization import LOCALIZERS, localize
from .models import Model


def every_localizer(
    attributions: Attributions, queries: pd.DataFrame, *, resamples: int = 100, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Name -> neurons over all languages (scope `all`), for every localizer of the registry at its defaults.

    Facts for which a localizer finds nothing have no rows. `resamples`: of the queries, for `frequency` and `stability`.

    Example
    -------
    >>> {name: len(table) for name, table in every_localizer(attributions, queries).items()}
    """
    return {name: over_languages(name, attributions, queries, resamples=resamples, seed=seed) for name in LOCALIZERS}


def over_languages(name: str, attributions: Attributions, queries: pd.DataFrame, **options) -> pd.DataFrame:
    """The rows of `localize` with scope `all`: the neurons that a localizer finds over all languages of a fact.

    Example
    -------
    >>> over_languages("re_lcb", attributions, queries, ablate=("language",))
    """
    table = localize(name, attributions, queries, **options)
    return table[table["scope"] == "all"].drop(columns="scope").reset_index(drop=True)


def bounds(
    tables: dict[str, pd.DataFrame], attributions: Attributions, queries: pd.DataFrame, fact: str, *, most: int = 14
) -> pd.DataFrame:
    """A fact's neurons with the interval expected in a new language, and which localizers keep them.

    Index `layer·neuron`, the `most` largest `mu` first; columns `mu`, `low`, `high` (mu ± sqrt(tau2 + se2)), and one of
    booleans per entry of `tables` (of `every_localizer`). Raises `InputError` where no language knows the fact.

    Example
    -------
    >>> bounds(every_localizer(attributions, queries), attributions, queries, "capital:FR")
    """
    own = queries[queries["fact"] == fact]
    # Every neuron with a positive mean, whichever localizer would keep it.
    known = over_languages("mean", attributions, own, t=0.01, drop_generic=False, resamples=0)
    if known.empty:
        raise InputError("fact", found=fact, expected="a fact that the model knows in some languages")
    known = known.nlargest(most, "mu")
    spread = (known["tau2"] + known["se2"]) ** 0.5
    table = pd.DataFrame({"mu": known["mu"], "low": known["mu"] - spread, "high": known["mu"] + spread})
    pairs = list(zip(known["layer"], known["neuron"], strict=True))
    for name, kept in tables.items():
        kept = kept[kept["fact"] == fact]
        found = set(zip(kept["layer"], kept["neuron"], strict=True))
        table[name] = [pair in found for pair in pairs]
    table.index = [f"{layer}·{neuron}" for layer, neuron in pairs]
    return table


def set_summary(tables: dict[str, pd.DataFrame], facts: Sequence[str]) -> pd.DataFrame:
    """One row per set and fact: `name`, `fact`, `neurons`, `stability` (NaN where the set is empty).

    Example
    -------
    >>> set_summary(tables, queries["fact"].unique()).groupby("name")["stability"].mean()
    """
    rows = []
    for name, table in tables.items():
        found = dict(list(table.groupby("fact")))
        for fact in facts:
            own = found.get(fact)
            rows.append({
                "name": name, "fact": fact, "neurons": 0 if own is None else len(own),
                "stability": float("nan") if own is None else own["stability"].iloc[0],
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["name", "fact", "neurons", "stability"])


def threshold_sweep(
    attributions: Attributions, queries: pd.DataFrame, thresholds: dict[str, Sequence[float]], *, resamples: int = 20
) -> dict[tuple[str, float], pd.DataFrame]:
    """(Localizer, t) -> neurons over all languages, for localizers with a threshold `t`.

    Example
    -------
    >>> threshold_sweep(attributions, queries, {"re_lcb": [0.05, 0.1], "min_lang": [0.05, 0.1]})
    """
    return {
        (name, t): over_languages(name, attributions, queries, t=t, resamples=resamples)
        for name, values in thresholds.items()
        for t in values
    }


def compare_sets(
    model: Model, tables: dict[Hashable, pd.DataFrame], queries: pd.DataFrame, *, seed: int = 0
) -> pd.DataFrame:
    """One row per set: its size, its stability, and what suppressing it does to `queries`, beyond a control.

    `neurons`: mean over the facts of `queries`, facts without any included; `stability`: mean over facts with a set;
    `log_change`, `log_low`, `log_high`: change of log P(answer), less that of as many random neurons of the same layers,
    in nats, 95 % interval over facts; `facts`: how many have a set. NaN where fewer than two have.

    Example
    -------
    >>> compare_sets(model, every_localizer(attributions, located), held_out)
    """
    numbered = {str(i): table.drop(columns="relation") for i, table in enumerate(tables.values())}
    sizes = set_summary(numbered, queries["fact"].unique().tolist()).groupby("name", sort=False)
    found = sizes.agg(neurons=("neurons", "mean"), stability=("stability", "mean"))
    effects = compare_methods(model, numbered, queries, seed=seed)
    columns = ["log_change", "log_low", "log_high", "facts"]
    if effects.empty:
        found[columns] = float("nan")
    else:
        found = found.join(effects.xs("neurons", level="condition")[columns].astype(float))
    names = list(tables)
    return found.set_axis(pd.MultiIndex.from_tuples(names) if isinstance(names[0], tuple) else names)
