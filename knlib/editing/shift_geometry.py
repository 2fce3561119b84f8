"""Do languages want the same change of a fact's shared neurons? Each language's own shift, side by side (the CLM-Bench check).

CLM-Bench (arXiv 2601.17397) finds edit vectors of two languages nearly orthogonal and mixed editing additive. A shift that all
languages share (`knlib.editing.lafn`) assumes otherwise. Here every shift of a fact is of the same neurons, so cosines compare.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from scipy import stats

from ..controls import Pairs
from ..errors import InputError, Literal
from ..models import Model
from ..prediction import AnswerRows, answer_tokens
from ..statistics import mean
from .lafn_values import ShiftOptions, asked_pass, optimise_shifts, shifted
from .moments import second_moments
from .requests import prompt_rows
from .states import output_module

VALUE = ShiftOptions(steps=40, lr=1.0, clamp=8.0)
FEWEST = 3  # facts, for a verdict


@dataclass(frozen=True, eq=False)
class ShiftGeometry:
    """Tables with a column `fact`, the id of the edit; a cosine with a shift that is 0 (nothing to change) is NaN.

    `cosines`: `language_a`, `language_b`, `cosine`, both orders and the diagonal; `ceiling`: `language`, `cosine` of the shifts of
    two halves of its prompts; `floor`: `other`, `language`, `cosine` with the other fact's shift of the same neurons. `additivity`:
    languages `a`, `b`, `language` of the request (one of them), change of its margin under both shifts `together` and `summed` over
    each alone. `reliability`: share of requests whose new answer's first token is the most probable, under the `sum` of all
    languages' shifts, under the `shared` one, under the request language's own `alone`; `neurons`: how many.
    """

    cosines: pd.DataFrame
    ceiling: pd.DataFrame
    floor: pd.DataFrame
    additivity: pd.DataFrame
    reliability: pd.DataFrame


def shift_cosines(
    model: Model,
    requests: pd.DataFrame,
    contexts: pd.DataFrame,
    neurons: dict[str, Pairs],
    texts: Sequence[str],
    options: ShiftOptions = VALUE,
    *,
    languages: Sequence[str] | None = None,
) -> ShiftGeometry:
    """Shifts of every edit's neurons for each language alone, for halves of its prompts, for another fact, for all at once.

    `contexts`: paraphrases, one or more per request, as in `prompt_rows`; `neurons`: edit -> (layer, neuron) pairs, such as the
    located ones; `texts`: neutral, for the neurons' scale; `languages`: only these. The other fact is the next one by id, around the
    end, whose new answers are all different ones; without any the floor has no row of the fact. All prompts are trained on, and the
    halves have half of them: the ceiling errs low. Deterministic, and the order of the edits does not matter. Per fact four searches,
    each as long as the one of the shared shift. Neurons of the last layer are of no use: no answer attends to them.

    Raises `InputError` as `prompt_rows`, for fewer than two languages or prompts of a language, an empty old answer and an edit
    without neurons. Source: CLM-Bench, arXiv 2601.17397; ceiling and floors are this project's.

    Example
    -------
    >>> found = shift_cosines(model, requests, paraphrases, {edit: pairs for edit in set(requests["edit"])}, texts)
    >>> geometry_summary(found), verdict(found)
    """
    rows = prompt_rows(model, requests, contexts)
    rows = rows[rows["language"].isin(rows["language"] if languages is None else list(languages))]
    # Stable: a request stays before its paraphrases.
    rows = rows.sort_values(["edit", "language"], kind="stable", ignore_index=True)
    _check(rows, neurons)
    edits = dict(list(rows.groupby("edit")))
    layers = sorted({layer for edit in edits for layer, _ in neurons[edit]})
    for layer in layers:
        output_module(model, layer, "mlp")
    scale = {layer: moment.diagonal().sqrt() for layer, moment in second_moments(model, layers, texts).items()}
    parts = []
    for edit, own in edits.items():
        pairs, other = neurons[edit], _other(edit, edits)

        def found(rows, pairs=pairs):
            """Part -> shift; nothing is watched: of halves of few prompts too little would be left."""
            shifts = optimise_shifts(model, rows, dict.fromkeys(rows["part"], pairs), scale, options, watch=False)
            return {part: _flat(shift.values) for part, shift in shifts.items()}

        alone = found(own.assign(part=own["language"]))
        half = own.assign(part=own["language"] + " " + (own.groupby("language").cumcount() % 2).astype(str))
        both = found(half)
        halves = [{code: both[f"{code} {number}"] for code in alone} for number in (0, 1)]
        foreign = found(edits[other].assign(part=edits[other]["language"])) if other else {}
        reader = _Reader(model, own.drop_duplicates("language"), pairs)
        shared = found(own.assign(part=edit))[edit]
        hits = {"sum": reader.hits(sum(alone.values())).mean(), "shared": reader.hits(shared).mean(),
                "alone": np.mean([reader.hits(shift)[i] for i, shift in enumerate(alone.values())])}  # fmt: skip
        parts.append(fact_geometry(edit, alone, halves, other, foreign, reader.margins, hits))
    return joined(parts)


def fact_geometry(
    fact: str, alone: dict, halves: Sequence[dict], other: str | None, foreign: dict, margins: Callable, hits: dict
) -> ShiftGeometry:
    """The tables of one fact from its shifts (language -> [neurons]): `alone`, of two `halves`, `foreign` of the `other` fact.

    `margins(shift)`: the requests' margins under a shift, [languages], languages as in `alone`; `hits`: the row of `reliability`.

    Example
    -------
    >>> fact_geometry("r:A", {"en": one, "ja": two}, [half, rest], "r:B", foreign, margins, hits).cosines
    """
    codes, dimension = list(alone), len(next(iter(alone.values())))
    square = [(fact, a, b, _cosine(alone[a], alone[b])) for a in codes for b in codes]
    ceiling = [(fact, a, _cosine(halves[0][a], halves[1][a])) for a in codes]
    floor = [(fact, other, a, _cosine(alone[a], foreign[a])) for a in codes if a in foreign]
    before = margins(torch.zeros(dimension, dtype=torch.float64))
    changes, points = {a: margins(alone[a]) - before for a in codes}, []
    for a, b in combinations(codes, 2):
        both = margins(alone[a] + alone[b]) - before
        points += [(fact, a, b, code, both[i], changes[a][i] + changes[b][i])
                   for i, code in enumerate(codes) if code in (a, b)]  # fmt: skip
    return ShiftGeometry(
        pd.DataFrame(square, columns=["fact", "language_a", "language_b", "cosine"]),
        pd.DataFrame(ceiling, columns=["fact", "language", "cosine"]),
        pd.DataFrame(floor, columns=["fact", "other", "language", "cosine"]),
        pd.DataFrame(points, columns=["fact", "a", "b", "language", "together", "summed"]),
        pd.DataFrame([{"fact": fact, "neurons": dimension} | hits]),
    )


def joined(parts: Sequence[ShiftGeometry]) -> ShiftGeometry:
    """The tables of several facts in one.

    Example
    -------
    >>> joined([geometry_of_one_fact, geometry_of_another]).reliability
    """
    names = [field.name for field in fields(ShiftGeometry)]
    return ShiftGeometry(**{n: pd.concat([getattr(part, n) for part in parts], ignore_index=True) for n in names})


def cosine_matrix(geometry: ShiftGeometry, languages: Sequence[str] | None = None) -> pd.DataFrame:
    """Mean cosine over facts of every pair of languages, [languages, languages]; `languages`: their order (None: by code).

    Example
    -------
    >>> cosine_matrix(found, ("en", "de", "ja")).round(2)
    """
    table = geometry.cosines.groupby(["language_a", "language_b"])["cosine"].mean().unstack()
    return table if languages is None else table.reindex(index=list(languages), columns=list(languages))


def geometry_summary(geometry: ShiftGeometry) -> pd.DataFrame:
    """`kind`, `estimate`, `low`, `high`, `n` facts: ceiling, cross_language, floor (means), random_sd (1 / sqrt(neurons)).

    Intervals: 95 %, facts drawn (`knlib.statistics.mean`); NaN for fewer than two. `random_sd`: of the cosine of random shifts.

    Example
    -------
    >>> geometry_summary(found).round(2)
    """
    pairs = geometry.cosines[geometry.cosines["language_a"] < geometry.cosines["language_b"]]
    sd = geometry.reliability.assign(cosine=geometry.reliability["neurons"] ** -0.5)
    kinds = {"ceiling": geometry.ceiling, "cross_language": pairs, "floor": geometry.floor, "random_sd": sd}
    rows = []
    for kind, table in kinds.items():
        own = table.dropna(subset=["cosine"])
        n, low, high = own["fact"].nunique(), np.nan, np.nan
        if n > 1:
            found = mean(own["cosine"], own["fact"])
            low, high = found.low, found.high
        rows.append((kind, own["cosine"].mean(), low, high, n))
    return pd.DataFrame(rows, columns=["kind", "estimate", "low", "high", "n"])


def verdict(geometry: ShiftGeometry) -> str:
    """Whether languages share more of a shift than two facts do: `holds`, `fails` or, with fewer than three facts, `undecided`.

    `holds`: the mean cross-language cosine lies above the floor's interval; `fails`: within or below it.

    Example
    -------
    >>> verdict(found)
    'holds'
    """
    table = geometry_summary(geometry).set_index("kind")
    if table.loc[["cross_language", "floor"], "n"].min() < FEWEST:
        return "undecided"
    return "holds" if table.at["cross_language", "estimate"] > table.at["floor", "high"] else "fails"


def additivity_fit(geometry: ShiftGeometry) -> dict[str, float]:
    """`slope`, `intercept` and `r2` of the least-squares line of `together` over `summed`, `n` points: 1, 0, 1 where shifts add up.

    Example
    -------
    >>> additivity_fit(found)
    {'slope': 0.71, 'intercept': 0.4, 'r2': 0.83, 'n': 660}
    """
    table = geometry.additivity
    line = stats.linregress(table["summed"], table["together"])
    return {
        "slope": float(line.slope),
        "intercept": float(line.intercept),
        "r2": float(line.rvalue**2),
        "n": len(table),
    }


class _Reader:
    """What a model says behind one fact's requests, one per language, when something is added to its neurons."""

    def __init__(self, model: Model, requests: pd.DataFrame, pairs: Pairs):
        helper, table = AnswerRows(model), list(requests.itertuples())
        sequences = [tuple(helper.row(r.prompt, (), 0, r.space, r.suffix)) for r in table]
        ends, fixed = [len(sequence) - 1 for sequence in sequences], min(layer for layer, _ in pairs)
        self.model, self.layers = model, {}
        for layer, neuron in sorted(pairs):
            self.layers.setdefault(layer, []).append(neuron)
        self.passes = asked_pass(model, sequences, ends, requests["position"].tolist(), fixed)
        self.new = [answer_tokens(model, r.prompt, r.space, r.new)[0] for r in table]
        self.old = [answer_tokens(model, r.prompt, r.space, r.answer)[0] for r in table]

    @torch.no_grad()
    def _logits(self, shift: torch.Tensor) -> np.ndarray:
        split = shift.split([len(own) for own in self.layers.values()])
        values = {layer: (own, part) for (layer, own), part in zip(self.layers.items(), split, strict=True)}

        def change(shape, rows, columns):
            return shifted(self.model, values, shape, list(range(len(rows))), columns)

        return self.passes.logits(change).double().cpu().numpy()

    def margins(self, shift: torch.Tensor) -> np.ndarray:
        """Logit of the new answer's first token minus the old one's, [requests]."""
        logits, rows = self._logits(shift), np.arange(len(self.new))
        return logits[rows, self.new] - logits[rows, self.old]

    def hits(self, shift: torch.Tensor) -> np.ndarray:
        """Whether the new answer's first token is the most probable one, [requests]."""
        return self._logits(shift).argmax(-1) == self.new


