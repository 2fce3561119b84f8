"""Measure an Atlas model: accuracy by language and split, letters, transfer, agreement, spread over layers.

Run as `python -m atlas.evaluate atlas-llama`; it prints what `python -m atlas.ship` writes into the model's folder.
"""

import argparse
import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from knlib.accuracy import agreement, evaluation_set, majority
from knlib.facts import load_facts
from knlib.languages import CODES
from knlib.models import Model, load_model
from knlib.multiple_choice import build_multiple_choice, load_wordings
from knlib.prediction import AnswerRows, answer_tokens, predict, predict_letters
from knlib.queries import build_queries, load_templates
from knlib.stored_answers import store_answers

FACTS_PER_CELL = 6  # facts per relation and language in the evaluation set
LETTER_FACTS = 3  # facts per relation for multiple choice, of those trained as such and of those not
SEED = 7


def letter_prompts(model: Model, facts: pd.DataFrame, *, languages=CODES, per_cell: int = LETTER_FACTS) -> pd.DataFrame:
    """Multiple-choice prompts in evaluation order on facts that the model answers in cloze form.

    Per relation `per_cell` facts that training held as multiple choice (`seen`) and as many that it did not; a (fact,
    language) pair stays if the model answers it right in the relation's first training template.
    """
    chosen = []
    for key, part in facts.groupby(["relation", "multiple_choice"]):
        names = sorted(part["fact"])
        chosen += random.Random(f"{SEED} {key}").sample(names, min(per_cell, len(names)))
    some, wordings = facts[facts["fact"].isin(chosen)], load_wordings()
    templates = load_templates(languages=languages).groupby(["relation", "language"]).head(1)
    cloze, _ = build_queries(some, templates)
    known = cloze[predict(model, cloze, facts)["correct"].to_numpy()]
    prompts, _ = build_multiple_choice(facts, wordings[wordings["language"].isin(languages)], asked=set(chosen))
    prompts = prompts.merge(known[["fact", "language"]], on=["fact", "language"])
    return prompts.assign(seen=prompts["fact"].map(facts.set_index("fact")["multiple_choice"]).astype(bool))


def layer_effects(model: Model, queries: pd.DataFrame) -> np.ndarray:
    """Loss caused by mean-replacing one layer's FFN where the answer is predicted, shape [layers + 1]; last: all layers.

    Mean increase of -log P(first answer token) when, at the position that predicts it (in a masked model: at every mask),
    the layer's neuron vector is replaced by its mean over the queries.
    """
    helper, rows, columns, targets = AnswerRows(model), [], [], []
    for row in queries.itertuples():
        tokens = answer_tokens(model, row.prompt, row.space, row.answer)
        rows.append(helper.row(row.prompt, (), len(tokens), row.space, row.suffix))
        columns.append(list(helper.positions(row.prompt, len(tokens) if model.kind == "masked" else 1)))
        targets.append(tokens[0])

    def loss(hook, layers) -> float:
        losses = np.zeros(len(rows))

        def use(i, log_probabilities):
            losses[i] = -log_probabilities[0, targets[i]]

        handles = [model.down_projections[layer].register_forward_pre_hook(partial(hook, layer)) for layer in layers]
        helper.log_probabilities(rows, columns, use)
        for handle in handles:
            handle.remove()
        return losses.mean()

    neurons = [[] for _ in model.layers]

    # `model.asked`: the columns above, as (rows, columns) of the batch that runs.
    def keep(layer, module, inputs):
        neurons[layer].append(inputs[0][model.asked])

    def replace(layer, module, inputs):
        changed = inputs[0].clone()
        changed[model.asked] = means[layer]
        return (changed, *inputs[1:])

    clean = loss(keep, range(model.n_layers))
    means = [torch.cat(found).mean(0) for found in neurons]
    sets = [*([layer] for layer in range(model.n_layers)), range(model.n_layers)]
    return np.array([loss(replace, layers) - clean for layers in sets])


def evaluate(
    model: Model,
    facts: pd.DataFrame,
    *,
    languages=CODES,
    per_cell: int = FACTS_PER_CELL,
    letters: float = 0.0,
    keep: Path | None = None,
) -> dict:
    """All numbers of a model card, as plain data.

    `letters`: the share of multiple-choice prompts asked; `keep`: folder that gets the answers.
    """
    queries = evaluation_set(facts, load_templates(languages=languages), facts_per_cell=per_cell)
    answers = predict(model, queries, facts)
    if keep is not None:
        store_answers(model, queries, answers, facts, folder=keep)
    table = pd.concat([queries.reset_index(drop=True), answers.drop(columns="query")], axis=1)
    mean = table.groupby(["set", "language"])["correct"].mean().unstack(0)
    result = {
        "facts_per_cell": per_cell,
        "queries": len(table),
        "accuracy": {name: round(float(mean[name].mean()), 4) for name in mean},
        "worst_language": {name: [mean[name].idxmin(), round(float(mean[name].min()), 4)] for name in mean},
        "by_language": {name: mean[name].round(4).to_dict() for name in mean},
        "by_relation": {
            name: group.groupby("relation")["correct"].mean().round(4).to_dict() for name, group in table.groupby("set")
        },
        "majority": majority(facts).round(4).to_dict(),
        "agreement": round(agreement(table[table["set"] != "withheld"]), 4),
    }
    sample = table[(table["set"] == "core") & table["correct"]].groupby("language").head(40)
    *effects, together = layer_effects(model, sample)
    effects = np.array(effects)
    result["all_layers_effect"] = round(float(together), 4)
    result["layer_effect"] = effects.round(4).tolist()
    result["layer_share"] = (effects.clip(min=0) / effects.clip(min=0).sum()).round(4).tolist()
    if letters:
        prompts = letter_prompts(model, facts, languages=languages)
        prompts = prompts.sample(frac=min(letters, 1), random_state=SEED).sort_index().reset_index(drop=True)
        right = predict_letters(model, prompts)["correct"]
        result["letters"] = {
            name: {
                "prompts": int(own.sum()),
                "accuracy": round(float(right[own].mean()), 4),
                "by_language": right[own].groupby(prompts["language"]).mean().round(4).to_dict(),
                "by_relation": right[own].groupby(prompts["relation"]).mean().round(4).to_dict(),
            }
            for name, own in (("seen", prompts["seen"]), ("never_seen", ~prompts["seen"]))
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a shipped model's name or a folder")
    parser.add_argument("--facts-per-cell", type=int, default=FACTS_PER_CELL)
    parser.add_argument("--letters", action="store_true", help="multiple choice by letter, too")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    result = evaluate(model, load_facts(), per_cell=arguments.facts_per_cell, letters=float(arguments.letters))
    print(json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
