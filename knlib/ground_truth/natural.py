"""Need planted storage look like natural storage? Activations and columns of planted neurons beside those of old ones.

"Natural" are old neurons that exact ablation ranks first for facts that the model had before: the best that can be said of where it
keeps them, and true of effects, not of storage.
"""

import numpy as np
import pandas as pd
import torch

from ..errors import InputError, Literal
from ..models import Model, by_input
from ..planting.signatures import serves
from ..sites import make_sites, neuron_vectors
from .study import GroundStudy

KINDS = ("planted", "natural", "old", "dummy")
COLUMNS = ["layer", "neuron", "kind", "own", "elsewhere", "norm", "fires"]
BATCH = 64  # queries that run together
# A neuron is heard where what it adds is at least this share of what its layer's FFN adds.
HEARD = 0.1


def oracle_top(pairs: pd.DataFrame, top: int = 10) -> pd.DataFrame:
    """The neurons that ablation ranks first for each query of a table of pairs: `query`, `layer`, `neuron`, best first.

    `pairs`: of `pair_interactions`, whose pairs begin with the best. Raises `InputError` for no pair and for fewer than one neuron.

    Example
    -------
    >>> oracle_top(tables["pairs"], 10).groupby("query").size()
    """
    needed = ["query", "layer_a", "neuron_a", "layer_b", "neuron_b"]
    if not set(needed) <= set(pairs) or pairs.empty or top < 1:
        raise InputError("pairs, top", found=Literal(f"{len(pairs)} pairs, top {top}"),
                         expected="a table of pair_interactions, and at least one neuron")  # fmt: skip
    names = {"layer_a": "layer", "neuron_a": "neuron", "layer_b": "layer", "neuron_b": "neuron"}
    parts = [pairs[["query", f"layer_{end}", f"neuron_{end}"]].rename(columns=names).assign(end=end) for end in "ab"]
    # All firsts in their order; the last of all neurons is only ever second.
    both = pd.concat(parts).drop_duplicates(["query", "layer", "neuron"])
    return both.groupby("query", sort=False).head(top)[["query", "layer", "neuron"]].reset_index(drop=True)


def neuron_statistics(study: GroundStudy, pairs: pd.DataFrame, *, top: int = 10) -> pd.DataFrame:
    """Four measures of every neuron of a planted model, `COLUMNS`; `kind` is one of `KINDS`.

    Where an answer's first token is predicted: `own`, mean |activation| over the neuron's own queries (those that its group serves; of a
    natural one, those for which it is among the `top` best; NaN for others); `elsewhere`, over all other queries; `fires`, the share of all
    queries at which it is heard: |activation x column norm| is at least a tenth of the norm of what its layer's FFN adds. `norm`: of its
    column of the down-projection. Queries: those of the study and its natural ones. `pairs`: `pairs` of `load_results`.

    Raises `InputError` for pairs of no query of the study.

    Example
    -------
    >>> neuron_statistics(study, tables["pairs"]).groupby("kind")[["own", "norm"]].median()
    """
    model, width = study.model, study.model.n_neurons
    best = oracle_top(pairs, top)
    best = best[best["query"].isin(study.natural["query"])]
    if best.empty:
        raise InputError(
            "pairs", found=Literal("no natural query of the study"), expected="the pairs of its own scoreboard"
        )
    queries = pd.concat([study.queries, study.natural], ignore_index=True)
    owners = _owners(study, best, queries)
    total, heard = (np.zeros(model.n_layers * width) for _ in range(2))
    own, counts = np.zeros_like(total), np.zeros_like(total)
    for start in range(0, len(queries), BATCH):
        size, loud = _measured(model, queries.iloc[start : start + BATCH])
        total += size.sum(0)
        heard += loud.sum(0)
        for values, mine in zip(size, owners[start : start + BATCH], strict=True):
            own[mine] += values[mine]
            counts[mine] += 1
    norm = torch.stack([by_input(down, down.weight.detach()).norm(dim=-1) for down in model.down_projections])
    layer, neuron = np.divmod(np.arange(len(total)), width)
    with np.errstate(invalid="ignore"):
        found = {"layer": layer, "neuron": neuron, "kind": _kinds(study, best), "own": own / np.where(counts > 0, counts, np.nan),
                 "elsewhere": (total - own) / (len(queries) - counts), "norm": norm.cpu().numpy().ravel(), "fires": heard / len(queries)}  # fmt: skip
    return pd.DataFrame(found)[COLUMNS]


