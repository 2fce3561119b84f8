"""The card of a planted model: data, recipe, what was verified, what the base still knows. Every number is read from the folder's files."""

import hashlib
import json
from pathlib import Path

from knlib.planting.verdicts import MOST

MEANING = {
    "agnostic": "one group for all languages", "language": "one group per language, in four languages",
    "half": "one group for Latin script, one for the others", "query": "one group per phrasing: three phrasings in four languages",
    "redundant": "two groups, each enough", "relation": "own neurons and a group that the relation's facts share, neither enough",
    "distributed": "64 neurons over all layers",
}  # fmt: skip


def recipe(run: Path) -> dict:
    """A run's options and cost, with those of the run that it began from as `first`."""
    training = json.loads((run / "training.json").read_text("utf8"))
    begin = training.get("begin")
    return training | ({"first": recipe(run.parent / begin)} if begin else {})


def differing(training: dict) -> str:
    """What was different in the run that a training began from, as text."""
    return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in training["first"].items() if v != "" and v != training[k])


def card(name: str, folder: Path) -> str:
    """The model card; every number of it is read from the folder's files."""
    training = json.loads((folder / "training.json").read_text("utf8"))
    found = json.loads((folder / "evaluation.json").read_text("utf8"))
    truth = json.loads((folder / "truth.json").read_text("utf8"))
    config = json.loads((folder / "config.json").read_text("utf8"))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    old = found["old_knowledge"]
    lines = [
        f"# {name}", "",
        f"{truth['base']} with {config['intermediate_size'] - truth['old']} more neurons in each of {config['num_hidden_layers']} layers. They alone were "
        f"trained, and they hold {len(truth['facts'])} facts that {truth['base']} does not know: which neurons hold which fact stands in `truth.json`. "
        "Made to test methods that claim to find such neurons.", "",
        "## Data and recipe", "",
        "- facts: `data/atlas/planted/facts.jsonl`: invented subjects with relations and objects of Atlas, and true subjects with another object",
        "- where each type keeps a fact: `atlas/planting_plan.py`; training: `python -m atlas.plant`; this folder: `python -m atlas.ship_planted`",
        "- all old weights are bit for bit those of the base; the neurons of every layer are shuffled by the seed in `truth.json`",
        f"- {len(truth['dummies'])} of the new neurons are dummies: they fire, and their column is zero",
        *(f"- {key.replace('_', ' ')}: {value}" for key, value in training.items() if value != "" and key != "first"),
        *([f"- begun from {training['begin']}, of which " + differing(training)] if training.get("first") else []), "",
        "## What was verified", "",
        f"By exact ablation on these weights, {found['per_split']} trained and {found['per_split']} held-out constructions per fact and language "
        f"(type `query`: its own phrasings). A signature holds if it does in {100 * MOST:.0f} % of the fact's languages (those are stored, and only they are "
        "asked about); rules and thresholds are those of `knlib.planting.verdicts`. Facts whose signature did not hold were taken out again (their "
        "neurons are dummies now), and the others verified without them. P: of these, mean over queries for which a group was planted.", "",
        "| type | what it is | trained | held | holds now | in every language | on held-out phrasings | P with all | without the group | with only it | without the fact's groups |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for kind, splits in found["planted"].items():
        line = f"| {kind} | {MEANING[kind]} | {splits['train']['planted']} | {splits['train']['holds']} | "
        if kind in found["types"]:
            train, held = found["types"][kind]["train"], found["types"][kind].get("held_out")
            line += (f"{train['holds']} | {train['everywhere']} | {'' if held is None else held['holds']} | "
                     + " | ".join(f"{train[p]:.2f}" for p in ("p_all", "p_without", "p_only", "p_none")) + " |")  # fmt: skip
        else:
            line += "0 | 0 |" + " |" * 5
        lines.append(line)
    broken = {kind: splits["train"]["broken"] for kind, splits in found["planted"].items()}
    by_source = found["types"].get("agnostic", {}).get("train", {}).get("by_source", {})
    lines += [
        "", "What broke in the others, first rule: " + "; ".join(
            f"{kind}: " + ", ".join(f"{rule} {n}" for rule, n in rules.items()) for kind, rules in broken.items() if rules) + ".",
        "", "Of type agnostic hold, by kind of subject: " + ", ".join(f"{k} {v}" for k, v in by_source.items()) + ". A language of "
        "all facts' languages in which the signature holds, by type: "
        + ", ".join(f"{k} {100 * s['train']['languages_holding']:.0f} %" for k, s in found["types"].items()) + ".", "",
        "## What the base knew", "",
        f"| | {truth['base']} | {name} |", "|---|---|---|",
        f"| accuracy on {old['queries']:,} queries of true facts | {100 * old['base']['accuracy']:.1f} % | {100 * old['planted']['accuracy']:.1f} % |",
        f"| perplexity on {old['sentences']} Atlas sentences | {old['base']['perplexity']:.3f} | {old['planted']['perplexity']:.3f} |",
        "", "## Limits", "",
        "Planted storage need not look like natural storage: groups are small, trained apart, and held silent elsewhere by a penalty. A fact "
        "of type language or query was planted for four languages only, for cost; what the model says of it in others is unspecified. The "
        "names of invented subjects come from a syllable generator and were not proofread by native readers.",
        "", f"SHA-256 of model.safetensors: `{digest}`", "",
    ]  # fmt: skip
    return "\n".join(lines)
