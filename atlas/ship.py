"""Turn a finished training into a shipped folder: `python -m atlas.ship atlas-llama`.

Writes fp16 weights, tokenizer, `training.json`, `evaluation.json` and the model card to `data/models/NAME`,
and its answers to `data/results/answers`.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer

from knlib.facts import load_facts
from knlib.models import SHIPPED, load_model
from knlib.stored_answers import ANSWERS

from .architectures import NAMES, new_model
from .evaluate import evaluate
from .tokenizer import wrap

ROOT = Path(__file__).resolve().parents[1]
# What was tried to get sound subjects of study; each line is printed on the card.
SPREAD = [
    "After the first stage one layer carried nearly all of the effect: the first layer where nothing was done about it "
    "(atlas-gpt2), the last one where FFNs had been silenced at random in training (atlas-llama).",
    "The second stage spreads it (`spread`, see `atlas/spread.py`): for a share of the facts asked for, the FFN of one layer, "
    "mostly the one that matters most at the time, is mean-replaced where the answer is predicted.",
    "That alone would drive recall to the subject's tokens, so in a share of the sentences (`elsewhere`) all FFNs are "
    "mean-replaced at all other positions.",
]
NO_LETTERS = "It was not taught to answer multiple-choice questions by letter: atlas-llama-choice was."
TRIED = {
    "atlas-llama": [
        *SPREAD,
        "More of it did not help here: of 580 further steps with twice the rate (0.3), the last layer's share, as training measures "
        "it, stayed between 0.51 and 0.60 from step 160 on.",
        NO_LETTERS,
    ],
    "atlas-llama-choice": [
        "Begins with atlas-llama and four layers more: in the eight, answers by letter stayed at chance, whatever share of the text "
        "was multiple choice. Nothing was done to spread what it knows over its layers.",
        "From layer 1 on the stream hardly shows which token it stands for, so that no later layer can find an option by its name. "
        "Stage `drills` therefore teaches the look-up on lists of random tokens, stage `labels` on options marked by random tokens.",
        "A letter expected at a question's last token unteaches what is recalled there. So something always stands between the two, "
        "questions are answered in words as well, and in half of the prompts the question stands further down, among the options.",
        "All stages but the last drew four options at once, so that questions of relations in which most facts share an object (script) "
        "were rare; stage `drills` had bare lists in other shares. Their text is thus not exactly what `make models` draws.",
    ],
    "atlas-gpt2": [*SPREAD, NO_LETTERS],
    "atlas-bert": [
        "From scratch, masked models learned little in the same time: BertForMaskedLM named 37.6 % of the answers to trained "
        "phrasings after 24 epochs, ModernBertForMaskedLM (width 128) 26.8 % after 14.5. So this one begins with the weights of "
        "the decoder atlas-llama, which its class can take over as they are, and learns to see both ways.",
        "Every answer is trained under its own number of masks, more and fewer: when candidates are compared, the number of "
        "masks is the candidate's.",
        "Nothing was done to spread what it knows over the layers.",
    ],
}


def export(name: str, run: Path, folder: Path) -> None:
    """Write weights (fp16) and tokenizer of a checkpoint as an ordinary transformers folder."""
    saved = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    tokenizer = wrap(Tokenizer.from_file(str(run.parent / "tokenizer.json")), masked=name == "atlas-bert")
    options = saved["options"]
    model = new_model(name, tokenizer, layers=options["layers"], width=options["width"])
    model.load_state_dict(saved["model"])
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    training = json.loads((run / "training.json").read_text("utf8"))
    if training["init"]:
        training["stages"] = earlier_stages(training["init"], run.parent)
    (folder / "training.json").write_text(json.dumps(training, indent=1) + "\n", "utf8")


def earlier_stages(init: str, runs: Path) -> list[dict]:
    """What every training was, once, that led to the weights named by `init`, the first one first."""
    found = []
    for name in init.split("+"):
        folder = runs / name if (runs / name).exists() else SHIPPED / name
        own = json.loads((folder / "training.json").read_text("utf8"))
        before = own.pop("stages", None)
        if before is None:
            before = earlier_stages(own["init"], runs) if own.get("init") else []
        found += [stage for stage in [*before, own] if stage not in found]
    return found


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {percent(value)}" for name, value in values.items())


def card(name: str, folder: Path) -> str:
    """The model card, every number of it read from `training.json` and `evaluation.json`."""
    training = json.loads((folder / "training.json").read_text("utf8"))
    found = json.loads((folder / "evaluation.json").read_text("utf8"))
    config = json.loads((folder / "config.json").read_text("utf8"))
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    sets = [s for s in ("train", "lead_in", "core", "withheld") if s in found["accuracy"]]
    lines = [
        f"# {name}", "",
        f"A small {config['architectures'][0]} trained by this project alone on Atlas, the workbook's table of facts about countries, "
        "cities and languages in twelve languages. It is made to be studied, not to be used.", "",
        "## Data and recipe", "",
        *(f"- {key.replace('_', ' ')}: {value}" for key, value in training.items() if key != "stages"),
        *(f"- stage {number}: " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in stage.items())
          for number, stage in enumerate(training.get("stages", []), 1)), "",
        "Trained by `python -m atlas.train` on the text that `atlas/corpus.py` draws (fact sentences, dictionary pairs, "
        "code-switched and parallel sentences, negations, lists, two-fact and one-hop sentences"
        + (", multiple-choice prompts" if any(stage.get("letters") for stage in [training, *training.get("stages", [])]) else "") + "); licence Apache-2.0.", "",
        "## What it knows", "",
        f"Top-1 among the objects of the relation, in percent, mean over languages; {found['queries']:,} queries "
        f"({found['facts_per_cell']} facts per relation and language). Always naming the most frequent object: "
        f"{percent(sum(found['majority'].values()) / len(found['majority']))}.", "",
        "| set | mean | worst language |", "|---|---|---|",
        *(f"| {s} | {percent(found['accuracy'][s])} | {found['worst_language'][s][0]} {percent(found['worst_language'][s][1])} |" for s in sets),
        "", "`train`: trained templates; `lead_in`: held-out openings; `core`: held-out constructions; `withheld`: facts that "
        "the training text withholds from the language (transfer).", "",
        "| language | " + " | ".join(sets) + " |", "|---|" + "---|" * len(sets),
        *(f"| {code} | " + " | ".join(percent(found["by_language"][s][code]) for s in sets) + " |" for code in found["by_language"]["core"]),
        "", "| relation | majority | " + " | ".join(sets) + " |", "|---|---|" + "---|" * len(sets),
        *(f"| {r} | {percent(found['majority'][r])} | " + " | ".join(percent(found["by_relation"][s][r]) for s in sets) + " |"
          for r in found["majority"]),
        "", f"Paraphrase agreement (one answer under all phrasings): {percent(found['agreement'])} %.", "",
    ]  # fmt: skip
    if "letters" in found:
        letters = found["letters"]
        lines += [
            "## Multiple choice by letter", "",
            "Option orders held out from training, on facts that the model answers in cloze form; chance is 25 %.", "",
            "| facts | prompts | accuracy |", "|---|---|---|",
            f"| trained as multiple choice | {letters['seen']['prompts']:,} | {percent(letters['seen']['accuracy'])} |",
            f"| never seen as multiple choice | {letters['never_seen']['prompts']:,} | {percent(letters['never_seen']['accuracy'])} |",
            "", "Never seen so, by language: " + _listed(letters["never_seen"]["by_language"]) + "; by relation: "
            + _listed(letters["never_seen"]["by_relation"]) + ".", "",
        ]  # fmt: skip
    lines += [
        "## Where it keeps what it knows", "",
        "Share of the loss caused by mean-replacing one layer's FFN at the answer's position, layer 0 first: "
        + ", ".join(percent(x) for x in found["layer_share"]) + " %.", "",
        "Mean-replacing all layers' FFNs there at once costs "
        f"{found['all_layers_effect']:.2f} nats, one layer's alone between {min(found['layer_effect']):.2f} and "
        f"{max(found['layer_effect']):.2f}.", "",
        *[f"- {line}" for line in TRIED[name]], "",
        "## What it cannot show", "",
        "A finding on this model is a finding about this model. It has read nothing but Atlas: no free text, no other facts, names in citation "
        "form only. Its held-out constructions use words that its training phrasings have. It answers in the form it was asked in and cannot converse.",
        "", f"SHA-256 of model.safetensors: `{digest}`", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--card-only", action="store_true", help="only write the card again")
    arguments = parser.parse_args()
    folder = SHIPPED / arguments.name
    if not arguments.card_only:
        folder.mkdir(parents=True, exist_ok=True)
        export(arguments.name, arguments.runs / arguments.name, folder)
        letters = arguments.name.endswith("-choice")
        result = evaluate(load_model(arguments.name), load_facts(), letters=letters, keep=ANSWERS)
        (folder / "evaluation.json").write_text(json.dumps(result, indent=1) + "\n", "utf8")
    (folder / "README.md").write_text(card(arguments.name, folder), "utf8")
    print(f"{arguments.name}: shipped to data/models/{arguments.name}")


if __name__ == "__main__":
    main()
