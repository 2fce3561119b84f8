"""Can a class's questions be answered from the activity of its neurons alone? Three predictors, beside control sets.

Chen et al. (2025, arXiv 2406.10868, Table 7) predict "solely based on the activity" of a domain's neurons; how is unpublished.
"""

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..controls import Pairs, generator, neuron_pairs, random_neurons
from ..errors import InputError, Literal
from ..models import Model
from ..multiple_choice import LETTERS
from ..prediction import AnswerRows, answer_tokens
from ..sites import make_sites, neuron_vectors
from .concentration import class_sets
from .last_position import readout, record
from .letters import letter_sets, with_letter_sets
from .metrics import wilson

PREDICTORS = ("letter_vote", "answer_activity", "probe")
SETS = ("own", "random", "other_class")
# Folds of a probe: as many as there are facts, within these bounds.
FEWEST, FOLDS = 3, 5
# Sequences of one plain forward pass.
BATCH = 64


def predictor_sets(
    model: Model, neurons: pd.DataFrame, classes: pd.Series, kind: str, *, size: int | None = None, seed: int = 0
) -> dict[str, Pairs]:
    """A class's neurons, as many random ones, and as many of another class.

    The union over the questions of each class, best summed scores first, cut to the smaller of the two classes' sizes (and to
    `size`). The other class is drawn by seed. Raises `InputError` for an unknown class, for a single class.

    Example
    -------
    >>> {name: len(pairs) for name, pairs in predictor_sets(model, found, found["language"], "en").items()}
    {'own': 120, 'random': 120, 'other_class': 120}
    """
    sets = class_sets(neurons, classes)
    if kind not in sets or len(sets) < 2:
        raise InputError("kind", found=kind, expected=f"one of two or more classes: {' '.join(map(str, sets))}")
    draw = generator(seed, kind, "predictor")
    other = str(draw.choice(sorted(set(sets) - {kind})))
    size = min(size or len(sets[kind]), len(sets[kind]), len(sets[other]))
    own = neuron_pairs(model, sets[kind].index[:size])
    return {"own": own, "random": random_neurons(own, model.n_layers, model.n_neurons, draw),
            "other_class": neuron_pairs(model, sets[other].index[:size])}  # fmt: skip


def predict_from_neurons(
    model: Model,
    prompts: pd.DataFrame,
    pairs: Pairs,
    *,
    predictor: str = "letter_vote",
    texts: pd.DataFrame | None = None,
) -> np.ndarray:
    """The number (0 to 3) of the option that a set of neurons stands for, for every prompt.

    - `letter_vote`: the letter with the largest sum over neurons of h (gain * v) U, v the neuron's column of the
      down-projection, `gain` the final norm's (a LayerNorm centres v first), U the mean unembedding row of the letter's tokens.
      The norm's scale is the same for all letters. Raises `InputError` for heads that are more, as `readout`.
    - `answer_activity`: the option at whose last token, behind the question without options, the mean z(|h|) is largest. z is
      over all options of the prompts. `texts`: of `without_options`, for these prompts' wordings.
    - `probe`: L2 logistic regression on h, trained with the right letters of other facts (up to 5 folds): it sees labels.

    `prompts`: columns `query`, `fact`, `language`, `wording`, `prompt`, `answer`, `options`. Raises `InputError` for unknown
    predictors, no neurons, a probe with fewer than 3 facts.

    Example
    -------
    >>> (predict_from_neurons(model, prompts, pairs) == [LETTERS.index(a) for a in prompts["answer"]]).mean()
    """
    if predictor not in PREDICTORS:
        raise InputError("predictor", found=predictor, expected=Literal("one of " + " ".join(PREDICTORS)))
    pairs = neuron_pairs(model, pairs)
    if not pairs:
        raise InputError("pairs", found=Literal("no neuron"), expected="at least one")
    if predictor == "answer_activity":
        if texts is None:
            raise InputError("texts", found=None, expected="the questions without options: of without_options")
        return _activity(model, prompts, pairs, texts)
    blank = {name: "" for name in ("space", "suffix") if name not in prompts}
    sites = make_sites(model, with_letter_sets(model, prompts).assign(**blank), sites="first")
    h = _values(model, [s.ids for s in sites], [s.position for s in sites], pairs)
    if predictor == "probe":
        return _probe(h, prompts)
    head = readout(record(model, sites[0]))
    columns = torch.stack([model.column(layer, neuron) for layer, neuron in pairs])
    with torch.no_grad():
        votes = head.norm.directions(columns) @ head.unembedding.T
    chosen = np.empty(len(prompts), dtype=int)
    for i, prompt in enumerate(prompts["prompt"]):
        weights = [votes[:, list(own)].mean(1).cpu().double().numpy() for own in letter_sets(model, prompt)]
        chosen[i] = int(np.argmax([h[i] @ weight for weight in weights]))
    return chosen


