"""The left-out test on some 200 known facts: `python -m knlib.left_out atlas-gpt2` writes data/results/left_out_atlas-gpt2.csv.

Minutes per model on a CPU, so notebooks load the result and compare the hash of its weights. A killed run goes on where it
stopped: attributions are kept under runs/.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .attribution import query_hash
from .attribution_store import RUNS, stored_attributions
from .errors import InputError, Literal, said_in_one_line
from .facts import ATLAS, load_facts
from .files import write_text
from .languages import parse_languages
from .left_out_effects import COLUMNS, left_out_effects, verdicts
from .localization import with_entropy
from .models import SHIPPED, Model, load_model
from .prediction import predict
from .queries import build_queries, languages_of, load_templates

RESULTS = Path(__file__).resolve().parents[1] / "data" / "results"
LOCALIZERS = ("re_lcb", "min_lang")
DIGITS = {"p_before": 5, "p_neurons": 5, "p_control": 5, "log_before": 3, "log_neurons": 3, "log_control": 3}


@dataclass(frozen=True, eq=False)
class LeftOut:
    """`table`: rows of `left_out_effects` with the column `localizer`. `provenance`: model, hash, options, counts."""

    table: pd.DataFrame
    provenance: dict


def split_templates(
    templates: pd.DataFrame, *, phrasings: int = 3, tests: int = 2
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Templates to locate with and templates to test with, so many of each relation and language.

    To locate: trained sentences without an opening (Atlas marks those with an opening by `+`). To test: held-out constructions
    (`core`). Raises `InputError` where either is empty.
    """
    plain = templates[~templates["template"].str.contains("+", regex=False)]
    cell = ["relation", "language"]
    locate = plain[plain["split"] == "train"].groupby(cell).head(phrasings)
    test = plain[plain["held_out"] == "core"].groupby(cell).head(tests)
    for name, part in (("split train", locate), ("held_out core", test)):
        if part.empty:
            raise InputError(
                "templates", found=Literal(f"none with {name}"), expected="some to locate and some to test"
            )
    return locate, test


def fair_facts(facts: pd.DataFrame) -> pd.DataFrame:
    """Facts that every language was taught and no gate refuses."""
    return facts[facts[["leak", "ambiguous", "withheld"]].map(len).sum(axis=1) == 0]


def known_queries(model: Model, queries: pd.DataFrame, facts: pd.DataFrame, *, least: int = 4) -> pd.DataFrame:
    """The queries of facts and languages in which the model answers more than half of the fact's phrasings right.

    Right: the best of the relation's objects. Facts known in fewer than `least` languages (or in fewer than all, if there
    are not so many) are left out. Raises `InputError` where none is left.

    Example
    -------
    >>> known_queries(model, queries, facts)["fact"].nunique()
    """
    right = predict(model, queries, facts)["correct"].to_numpy()
    share = pd.Series(right, index=queries.index, dtype=float).groupby([queries["fact"], queries["language"]])
    kept = queries[share.transform("mean") > 0.5]
    languages = kept.groupby("fact")["language"].transform("nunique")
    kept = kept[languages >= min(least, queries["language"].nunique())]
    if kept.empty:
        raise InputError(model.name, found=Literal("no fact answered right in enough languages"),
                         expected=f"some of {queries['fact'].nunique()}")  # fmt: skip
    return kept.reset_index(drop=True)


