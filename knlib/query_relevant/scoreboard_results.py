"""The tables of a scoreboard, and their files: data/results/letters/<model>/<table>.csv, with `result.json` last."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import spearmanr

from ..errors import InputError, Literal
from ..files import atomically, write_text
from ..models import Model
from ..multiple_choice import LETTERS
from ..result_files import config_hash, read_table, rounded, to_csv
from . import localizers
from .concentration import class_overlap, layer_concentration
from .effect_tables import dose_curve, fact_language_table, flip_table, specificity_table
from .letter_effects import FACTORS
from .long_form import CONTROL, letter_or_more, long_form_table
from .questions import KEY, with_correctness
from .study import LetterStudy

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results" / "letters"
# Neurons of a score that are compared with the exact ones.
TOP = 20
ORACLE = "oracle"
# Bootstrap draws of R, U, S and the 2 x 2 table; resamples of the other intervals; permutations of classes.
DRAWS, RESAMPLES, PERMUTATIONS = 10_000, 2000, 200


def summarize(
    study: LetterStudy,
    letters: pd.DataFrame,
    neurons: dict[str, pd.DataFrame],
    effects: pd.DataFrame,
    answers: pd.DataFrame,
    scores: dict[str, Callable[[], xr.DataArray]],
    costs: dict[str, float],
) -> dict[str, pd.DataFrame]:
    """The tables of a run, by name.

    `letters`: of `letter_probabilities`, for all prompts that localize; `neurons`: by localizer, of `find` with `held_out` and `draw`;
    `effects`, `answers`: of `letter_effects` and `answer_effects`, the localizer as `condition`; `scores`: by localizer, what
    loads its scores; `costs`: seconds a prompt.
    """
    known = pd.concat([
        with_correctness(study.of(split.localize, study.tried_in(split, study.facts)), letters)[[*KEY, "correct"]].assign(
            held_out=split.held_out
        )
        for split in study.splits
    ])  # fmt: skip
    effects = effects.merge(known, on=[*KEY, "held_out"], validate="many_to_one")
    effects = effects.assign(taught=effects["fact"].isin(study.taught))
    two = effects[effects["factor"].isin(FACTORS)]
    subsets = {"all": two, "correct": two[two["correct"]], "not taught": two[~two["taught"]]}
    board = pd.concat(
        [specificity_table(part, draws=DRAWS).assign(questions_of=name) for name, part in subsets.items() if len(part)]
    )
    others = agreement(neurons, scores)
    board["seconds_per_prompt"] = board["condition"].map(costs)
    dosed = effects[effects["question"].isin(set(effects.loc[~effects["factor"].isin(FACTORS), "question"]))]
    reference = next(iter(neurons.values()))
    relation = dict(zip(study.prompts["fact"], study.prompts["relation"], strict=True))
    reference = reference.assign(relation=reference["fact"].map(relation))
    return {
        "scoreboard": board, "agreement": others, "fact_language": fact_language_table(two, draws=DRAWS), "flips": flip_table(two),
        "doses": dose_curve(dosed, resamples=RESAMPLES), "long_form": long_form_table(answers, resamples=RESAMPLES),
        "letter_or_more": letter_or_more(two, answers, resamples=RESAMPLES) if CONTROL in neurons else pd.DataFrame(),
        "accuracy": accuracy(study, letters),
        "sizes": sizes_table(study, neurons), "layers": layers_table(study.model, neurons),
        "overlap": overlap_table(reference), "neurons": reference,
    }  # fmt: skip


def accuracy(study: LetterStudy, letters: pd.DataFrame) -> pd.DataFrame:
    """How often the unchanged model names the right letter in prompts that localize, by language, wording, gold letter, and whether it was taught so."""
    table = study.prompts.merge(letters.drop(columns=list(LETTERS)), on="query")
    table["taught"] = table["fact"].isin(study.taught)
    by = ["language", "wording", "answer", "taught"]
    return table.groupby(by, as_index=False).agg(
        prompts=("correct", "size"), accuracy=("correct", "mean"), probability=("probability", "mean"),
        among_four=("among_four", "mean"), mass=("mass", "mean"),
    )  # fmt: skip


def sizes_table(study: LetterStudy, neurons: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """How many neurons each localizer's questions have: `localizer`, `questions` (with any), `mean`, `least`, `most`."""
    rows = []
    for name, table in neurons.items():
        counts = table.groupby([*KEY, "held_out", "draw"]).size()
        rows.append((name, table.drop_duplicates(KEY).shape[0], counts.mean(), counts.min(), counts.max()))
    return pd.DataFrame(rows, columns=["localizer", "questions", "mean", "least", "most"])


