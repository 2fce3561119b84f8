"""A threshold from data: which scores does a localizer still reach when every language means another fact?"""

import math

import numpy as np
import pandas as pd

from ..attribution import Attributions
from ..chance import mixed_facts
from ..errors import InputError, Literal
from . import registry

# Below this nothing would be called a knowledge neuron, and every score would have to be kept.
FLOOR = 0.02


def null_threshold(
    attributions: Attributions,
    queries: pd.DataFrame,
    *,
    localizer: str = "re_lcb",
    fdr: float = 0.05,
    draws: int = 10,
    seed: int = 0,
    **options,
) -> float:
    """The least threshold t at which at most a share `fdr` of a localizer's language-agnostic neurons is expected by chance.

    Chance: in every language the facts of a relation change places (`knlib.chance.mixed_facts`), `draws` times. Expected
    false: the mean number of neurons that then reach t; found: the number on the queries as they are; their ratio is at
    most `fdr`. Neurons that serve the whole relation count as false: they reach the same score when facts change places. Two languages keep the same fact now and then, so t errs upwards. At least 0.02;
    infinity where no threshold will do. `options`: of `knlib.localization.localize` and of the localizer, which must have
    an option `t`. Estimator: as in Storey and Tibshirani 2003 (doi:10.1073/pnas.1530509100), with all neurons taken as null.

    Raises `InputError` for a localizer without a threshold `t`, `fdr` outside (0, 1), less than one draw, and
    where no relation has two facts.

    Example
    -------
    >>> t = null_threshold(attributions, queries, draws=5)
    >>> table = localize("re_lcb", attributions, queries, t=t)
    """
    from . import localize  # the package imports this module

    if localizer not in registry.LOCALIZERS or "t" not in registry.LOCALIZERS[localizer].options({}):
        raise InputError("localizer", found=localizer, expected="one of the registry with an option t")
    if not 0 < fdr < 1:
        raise InputError("fdr", found=fdr, expected="a number between 0 and 1")
    if draws < 1:
        raise InputError("draws", found=draws, expected="at least 1")
    if "t" in options:
        raise InputError("options", found=Literal("t"), expected="none: the threshold is what is looked for")

    def scores(asked: pd.DataFrame) -> np.ndarray:
        table = localize(localizer, attributions, asked, t=FLOOR, resamples=0, **options)
        return np.sort(table.loc[table["scope"] == "all", "score"].to_numpy())

    found = scores(queries)
    by_chance = [scores(mixed_facts(queries, seed=seed + draw)) for draw in range(draws)]
    by_chance = np.sort(np.concatenate(by_chance))
    # Plus one, or a single neuron just above all that was drawn would count as certain.
    false = (1 + len(by_chance) - np.searchsorted(by_chance, found)) / (1 + draws)
    kept = found[false <= fdr * (len(found) - np.searchsorted(found, found))]
    return float(kept.min()) if len(kept) else math.inf