def run_left_out(
    model: Model,
    facts: pd.DataFrame,
    templates: pd.DataFrame,
    *,
    facts_each: int = 40,
    localizers: tuple[str, ...] = LOCALIZERS,
    seed: int = 7,
    store: Path = RUNS,
    progress: bool = False,
) -> LeftOut:
    """The left-out test on up to `facts_each` known facts of every relation, drawn at random, under each localizer.

    Half as many more are drawn and asked, and known ones kept. A language in which the model does not know a fact takes no
    part in it, neither to locate nor to test. 3 templates per language locate, 2 others test.
    """
    locate, test = split_templates(templates)
    fair = fair_facts(facts).sample(frac=1, random_state=seed)
    drawn = fair.groupby("relation").head(facts_each + facts_each // 2)
    known = known_queries(model, build_queries(drawn, locate)[0], facts)
    kept = known.drop_duplicates("fact").groupby("relation").head(facts_each)["fact"]
    located = known[known["fact"].isin(kept)].reset_index(drop=True)
    held_out, _ = build_queries(facts[facts["fact"].isin(kept)], test)
    held_out = held_out.merge(located[["fact", "language"]].drop_duplicates(), on=["fact", "language"])
    located = with_entropy(model, located, facts, progress=progress)
    found = stored_attributions(model, located, folder=store, progress=progress, batch=64)
    tables = [
        left_out_effects(model, found, located, held_out, localizer=name, seed=seed).assign(localizer=name)
        for name in localizers
    ]
    table = pd.concat(tables, ignore_index=True)[["localizer", *COLUMNS]].round(DIGITS)
    return LeftOut(table, {
        "model": model.name, "model_hash": model.hash, "facts_each": facts_each, "seed": seed,
        "languages": sorted(located["language"].unique()), "drawn": len(drawn), "known": int(located["fact"].nunique()),
        "located_with": query_hash(located), "tested_with": query_hash(held_out),
        "attribution": found.provenance["options"], "versions": found.provenance["versions"],
    })  # fmt: skip


def results_path(name: str, folder: str | Path = RESULTS) -> Path:
    """Where the result of a model is: a shipped name, a folder or a hub id."""
    return Path(folder) / f"left_out_{re.sub(r'[^A-Za-z0-9.-]+', '-', str(name)).strip('-')}.csv"


def save_left_out(found: LeftOut, path: Path) -> None:
    """A CSV file whose first line, a comment, is the provenance as JSON; written whole or not at all."""
    provenance = json.dumps(found.provenance, ensure_ascii=False, sort_keys=True)
    write_text(path, f"# {provenance}\n" + found.table.to_csv(index=False, lineterminator="\n"))


def load_left_out(model: Model, path: Path) -> LeftOut:
    """What `save_left_out` wrote, if it is of these weights; `InputError` otherwise, with the command to run."""
    command = f"the result of these weights: run python -m knlib.left_out {model.name}"
    if not path.is_file():
        raise InputError(path.name, found=Literal("no such file"), expected=command)
    with open(path, encoding="utf-8") as file:
        provenance = json.loads(file.readline().removeprefix("#"))
        table = pd.read_csv(file)
    if provenance["model_hash"] != model.hash:
        raise InputError(f"{path.name}, model_hash", found=provenance["model_hash"], expected=command)
    return LeftOut(table, provenance)


def shipped_left_out(folder: str | Path = RESULTS) -> tuple[dict[str, LeftOut], list[str]]:
    """The stored results of shipped models, by name, and a line for each that is of other weights.

    Example
    -------
    >>> results, missing = shipped_left_out()
    """
    results, missing = {}, []
    for name in sorted(path.name for path in SHIPPED.glob("*") if path.is_dir()):
        if not results_path(name, folder).is_file():
            continue
        try:
            results[name] = load_left_out(load_model(name), results_path(name, folder))
        except InputError as error:
            missing.append(str(error))
    return results, missing


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a shipped name, a folder or a Hugging Face id")
    parser.add_argument("--facts-each", type=int, default=40, help="known facts per relation (default: 40)")
    parser.add_argument("--languages", default="all", help="codes, separated by commas")
    parser.add_argument("--benchmark", type=Path, default=ATLAS, help="a benchmark folder (default: Atlas)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the CSV goes (default: data/results)")
    arguments = parser.parse_args(argv)

    def work():
        model = load_model(arguments.model)
        languages = parse_languages(arguments.languages, known=languages_of(arguments.benchmark))
        templates = load_templates(arguments.benchmark, languages=languages)
        found = run_left_out(model, load_facts(arguments.benchmark), templates, facts_each=arguments.facts_each,
                             progress=True)  # fmt: skip
        path = results_path(arguments.model, arguments.out)
        save_left_out(found, path)
        print(f"{path}: {found.provenance['known']} known facts")
        for name, rows in found.table.groupby("localizer", sort=False):
            for line in verdicts(rows):
                print(f"{name}, {line}")

    return said_in_one_line(work)


if __name__ == "__main__":
    sys.exit(main())
