"""Check a benchmark folder or a model folder: `python -m knlib.check data/atlas`, `python -m knlib.check --model DIR`.

Prints counts and the gate report, or one line that says what is wrong and where (exit code 2).
"""

import argparse
import sys
from pathlib import Path

from .errors import InputError, said_in_one_line
from .facts import ATLAS, load_facts, select_relations
from .languages import parse_languages
from .multiple_choice import build_multiple_choice, load_wordings
from .queries import build_queries, languages_of, load_templates

GATES = ["no_name", "leak", "ambiguous", "object_in_prompt", "duplicate"]


def check_benchmark(folder: Path, *, relations=None, languages=None) -> str:
    """Validate `facts.jsonl`, `templates.jsonl` and, if there, `multiple_choice.jsonl`; returns the report."""
    facts, wordings = load_facts(folder), None
    templates = load_templates(folder, languages=parse_languages(languages, known=languages_of(folder)))
    _check_known("templates.jsonl", templates, facts)
    if (folder / "multiple_choice.jsonl").exists():
        wordings = load_wordings(folder)
        _check_known("multiple_choice.jsonl", wordings, facts)
    facts, templates = select_relations(facts, relations), select_relations(templates, relations)
    _, report = build_queries(facts, templates)
    lines = [
        f"{len(facts):,} facts, {facts['relation'].nunique()} relations",
        f"{len(templates):,} templates, {templates['language'].nunique()} languages",
        f"{report['slots'].sum():,} pairs of fact and template",
        *(f"  {report[gate].sum():,} dropped: {gate}" for gate in GATES),
        f"{report['queries'].sum():,} queries",
    ]
    if wordings is not None:
        prompts, _ = build_multiple_choice(facts, wordings, rotations=1)
        lines.append(f"{len(prompts):,} multiple-choice questions")
    return "\n".join(lines)


def _check_known(file: str, table, facts) -> None:
    """`InputError` for a relation or language in `table` that no fact has."""
    languages = {code for names in facts["subject"] for code in names}
    for field, known in (("relation", set(facts["relation"])), ("language", languages)):
        for value in table[field].unique():
            if value not in known:
                raise InputError(f"{file}, field '{field}'", found=value, expected=f"a {field} that facts.jsonl has")


def check_model(name: str) -> str:
    """Load a model and say what it is; returns the report."""
    from transformers.utils import logging

    from .models import load_model

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = load_model(name)
    return f"{model.name}: {model.kind}, {model.n_layers} layers of {model.n_neurons} neurons, weights {model.hash}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ATLAS, help="a benchmark folder (default: Atlas)")
    parser.add_argument("--model", help="check a model instead: a shipped name, a folder or a Hugging Face id")
    parser.add_argument("--relations", help="codes, separated by commas")
    parser.add_argument("--languages", help="codes, separated by commas")
    arguments = parser.parse_args(argv)

    def work():
        if arguments.model:
            print(check_model(arguments.model))
        else:
            relations = arguments.relations.split(",") if arguments.relations else None
            print(check_benchmark(arguments.folder, relations=relations, languages=arguments.languages))

    return said_in_one_line(work)


if __name__ == "__main__":
    sys.exit(main())
