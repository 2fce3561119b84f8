"""The pieces of a scoreboard, each computed once and kept: scores, measures, agreement with the oracle, synapses, letters.

A piece lies in a folder that names what it depends on, written whole or not at all: a killed run goes on where it was, and a
localizer that was registered since adds its pieces.
"""

import json
import time
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import atomically, write_text
from ..localization import LOCALIZERS
from ..models import load_model
from ..planting import load_truth
from ..query_relevant import localizers as letter_localizers
from ..result_files import config_hash, read_table, rounded, to_csv
from .answers import RESAMPLES, localizer_answers
from .consistency import consistency
from .direct import DIRECT
from .letters import PREFIX, answered_prompts, letter_answers, letter_measures, letter_prompts
from .metrics import agreement, measures, stability_bins
from .oracle import pair_interactions
from .scorers import MEAN, ORACLE, PLAIN, attributions, facts_of, localizers, mean_neurons, rows, scores
from .selection import KINDS, synapse_selection
from .study import GroundStudy, load_study

CHUNK = 2  # facts that are scored and measured together
SELECTION_EVERY = 2  # of the facts of kinds `query` and `agnostic`, those whose synapses are cut
PAIR_CHUNKS = 4  # of natural facts, whose pairs of neurons are ablated


@dataclass(frozen=True)
class Plan:
    """A run: everything that a worker needs to find or make a part."""

    model: str
    facts_each: int
    natural: int
    parts: str

    @property
    def study(self) -> GroundStudy:
        return _study(self.model, self.facts_each, self.natural)

    @cached_property
    def folder(self) -> Path:
        return Path(self.parts) / config_hash({"model": self.study.model.hash, "study": self.study.hash})

    @property
    def scores(self) -> Path:
        return Path(self.parts) / "scores"


@cache
def _study(model: str, facts_each: int, natural: int) -> GroundStudy:
    loaded = load_model(model)
    return load_study(loaded, truth=load_truth(model, loaded), facts_each=facts_each, natural=natural)


class Counter:
    """Counts the rows that reach a model's last FFN within the block: what its passes have to do, whatever the machine."""

    def __init__(self, model):
        self.model, self.rows = model, 0

    def __enter__(self) -> "Counter":
        def hook(module, inputs):
            shape = inputs[0].shape
            self.rows += shape[0] if len(shape) == 3 else int(np.prod(shape[:-1]))

        self.handle = self.model.down_projections[-1].register_forward_pre_hook(hook)
        return self

    def __exit__(self, *error) -> None:
        self.handle.remove()


def _scored(plan: Plan, name: str, queries: pd.DataFrame):
    """Attributions of some queries, and a file beside the store that says what they cost when they were computed."""
    path = plan.folder / "costs" / name / f"{config_hash({'queries': queries['query'].tolist()})}.json"
    mean = np.load(plan.folder / "mean.npy") if scores()[name].options.get("baseline") == MEAN else None
    start = time.process_time()
    with Counter(plan.study.model) as counter:
        found = attributions(name, plan.study.model, queries, folder=plan.scores, mean=mean)
    if not path.exists() and counter.rows:
        cost = {"seconds": time.process_time() - start, "passes": counter.rows, "facts": queries["fact"].nunique(),
                "planted": bool(set(queries["fact"]) & set(plan.study.labels))}  # fmt: skip
        write_text(path, json.dumps(cost))
    return found


def chunks(names: list[str]) -> list[list[str]]:
    return [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]


def _path(plan: Plan, kind: str, row: str, key: object) -> Path:
    return plan.folder / kind / config_hash({"row": row, "key": key, "options": _options(row)})


def _options(row: str) -> list | None:
    """All options that a row of the registries runs with: other defaults are another part."""
    if row not in rows():
        return None
    start, localizer = rows()[row]
    registered, options = localizers()[localizer]
    return [scores()[start].options, LOCALIZERS[registered].options(options), RESAMPLES]