def _flat(values: dict) -> torch.Tensor:
    return torch.cat([shift.double().cpu() for _, (_, shift) in sorted(values.items())])


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a / a.norm()) @ (b / b.norm()))


def _other(edit: str, edits: dict[str, pd.DataFrame]) -> str | None:
    """The next edit by id whose new answers are all different ones: with the same answer it would be no floor."""
    names = list(edits)
    after = names.index(edit) + 1
    new = set(edits[edit]["new"])
    return next((n for n in names[after:] + names[: after - 1] if not new & set(edits[n]["new"])), None)


def _check(rows: pd.DataFrame, neurons: dict[str, Pairs]) -> None:
    if not len(rows):
        raise InputError("languages", found=Literal("none of a request"), expected="languages of the requests")
    for edit, own in rows.groupby("edit"):
        counts = own["language"].value_counts()
        if len(counts) < 2:
            raise InputError(
                f"requests, edit {edit}", found=Literal(f"only {counts.index[0]}"), expected="two languages"
            )
        if counts.min() < 2:
            raise InputError(f"contexts, edit {edit} in {counts.idxmin()}", found=Literal("none"),
                             expected="a paraphrase or more, for two halves of the prompts")  # fmt: skip
        if not own["answer"].str.strip().all():
            raise InputError(f"requests, edit {edit}, answer", found="", expected="the old answer")
        if not neurons.get(edit):
            raise InputError(f"neurons, edit {edit}", found=neurons.get(edit), expected="(layer, neuron) pairs")