def language_use(study: GroundStudy, facts: list[str]) -> pd.DataFrame:
    """How a fact's own neurons share out its languages: `fact`, `kind`, `layer`, `neuron`, `language`, `share`.

    `share`: mean |activation| where the answer's first token is predicted, over that in the language where it is largest. A group can serve
    all languages while each of its neurons serves few. Raises `InputError` for no fact.

    Example
    -------
    >>> use = language_use(study, study.facts.query("kind == 'agnostic'")["fact"].head(2).tolist())
    >>> use.groupby(["fact", "layer", "neuron"])["share"].min()
    """
    if not len(facts):
        raise InputError("facts", found=list(facts), expected="at least one")
    queries, parts = study.of(facts), []
    size, _ = _measured(study.model, queries)
    kinds = study.facts.set_index("fact")["kind"]
    for fact, rows in queries.groupby("fact", sort=False):
        own = np.flatnonzero(study.labels[fact].own)
        means = (
            pd.DataFrame(size[rows.index][:, own], columns=own).groupby(rows["language"].to_numpy(), sort=False).mean()
        )
        share = (
            (means / means.max())
            .rename_axis("language")
            .reset_index()
            .melt("language", var_name="number", value_name="share")
        )
        layer, neuron = np.divmod(share["number"].astype(int), study.model.n_neurons)
        parts.append(share.assign(fact=fact, kind=kinds[fact], layer=layer, neuron=neuron))
    return pd.concat(parts, ignore_index=True)[["fact", "kind", "layer", "neuron", "language", "share"]]


def _owners(study: GroundStudy, best: pd.DataFrame, queries: pd.DataFrame) -> list[np.ndarray]:
    """For each query the flat numbers of the neurons that are its own."""
    width, groups = study.model.n_neurons, dict(tuple(study.truth.groups.groupby("fact")))
    natural = {query: (own["layer"] * width + own["neuron"]).to_numpy() for query, own in best.groupby("query")}
    found = []
    for row in queries.itertuples():
        if row.fact in groups:
            served = [group.neurons for group in groups[row.fact].itertuples() if serves(group, row.language, row.name)]
            flat = sorted({layer * width + neuron for pairs in served for layer, neuron in pairs})
            found.append(np.array(flat, dtype=int))
        else:
            found.append(natural.get(row.query, np.zeros(0, int)))
    return found


def _kinds(study: GroundStudy, best: pd.DataFrame) -> np.ndarray:
    """The kind of every neuron, by flat number."""
    width = study.model.n_neurons

    def flat(pairs) -> list[int]:
        return [layer * width + neuron for layer, neuron in pairs]

    kinds = np.full(study.model.n_layers * width, "old", dtype=object)
    kinds[flat(zip(best["layer"], best["neuron"], strict=True))] = "natural"
    # A planted neuron that matters to a natural fact is planted still.
    kinds[flat(study.truth.planted)] = "planted"
    kinds[flat(study.truth.dummies)] = "dummy"
    return kinds


@torch.no_grad()
def _measured(model: Model, queries: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """|activation| where the answer's first token is predicted, and whether it is heard, both [queries, neurons]."""
    sites = make_sites(model, queries.reset_index(drop=True), sites="first")
    values = neuron_vectors(model, [site.ids for site in sites], [site.position for site in sites])
    loud = []
    for layer, projection in enumerate(model.down_projections):
        columns = by_input(projection, projection.weight.detach())
        added = (values[:, layer] @ columns).norm(dim=-1, keepdim=True)
        loud.append(values[:, layer].abs() * columns.norm(dim=-1) >= HEARD * added.clamp(min=1e-12))
    size = values.abs().flatten(1).cpu().numpy()
    return size, torch.cat(loud, dim=1).cpu().numpy()