def first_tasks(plan: Plan) -> list[tuple]:
    """(function, what it is of, its argument) of the pieces that others read: they come first."""
    natural = [(run_agreement, ORACLE, part) for part in natural_chunks(plan)]
    return [(run_mean, "mean", []), (run_letter_answers, "letters", []), *natural]


def tasks(plan: Plan) -> list[tuple]:
    """(function, what it is of, facts) of all other pieces, long ones first."""
    study, found = plan.study, []
    facts = study.facts["fact"].tolist()
    for name in sorted(scores(), key=lambda name: name != ORACLE):
        found += [(run_scores, name, part) for part in chunks(facts_of(name, study.facts, study.model))]
        found += [(run_agreement, name, part) for part in natural_chunks(plan) if name != ORACLE]
    found += [(run_direct, name, part) for name in DIRECT for part in chunks(facts)]
    found += [(run_selection, "synapses", part) for part in chunks(selected_facts(study))]
    found += [(run_pairs, "pairs", part) for part in natural_chunks(plan)[:PAIR_CHUNKS]]
    return found + [(run_letters, name, []) for name in letter_localizers.names()]


def natural_chunks(plan: Plan) -> list[list[str]]:
    return chunks(plan.study.natural["fact"].tolist())


def selected_facts(study: GroundStudy) -> list[str]:
    """The facts whose synapses are cut: of two kinds, every other one."""
    own = study.facts[study.facts["kind"].isin(KINDS)]
    return own.loc[own.groupby("kind").cumcount() % SELECTION_EVERY == 0, "fact"].tolist()


def run_mean(plan: Plan, name: str, _: list) -> None:
    """The mean neurons over all queries, where paths of `ig_dataset_mean` begin."""
    path = plan.folder / "mean.npy"
    if not path.exists():
        values = mean_neurons(plan.study.model, plan.study.queries)

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                np.save(file, values)

        atomically(path, write)


def run_letter_answers(plan: Plan, name: str, _: list) -> None:
    """Which multiple-choice prompts of planted facts the model answers."""
    path = plan.folder / "letters.parquet"
    if not path.exists():
        atomically(path, letter_answers(plan.study, letter_prompts(plan.study)).to_parquet)


def run_scores(plan: Plan, name: str, facts: list[str]) -> None:
    """Everything that starts from one score of some facts: measures of all its rows, stabilities, decisions, consistency."""
    study, mine = plan.study, [(row, own[1]) for row, own in rows().items() if own[0] == name]
    missing = [
        (row, localizer)
        for row, localizer in mine
        if not _path(plan, "measures", row, facts).with_suffix(".json").exists()
    ]
    own_path = _path(plan, "consistency", name, facts).with_suffix(".csv")
    if not missing and own_path.exists():
        return
    queries = study.of(facts)
    found = _scored(plan, name, queries)
    if not own_path.exists():
        values = found.scores.values
        table = [
            {"fact": fact} | consistency(values[at.to_numpy()], queries.loc[at, "language"].to_numpy())
            for fact in facts
            if (at := queries["fact"] == fact).any()
        ]
        write_text(own_path, to_csv(rounded(pd.DataFrame(table))))
    for row, localizer in missing:
        start, (registered, options) = time.process_time(), localizers()[localizer]
        # The plain mean of many scores claims no stability, and resampling costs more than all else here.
        resamples = 0 if localizer == PLAIN else RESAMPLES
        answers = localizer_answers(registered, options, found, queries, study.gates, resamples=resamples)
        _keep(plan, row, facts, answers, time.process_time() - start)


def run_direct(plan: Plan, name: str, facts: list[str]) -> None:
    """Measures of a method that does not start from scores; what refuses the model says why."""
    if _path(plan, "measures", name, facts).with_suffix(".json").exists():
        return
    start = time.process_time()
    with Counter(plan.study.model) as counter:
        answers = list(DIRECT[name](plan.study, plan.study.of(facts)))
    _keep(plan, name, facts, answers, time.process_time() - start, counter.rows)


