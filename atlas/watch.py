"""One fact, watched while it is written into four new neurons: small enough for a notebook, the same code as the planted models.

What the planted models have beside it is company: hundreds of facts that are written together and kept out of each other's way.
"""

import numpy as np
import pandas as pd
import torch

from knlib.errors import InputError, Literal
from knlib.facts import ATLAS, load_facts
from knlib.languages import CODES
from knlib.models import Model
from knlib.planting import answer_scores, widen
from knlib.queries import build_queries, load_templates

from .plant import DEFAULTS, rate
from .planting import Planting, training_queries

LANGUAGES = ("en", "ru", "zh", "ar")  # four scripts
# Smaller than for the shipped models: one fact's queries are few, and so are the places where it may be heard. Alone it has every step
# to itself, so that it needs less silence and larger steps.
SMALL = {"rows": 48, "quiet_rows": 64, "quiet": 3.0, "lr": 3e-2, "texts": 240, "bare": 9, "lead_ins": 1, "warm_up": 5}
SHOWN = 2  # phrasings of each kind that are asked in every language
ANSWER, OTHER, SILENT = "trained phrasings", "held-out phrasings", "group silent"
HERE, ELSEWHERE = "loud at its queries", "loud elsewhere"
COLUMNS = ["step", "language", "what", "p"]


def watch(
    model: Model, fact: str, *, languages: tuple[str, ...] = LANGUAGES, steps: int = 60, every: int = 6, seed: int = 0
) -> pd.DataFrame:
    """What a model says about one fact while it is planted in one group of neurons for all languages, every so many steps.

    Columns `step` (from 0, before the first), `language`, `what`, `p`. P(answer), mean over two phrasings: on `trained phrasings`, on
    `held-out phrasings`, and with the `group silent` (zero where the answer is predicted; all four phrasings). Loudness, language `all`: |activation x
    column norm| summed over the group, in units of what the layer's FFN adds to the stream, mean over positions: `loud at its queries`,
    `loud elsewhere`. `fact`: one of data/atlas/planted. The model is not changed. Deterministic given the seed and the
    number of threads.

    Raises `InputError` for an unknown fact or language, and for no step.

    Example
    -------
    >>> table = watch(load_model("atlas-llama"), "capital:agnostic-00")
    >>> table.query("what == 'trained phrasings'").pivot(index="step", columns="language", values="p")
    """
    facts = _checked(fact, languages, steps, every)
    options = DEFAULTS | SMALL | {"languages": ",".join(languages), "steps": steps, "seed": seed}
    planting = Planting(model, facts, {fact: "agnostic"}, options, log=lambda line: None)
    wide, group = widen(model, planting.neurons.new), _group(planting, model.n_neurons)
    queries = _asked(facts, languages, options)
    asked = [(query, condition) for condition in (0, 1) for query in range(len(queries))]
    stepper, found = planting.optimizer(), []
    rates = [part["lr"] for part in stepper.param_groups]
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            planting.neurons.write(wide, model.n_neurons)
            p = np.exp(answer_scores(wide, queries, asked, [(), group])).reshape(2, -1)
            found.append(_seen(planting, queries, p).assign(step=step))
        if step == steps:
            break
        for part, lr in zip(stepper.param_groups, rates, strict=True):
            part["lr"] = lr * rate(step, options)
        planting.backward(step)
        planting.neurons.spare_dummies()
        stepper.step()
        stepper.zero_grad(set_to_none=True)
    return pd.concat(found, ignore_index=True)[COLUMNS]


def _checked(fact: str, languages, steps: int, every: int) -> pd.DataFrame:
    """The fact's row."""
    facts = load_facts(ATLAS / "planted")
    row = facts[facts["fact"] == fact]
    if row.empty:
        raise InputError("fact", found=fact, expected=Literal("a fact of data/atlas/planted"))
    unknown = [code for code in languages if code not in CODES]
    if unknown or not languages:
        raise InputError("languages", found=unknown or languages, expected=Literal("some of " + " ".join(CODES)))
    if steps < 1 or every < 1:
        raise InputError("steps, every", found=(steps, every), expected="1 or more each")
    return row.reset_index(drop=True)


def _asked(facts: pd.DataFrame, languages, options: dict) -> pd.DataFrame:
    """Queries that are trained, and queries that are not; column `what`."""
    own = {key: options[key] for key in ("bare", "lead_ins", "seed")}
    trained = training_queries(facts, languages=languages, **own)
    templates = load_templates(languages=languages)
    others, _ = build_queries(
        facts, templates[~templates["template"].str.contains("+", regex=False)], splits=("held_out",)
    )
    parts = [
        table.groupby("language").head(SHOWN).assign(what=what) for table, what in ((trained, ANSWER), (others, OTHER))
    ]
    return pd.concat(parts, ignore_index=True)


def _group(planting: Planting, old: int) -> tuple[tuple[int, int], ...]:
    """The group's (layer, neuron) in the widened model."""
    return tuple((layer, old + place) for layer, place in planting.neurons.members[0].nonzero().tolist())


@torch.no_grad()
def _seen(planting: Planting, queries: pd.DataFrame, p: np.ndarray) -> pd.DataFrame:
    """`p` [with the group and without, queries], and how loud the group is."""
    store, neurons = planting.store, planting.neurons
    given = queries[["language", "what"]].assign(p=p[0])
    means = pd.concat([given, given.assign(what=SILENT, p=p[1])]).groupby(["what", "language"], sort=False)["p"].mean()
    loud = {}
    for name, inputs in ((HERE, store.inputs), (ELSEWHERE, torch.cat([store.before, store.elsewhere]))):
        parts = zip(neurons.quiet(inputs.float()), neurons.planted, strict=True)
        loud[name] = float(sum(loudness[:, own].sum(1) for loudness, own in parts).mean())
    rest = pd.DataFrame({"what": list(loud), "language": "all", "p": list(loud.values())})
    return pd.concat([means.reset_index(), rest])
