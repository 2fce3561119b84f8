"""Measure an Atlas model: accuracy by language and split, letters, transfer, agreement, spread over layers.

Run as `python -m atlas.evaluate atlas-llama`; it prints the summary and writes `evaluation.json` into the model's folder.
"""

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from knlib.accuracy import agreement, evaluation_set, majority
from knlib.facts import load_facts, names_table
from knlib.languages import CODES
from knlib.models import SHIPPED, Model, load_model
from knlib.multiple_choice import build_multiple_choice, load_wordings, predict_letters
from knlib.prediction import AnswerRows, answer_tokens, predict
from knlib.queries import load_templates

FACTS_PER_CELL = 20  # facts per relation and language in the evaluation set
SEED = 7


def letter_prompts(facts: pd.DataFrame, *, languages=CODES, per_cell: int = 8) -> pd.DataFrame:
    """Multiple-choice prompts in evaluation order: `per_cell` trained-on facts and as many never seen as such."""
    chosen = []
    for relation, group in facts.groupby("relation"):
        for seen, part in group.groupby("multiple_choice"):
            names = random.Random(f"{SEED} {relation} {seen}").sample(sorted(part["fact"]), min(per_cell, len(part)))
            chosen += names
    wordings = load_wordings()
    prompts, _ = build_multiple_choice(facts, wordings[wordings["language"].isin(languages)])
    prompts = prompts[prompts["fact"].isin(chosen)]
    seen = facts.set_index("fact")["multiple_choice"]
    flags = names_table(facts).set_index(["fact", "language"])["withheld"]
    hidden = flags.loc[pd.MultiIndex.from_frame(prompts[["fact", "language"]])].to_numpy()
    return prompts[~hidden].assign(seen=lambda t: t["fact"].map(seen)).reset_index(drop=True)


def layer_effects(model: Model, queries: pd.DataFrame) -> np.ndarray:
    """Loss caused by mean-replacing one layer's FFN where the answer is predicted, shape [layers].

    Mean increase of -log P(first answer token) when, at the position that predicts it (in a masked model: at every mask),
    the layer's neuron vector is replaced by its mean over the queries.
    """
    helper, groups = AnswerRows(model), defaultdict(list)
    for row in queries.itertuples():
        tokens = answer_tokens(model, row.prompt, row.space, row.answer)
        ids = helper.row(row.prompt, (), len(tokens), row.space, row.suffix)
        start = helper.positions(row.prompt, 1)[0]
        width = len(tokens) if model.kind == "masked" else 1
        groups[len(ids), start, width].append((ids, tokens[0]))

    def run(replace_at: int | None = None, means=None):
        total, neurons = 0.0, [[] for _ in model.layers]
        for (_, start, width), items in groups.items():
            place = slice(start, start + width)
            ids = torch.tensor([item[0] for item in items], device=model.device)

            def hook(layer, place=place):
                def change(module, inputs):
                    if means is None:
                        neurons[layer].append(inputs[0][:, place].flatten(0, 1))
                    elif layer == replace_at:
                        changed = inputs[0].clone()
                        changed[:, place] = means[layer]
                        return (changed, *inputs[1:])

                return change

            handles = [p.register_forward_pre_hook(hook(layer)) for layer, p in enumerate(model.down_projections)]
            with torch.no_grad():
                logits = model.logits_at(ids, torch.ones_like(ids), torch.arange(len(ids)), torch.full((len(ids),), start))
            for handle in handles:
                handle.remove()
            targets = torch.tensor([item[1] for item in items], device=model.device)
            total -= logits.float().log_softmax(-1).gather(1, targets[:, None]).sum().item()
        return total / len(queries), neurons

    clean, neurons = run()
    means = [torch.cat(found).mean(0) for found in neurons]
    return np.array([run(layer, means)[0] - clean for layer in range(model.n_layers)])


def evaluate(model: Model, facts: pd.DataFrame, *, languages=CODES, per_cell: int = FACTS_PER_CELL, letters: bool = True) -> dict:
    """All numbers of a model card, as plain data."""
    queries = evaluation_set(facts, load_templates(languages=languages), facts_per_cell=per_cell)
    table = pd.concat([queries.reset_index(drop=True), predict(model, queries, facts).drop(columns="query")], axis=1)
    mean = table.groupby(["set", "language"])["correct"].mean().unstack(0)
    result = {
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
    effects = layer_effects(model, sample).clip(min=0)
    result["layer_share"] = [round(float(x), 4) for x in effects / effects.sum()]
    if letters and model.kind == "causal":
        prompts = letter_prompts(facts, languages=languages)
        right = predict_letters(model, prompts)["correct"].to_numpy()
        result["letters"] = {
            name: {"prompts": int(mask.sum()), "accuracy": round(float(right[mask].mean()), 4)}
            for name, mask in (("seen", prompts["seen"].to_numpy()), ("never_seen", ~prompts["seen"].to_numpy().astype(bool)))
        } | {"by_language": pd.Series(right).groupby(prompts["language"].to_numpy()).mean().round(4).to_dict()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a shipped model's name or a folder")
    parser.add_argument("--facts-per-cell", type=int, default=FACTS_PER_CELL)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    result = evaluate(model, load_facts(), per_cell=arguments.facts_per_cell)
    print(json.dumps(result, indent=1, ensure_ascii=False))
    if (SHIPPED / arguments.model).is_dir():
        Path(SHIPPED / arguments.model / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