def _keep(plan: Plan, row: str, facts: list[str], answers: list, seconds: float, passes: int = 0) -> None:
    """A row's measures of some facts; `.json` last, which makes the part complete."""
    study, path = plan.study, _path(plan, "measures", row, facts)
    width = study.model.n_neurons
    tables = [measures(a, study.labels[a.fact], width) for a in answers]
    stable = [stability_bins(a, study.labels[a.fact], width) for a in answers]
    for ending, parts in ((".csv", tables), (".stability.csv", stable)):
        parts = [part for part in parts if len(part)]
        write_text(path.with_name(path.name + ending), to_csv(rounded(pd.concat(parts))) if parts else "")
    head = {"decisions": {a.fact: a.decision for a in answers if a.decision is not None},
            "silent": sorted(set(facts) - {a.fact for a in answers}), "seconds": seconds, "passes": passes, "facts": len(facts)}  # fmt: skip
    write_text(path.with_suffix(".json"), json.dumps(head))


def _natural(plan: Plan, facts: list[str]) -> pd.DataFrame:
    natural = plan.study.natural
    return natural[natural["fact"].isin(facts)].reset_index(drop=True)


def run_agreement(plan: Plan, name: str, facts: list[str]) -> None:
    """How a score ranks all neurons beside the oracle, on facts that were not planted."""
    path = _path(plan, "agreement", name, facts).with_suffix(".csv")
    if path.exists():
        return
    queries = _natural(plan, facts)
    exact = _scored(plan, ORACLE, queries).scores.values
    found = exact if name == ORACLE else _scored(plan, name, queries).scores.values
    table = [
        {"fact": fact} | agreement(mine, its) for fact, mine, its in zip(queries["fact"], found, exact, strict=True)
    ]
    write_text(path, to_csv(rounded(pd.DataFrame(table))))


def run_selection(plan: Plan, name: str, facts: list[str]) -> None:
    """What cutting synapses does to planted neurons."""
    path = _path(plan, "selection", name, facts).with_suffix(".csv")
    if not path.exists():
        write_text(path, to_csv(rounded(synapse_selection(plan.study, facts))))


def run_pairs(plan: Plan, name: str, facts: list[str]) -> None:
    """Pairs of the strongest neurons of a few natural facts."""
    path = _path(plan, "pairs", name, facts).with_suffix(".csv")
    if not path.exists():
        queries = _natural(plan, facts)
        exact = _scored(plan, ORACLE, queries).scores
        write_text(path, to_csv(rounded(pair_interactions(plan.study.model, queries, exact))))


def run_letters(plan: Plan, name: str, _: list) -> None:
    """Measures of a localizer that starts from multiple choice, where the model answers it."""
    path = _path(plan, "measures", PREFIX + name, "letters")
    if path.with_suffix(".json").exists():
        return
    start = time.process_time()
    prompts = answered_prompts(pd.read_parquet(plan.folder / "letters.parquet"))
    with Counter(plan.study.model) as counter:
        table = letter_measures(plan.study, name, prompts)
    write_text(path.with_name(path.name + ".csv"), to_csv(rounded(table)))
    head = {"decisions": {}, "silent": [], "seconds": time.process_time() - start, "passes": counter.rows,
            "facts": table["fact"].nunique()}  # fmt: skip
    write_text(path.with_suffix(".json"), json.dumps(head))


def stored(plan: Plan, kind: str, row: str, key: object, ending: str) -> pd.DataFrame | dict:
    """What a piece has left: a table, or for `.json` a dictionary."""
    path = _path(plan, kind, row, key)
    path = path.with_name(path.name + ending)
    return json.loads(path.read_text("utf8")) if ending == ".json" else read_table(path)