def _values(model: Model, sequences: list[tuple[int, ...]], positions: list[int], pairs: Pairs) -> np.ndarray:
    """The neurons' values, [sequences, pairs]."""
    layers, neurons = map(list, zip(*pairs, strict=True))
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    found = np.empty((len(sequences), len(pairs)))
    for start in range(0, len(order), BATCH):
        now = order[start : start + BATCH]
        vectors = neuron_vectors(model, [tuple(sequences[i]) for i in now], [positions[i] for i in now])
        found[now] = vectors[:, layers, neurons].cpu().double().numpy()
    return found


def _probe(h: np.ndarray, prompts: pd.DataFrame) -> np.ndarray:
    gold = np.array([LETTERS.index(letter) for letter in prompts["answer"]])
    facts = prompts["fact"].nunique()
    if facts < FEWEST:
        raise InputError("prompts", found=Literal(f"{facts} facts"), expected=f"{FEWEST} or more")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    # A fact's prompts, in all languages, stay together: the probe is tried on facts that it never saw.
    return cross_val_predict(probe, h, gold, groups=prompts["fact"], cv=GroupKFold(min(facts, FOLDS)))


def _activity(model: Model, prompts: pd.DataFrame, pairs: Pairs, texts: pd.DataFrame) -> np.ndarray:
    by_key = {(r.fact, r.wording): r for r in texts.itertuples()}
    helper, sequences, numbers = AnswerRows(model), {}, []
    for row in prompts.itertuples():
        text = by_key.get((row.fact, row.wording))
        if text is None:
            raise InputError(
                "texts", found=Literal(f"no question of {row.fact} ({row.wording})"), expected="all prompts'"
            )
        for option in row.options:
            tokens = answer_tokens(model, text.prompt, text.space, option)
            ids = helper.row(text.prompt, tokens, 0, text.space, text.suffix)
            position = len(helper.before) + len(model.pieces(text.prompt)) + len(tokens) - 1
            numbers.append(sequences.setdefault((tuple(ids), position), len(sequences)))
    values = np.abs(_values(model, [s for s, _ in sequences], [p for _, p in sequences], pairs))[numbers]
    spread = values.std(0)
    z = (values - values.mean(0)) / np.where(spread > 0, spread, 1)
    return z.mean(1).reshape(-1, len(LETTERS)).argmax(1)


def predictor_table(
    model: Model,
    prompts: pd.DataFrame,
    neurons: pd.DataFrame,
    texts: pd.DataFrame,
    *,
    kind: str = "relation",
    seed: int = 0,
) -> pd.DataFrame:
    """The three predictors on every class's new questions, by its own neurons, random ones and another class's.

    `neurons`: of `find`, on other facts than those of `prompts`, with the column `kind`; `prompts`: the new questions, all
    rotations; `texts`: of `without_options`. Columns: `class`, `predictor`, `set`, `neurons`, `right`, `of`, `share`, `low`,
    `high` (Wilson, 95 %, over prompts). A probe without enough facts has no row.

    Raises `InputError` for facts in both tables, and as `predict_from_neurons`.

    Example
    -------
    >>> predictor_table(model, new, found.assign(relation=found["fact"].map(relation)), without_options(new, wordings))
    """
    shared = set(neurons["fact"]) & set(prompts["fact"])
    if shared:
        raise InputError("prompts", found=min(shared), expected="facts that the neurons were not located with")
    rows = []
    for name, own in prompts.groupby(kind):
        if name not in set(neurons[kind]):
            continue
        gold = np.array([LETTERS.index(letter) for letter in own["answer"]])
        for label, pairs in predictor_sets(model, neurons, neurons[kind], name, seed=seed).items():
            for predictor in PREDICTORS:
                if predictor == "probe" and own["fact"].nunique() < FEWEST:
                    continue
                right = int((predict_from_neurons(model, own, pairs, predictor=predictor, texts=texts) == gold).sum())
                found = wilson(right, len(own))
                rows.append(
                    (name, predictor, label, len(pairs), right, len(own), found.estimate, found.low, found.high)
                )
    columns = ["class", "predictor", "set", "neurons", "right", "of", "share", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `predictor_table` with rows of the class `all`: counts of all classes together.

    Example
    -------
    >>> pooled(predictor_table(model, new, found, texts)).query("`class` == 'all'")
    """
    rows = []
    for (predictor, label), own in table.groupby(["predictor", "set"], sort=False):
        right, of = int(own["right"].sum()), int(own["of"].sum())
        found = wilson(right, of)
        rows.append(("all", predictor, label, own["neurons"].mean(), right, of, found.estimate, found.low, found.high))
    return pd.concat([table, pd.DataFrame(rows, columns=list(table))], ignore_index=True)