def layers_table(model: Model, neurons: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """`layer_concentration` of every localizer's neurons (of the first draw), a row per layer."""
    parts = []
    for name, table in neurons.items():
        own = table[table["draw"] == 0]
        if len(own):
            found = layer_concentration(own, model.n_layers, model.n_neurons)
            parts.append(found.layers.assign(localizer=name, gini=found.gini, null_gini=found.null_gini,
                                             p_value=found.p_value))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def overlap_table(reference: pd.DataFrame) -> pd.DataFrame:
    """`class_overlap` of relations and of languages, `kind` saying which."""
    parts = [class_overlap(reference, reference[kind], permutations=PERMUTATIONS).assign(kind=kind) for kind in ("relation", "language")
             if reference[kind].nunique() > 1]  # fmt: skip
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def agreement(neurons: dict[str, pd.DataFrame], scores: dict[str, Callable[[], xr.DataArray]]) -> pd.DataFrame:
    """Localizers against exact ablation, over the questions that it was run on.

    Columns: `localizer`, `questions`, `rank_correlation` (Spearman, of the scores that it starts from, over all neurons, mean over
    questions), `recall` (share of the `TOP` exact neurons among as many of these scores), `precision` (share of its own
    neurons that are among the exact `TOP`). What is drawn has no scores of its own: precision only. Empty without the oracle.
    """
    columns = ["localizer", "questions", "rank_correlation", "recall", "precision"]
    if ORACLE not in scores:
        return pd.DataFrame(columns=columns)
    exact, rows = _by_question(scores[ORACLE]()), []
    best = {key: set(np.argsort(-values, kind="stable")[:TOP].tolist()) for key, values in exact.items()}
    for name, load in scores.items():
        loaded = load()
        found, width = _by_question(loaded, exact), loaded.shape[2]
        keys = [key for key in exact if key in found]
        if not keys:
            continue
        recall = [len(best[k] & set(np.argsort(-found[k], kind="stable")[:TOP].tolist())) / TOP for k in keys]
        # Scores that are the same for all neurons have no order.
        ranks = [spearmanr(exact[k], found[k]).statistic if np.ptp(found[k]) else np.nan for k in keys]
        own = neurons[name]
        own = own[[key in best for key in zip(own["fact"], own["language"], strict=True)]]
        hits = [
            layer * width + neuron in best[fact, language]
            for fact, language, layer, neuron in own[[*KEY, "layer", "neuron"]].itertuples(index=False, name=None)
        ]
        drawn = name in localizers.DRAWN
        agree = (np.nan, np.nan) if drawn or np.isnan(ranks).all() else (np.nanmean(ranks), np.mean(recall))
        rows.append((name, len(keys), *agree, np.mean(hits) if hits else np.nan))
    return pd.DataFrame(rows, columns=columns)


def _by_question(scores: xr.DataArray, wanted=None) -> dict[tuple[str, str], np.ndarray]:
    """Mean scores of each question's wordings, [neurons of all layers]; a query is named fact|language/wording|rotation."""
    keys: dict[tuple[str, str], list[int]] = {}
    for i, query in enumerate(scores["query"].values.tolist()):
        fact, wording, _ = query.rsplit("|", 2)
        key = (fact, wording.split("/")[0])
        if wanted is None or key in wanted:
            keys.setdefault(key, []).append(i)
    return {key: scores.values[rows].mean(0).ravel() for key, rows in keys.items()}


def result_folder(model: str, folder: str | Path = RESULTS) -> Path:
    return Path(folder) / re.sub(r"[^A-Za-z0-9.-]+", "-", str(model)).strip("-")


def write_result(result: dict, model: str, folder: str | Path = RESULTS) -> Path:
    """Every table, whole or not at all, neurons as parquet; `result.json`, which makes the result complete, last."""
    own = result_folder(model, folder)
    for name, table in result["tables"].items():
        if name == "neurons":
            atomically(own / f"{name}.parquet", table.to_parquet)
        else:
            write_text(own / f"{name}.csv", to_csv(rounded(table)))
    provenance = result["provenance"] | {"tables": sorted(result["tables"])}
    stored = provenance | {"hash": config_hash(provenance)}
    write_text(own / "result.json", json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    return own


def load_result(model: Model, folder: str | Path = RESULTS) -> tuple[dict[str, pd.DataFrame], dict]:
    """The stored tables of a model, by name, and their provenance.

    Raises `InputError` where there is none, or one of other weights, with the command that makes it.

    Example
    -------
    >>> tables, provenance = load_result(load_model("atlas-llama-choice"))
    >>> tables["scoreboard"].query("sample == 'held_out'")
    """
    own = result_folder(model.name, folder)
    command = f"run python -m knlib.query_relevant.scoreboard --model {model.name}"
    if not (own / "result.json").is_file():
        raise InputError(f"{own.name}/result.json", found=Literal("no stored result"), expected=command)
    provenance = json.loads((own / "result.json").read_text("utf8"))
    if provenance["model"] != model.hash:
        raise InputError(f"{own.name}, model", found=provenance["model"], expected=f"{model.hash}: {command}")
    tables = {}
    for name in provenance["tables"]:
        path = own / f"{name}.csv"
        tables[name] = pd.read_parquet(own / f"{name}.parquet") if name == "neurons" else read_table(path)
    return tables, provenance
