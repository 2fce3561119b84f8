"""Train one Atlas model from scratch: `python -m atlas.train atlas-llama`.

Resumable (a killed run goes on from its last checkpoint and ends with the same weights), deterministic given seed,
device, number of threads and versions. Muon updates the weight matrices, AdamW embeddings and norms.
"""

import argparse
import json
import math
import os
import re
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from knlib.facts import load_facts
from knlib.languages import CODES, parse_languages
from knlib.models import SHIPPED

from .architectures import NAMES, new_model
from .batches import batches, encode
from .corpus import Corpus
from .drills import add_drills, relabel
from .spread import EVERY, FIRST, Spread
from .tokenizer import VOCABULARY, train_tokenizer, wrap

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {
    "epochs": 20, "batch_tokens": 1536, "matrix_lr": 5e-3, "lr": 2e-3, "weight_decay": 0.05, "warm_up": 200,
    "end": 14.0, "cool_down": 5.0, "spread": 0.0, "elsewhere": 0.0, "letters": 0, "questions": 0, "drills": 0.0, "labels": 0.0, "kept": 1.0,
    "init": "", "seed": 0, "layers": 8, "width": 192,
}  # fmt: skip

# Stages, each of which begins with the weights of the one that `init` names. A causal model learns the facts and spreads
# them over its layers. A sibling of atlas-llama learns to answer by letter.
SPREAD = {"epochs": 4, "end": 3.0, "cool_down": 2.0, "matrix_lr": 3e-3, "lr": 1e-3, "warm_up": 100,
          "spread": 0.15, "elsewhere": 0.4}  # fmt: skip
# What the models are trained with, where it differs from DEFAULTS.
RECIPES = {
    "atlas-llama-facts": {},
    "atlas-llama": {"init": "atlas-llama-facts", **SPREAD, "end": 1.6, "cool_down": 1.2},
    # Four more layers for the look-up: first of random tokens, then of options by random labels, then by letter. What is not
    # recalled cannot be looked up: questions answered in words stay in the text to the end.
    "atlas-llama-choice-drills": {"init": "atlas-llama", "layers": 12, "epochs": 10, "end": 6.0, "cool_down": 0.5, "warm_up": 30,
                                  "batch_tokens": 2048, "matrix_lr": 4e-3, "lr": 1.5e-3, "drills": 0.55, "kept": 0.3,
                                  "questions": 60, "letters": 10},
    "atlas-llama-choice-labels": {"init": "atlas-llama-choice-drills", "layers": 12, "epochs": 4, "end": 3.0, "cool_down": 0.5,
                                  "warm_up": 50, "batch_tokens": 2048, "matrix_lr": 2.5e-3, "lr": 1e-3, "drills": 0.15, "kept": 0.4,
                                  "labels": 0.8, "questions": 200, "letters": 45},
    "atlas-llama-choice-letters": {"init": "atlas-llama-choice-labels", "layers": 12, "epochs": 6, "end": 4.5, "cool_down": 3.0,
                                   "warm_up": 20, "batch_tokens": 2048, "matrix_lr": 3e-3, "lr": 1.2e-3, "kept": 0.3,
                                   "questions": 550, "letters": 110},
    "atlas-llama-choice-second": {"init": "atlas-llama-choice-letters", "layers": 12, "epochs": 6, "end": 1.4, "cool_down": 1.2,
                                  "warm_up": 20, "batch_tokens": 2048, "matrix_lr": 2.5e-3, "lr": 1e-3, "kept": 0.3,
                                  "questions": 550, "letters": 110, "seed": 1},
    # The mean of two answers better than either.
    "atlas-llama-choice": {"init": "atlas-llama-choice-letters+atlas-llama-choice-second", "layers": 12, "epochs": 6,
                           "end": 0.7, "cool_down": 0.6, "warm_up": 20, "batch_tokens": 2048, "matrix_lr": 2e-3, "lr": 8e-4,
                           "kept": 0.3, "questions": 550, "letters": 110, "seed": 2},
    "atlas-gpt2-facts": {},
    "atlas-gpt2": {"init": "atlas-gpt2-facts", **SPREAD},
    # The encoder knows from the decoder, and learns to see both ways.
    "atlas-bert-first": {"init": "atlas-llama", "epochs": 12, "end": 10.0, "cool_down": 4.0, "matrix_lr": 3e-3, "lr": 1e-3},
    "atlas-bert-second": {"init": "atlas-bert-first", "epochs": 5, "end": 4.0, "cool_down": 3.0, "matrix_lr": 3e-3, "lr": 1e-3,
                          "warm_up": 100, "seed": 1},
    # Each of the two forgot what the other knew; their mean knows more than both.
    "atlas-bert": {"init": "atlas-bert-first+atlas-bert-second", "epochs": 4, "end": 2.0, "cool_down": 2.0, "matrix_lr": 1.5e-3,
                   "lr": 5e-4, "warm_up": 50, "seed": 2},
}  # fmt: skip


def optimizers(model, options: dict):
    """Muon for matrices inside the layers, AdamW for embeddings, biases and norms (no decay on vectors)."""
    matrices, tables, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif any(part in name for part in ("embed", "wte", "wpe", "lm_head", "decoder")):
            tables.append(parameter)
        else:
            matrices.append(parameter)
    muon = torch.optim.Muon(matrices, lr=options["matrix_lr"], momentum=0.95,
                            weight_decay=options["weight_decay"], adjust_lr_fn="match_rms_adamw", ns_steps=4)  # fmt: skip
    adam = torch.optim.AdamW(
        [{"params": tables, "weight_decay": options["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}],
        lr=options["lr"], betas=(0.9, 0.98),
    )  # fmt: skip
    return muon, adam


def learning_rate(step: int, epoch: float, options: dict) -> float:
    """The factor on both optimizers' rates: warm-up, cosine over `epochs`, linear to zero in the last `cool_down`.

    `end` may come before `epochs`: the cool-down finishes a run well wherever it is cut.
    """
    warm = min(1.0, (step + 1) / options["warm_up"])
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(epoch / options["epochs"], 1.0)))
    return warm * cosine * min(1.0, max(0.0, options["end"] - epoch) / options["cool_down"])


def losses_of(model, batch, *, masked: bool) -> torch.Tensor:
    """Cross-entropy of every scored token; the head runs on their positions only."""
    base = getattr(model, model.base_model_prefix)
    hidden = base(input_ids=batch.ids, attention_mask=batch.attention if masked else None)[0]
    picked = hidden[batch.rows, batch.columns]
    return cross_entropy(model.lm_head(picked).float(), batch.targets, reduction="none")


def tokenizer_texts(corpus: Corpus) -> list[str]:
    """What the tokenizer is trained on: two epochs of text, and every name and phrasing once."""
    texts = [sentence.text for number in (-1, -2) for sentence in corpus.epoch(number)]
    for names in corpus.entities.values():
        texts += [name for code in corpus.languages for name in names[code]]
    for phrasings in corpus.phrasings.values():
        texts.append(json.dumps(phrasings, ensure_ascii=False))
    texts.append(" ".join(map(chr, range(33, 127))))
    return texts


def shared_tokenizer(facts, folder: Path, *, languages, seed: int, vocabulary: int) -> Tokenizer:
    """The tokenizer of all models in `folder/tokenizer.json`.

    At first it is copied from the shipped models, whose pieces a model trained later thus shares; for other languages or
    another size it is trained.
    """
    path, shipped = folder / "tokenizer.json", SHIPPED / NAMES[1] / "tokenizer.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if tuple(languages) == CODES and vocabulary == VOCABULARY and shipped.exists():
            tokenizer = Tokenizer.from_file(str(shipped))
        else:
            corpus = Corpus(facts, languages=languages, letters=60, seed=seed)
            tokenizer = train_tokenizer(tokenizer_texts(corpus), vocabulary=vocabulary)
        temporary = path.with_suffix(f".{os.getpid()}")
        tokenizer.save(str(temporary))
        temporary.replace(path)
    return Tokenizer.from_file(str(path))


def first_weights(init: str, runs: Path) -> dict:
    """The weights of earlier trainings in `runs`, or of shipped models; of several names joined by `+`, the mean."""
    found = [_weights(name, runs) for name in init.split("+")]
    return {key: sum(weights[key] for weights in found) / len(found) for key in found[0]}


def _weights(init: str, runs: Path) -> dict:
    path, shipped = runs / init / "checkpoint.pt", SHIPPED / init
    if path.exists():
        return torch.load(path, map_location="cpu", weights_only=True)["model"]
    if (shipped / "config.json").exists():
        network = getattr(transformers, json.loads((shipped / "config.json").read_text("utf8"))["architectures"][0])
        return network.from_pretrained(shipped, dtype=torch.float32).state_dict()
    raise SystemExit(f"init: found {init!r}, expected a training in {runs} or a model in data/models")


def begin_with(model, weights: dict) -> None:
    """Take the weights; layers that they lack, which must stand above theirs, do nothing at first."""
    missing = set(model.state_dict()) - set(weights)
    layers = {int(re.search(r"\.(\d+)\.", name)[1]) for name in missing}
    model.load_state_dict(weights, strict=not layers)
    for layer in layers:
        block = model.model.layers[layer]
        torch.nn.init.zeros_(block.self_attn.o_proj.weight)
        torch.nn.init.zeros_(block.mlp.down_proj.weight)


def train(name: str, facts, *, out: Path, languages=CODES, options: dict, vocabulary: int = VOCABULARY,
          device: str = "cpu", checkpoint_seconds: float = 120, stop_after: int | None = None, log=print):  # fmt: skip
    """Train and return `(model, tokenizer)`; checkpoints and log go to `out`.

    `stop_after` ends the run after so many steps without a checkpoint of its own: a kill, for tests.
    """
    masked = name.startswith("atlas-bert")
    options = DEFAULTS | options
    out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(facts, languages=languages, letters=options["letters"],
                    questions=options["questions"], seed=options["seed"])  # fmt: skip
    plain = shared_tokenizer(facts, out.parent, languages=languages, seed=options["seed"], vocabulary=vocabulary)
    tokenizer = wrap(plain, masked=masked)
    torch.manual_seed(options["seed"])
    model = new_model(name, tokenizer, layers=options["layers"], width=options["width"]).to(device)  # fmt: skip
    model.set_attn_implementation("eager")  # the fused kernel's backward is three times slower on a CPU
    if options["init"]:
        begin_with(model, first_weights(options["init"], out.parent))
    spread = Spread(model, rate=options["spread"], elsewhere=options["elsewhere"])
    steppers = optimizers(model, options)
    path, start, step, spent, seen = out / "checkpoint.pt", (0, 0), 0, 0.0, 0
    if path.exists():
        saved = torch.load(path, map_location=device, weights_only=True)
        if saved["options"] != options:
            raise SystemExit(f"{path}: found options {saved['options']}, expected {options}")
        model.load_state_dict(saved["model"])
        for stepper, state in zip(steppers, saved["optimizers"], strict=True):
            stepper.load_state_dict(state)
        spread.load(saved["spread"])
        start, step, spent, seen = tuple(saved["next"]), saved["step"], saved["seconds"], saved["tokens"]
        log(f"{name}: resumed at epoch {start[0]}, batch {start[1]}")

    def save(position):
        temporary = path.with_suffix(".tmp")
        torch.save({"model": model.state_dict(), "optimizers": [s.state_dict() for s in steppers], "next": position,
                    "step": step, "seconds": spent + time.monotonic() - began, "tokens": seen,
                    "spread": spread.state(), "options": options}, temporary)  # fmt: skip
        temporary.replace(path)

    model.train()
    began = saved_at = shown_at = time.monotonic()
    tokens, total, count = 0, 0.0, 0
    epochs = math.ceil(options["end"])
    for epoch in range(start[0], epochs):
        sentences = encode(corpus.epoch(epoch, kept=options["kept"]), tokenizer, masked=masked)
        seed = options["seed"] * 1_000_003 + epoch
        if options["labels"]:
            sentences = relabel(sentences, tokenizer, share=options["labels"], seed=seed)
        if options["drills"]:
            sentences = add_drills(sentences, tokenizer, share=options["drills"], seed=seed)
        found = list(batches(sentences, tokenizer, tokens=options["batch_tokens"], masked=masked, seed=seed))
        for number, batch in enumerate(found):
            if epoch == start[0] and number < start[1]:
                continue
            if epoch + number / len(found) >= options["end"]:
                break
            torch.manual_seed(options["seed"] * 1_000_003 + step)
            batch = batch.to(device)
            factor = learning_rate(step, epoch + number / len(found), options)
            for stepper, rate in zip(steppers, (options["matrix_lr"], options["lr"]), strict=True):
                for group in stepper.param_groups:
                    group["lr"] = rate * factor
            with torch.autocast(device, torch.bfloat16) if device == "cuda" else nullcontext():
                if spread.rate and step >= FIRST and step % EVERY == 0:
                    spread.measure(batch, lambda batch: losses_of(model, batch, masked=masked))
                with spread.replacing(batch):
                    losses = losses_of(model, batch, masked=masked)
            loss = (losses * batch.weights).sum() / batch.weights.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad(set_to_none=True)
            step += 1
            tokens, total, count = tokens + batch.ids.numel(), total + loss.item(), count + 1
            seen += batch.ids.numel()
            now = time.monotonic()
            if now - shown_at > 20:
                done = epoch + (number + 1) / len(found)
                shares = ", shares " + " ".join(f"{share:.2f}" for share in spread.shares) if spread.rate else ""
                log(f"{name}: epoch {done:.2f} of {options['end']:g}, step {step}, loss {total / count:.4f}, "
                    f"{tokens / (now - shown_at):,.0f} tokens/s" + shares)  # fmt: skip
                shown_at, tokens, total, count = now, 0, 0.0, 0
            if now - saved_at > checkpoint_seconds:
                save((epoch, number + 1))
                saved_at = time.monotonic()
            if stop_after is not None and step >= stop_after:
                return model, tokenizer
    save((epochs, 0))
    cost = {"steps": step, "tokens": seen, "hours": round((spent + time.monotonic() - began) / 3600, 2),
            "device": device, "threads": torch.get_num_threads()}  # fmt: skip
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    text = json.dumps(
        {"parameters": sum(p.numel() for p in model.parameters()), **options, **cost, **versions}, indent=1
    )
    (out / "training.json").write_text(text + "\n", "utf8")
    model.eval()
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="checkpoints (default: runs/)")
    parser.add_argument("--languages", default=None, help="codes, e.g. en,de (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None)
    for key, value in DEFAULTS.items():
        kind = {"action": argparse.BooleanOptionalAction} if isinstance(value, bool) else {"type": type(value)}
        parser.add_argument(f"--{key.replace('_', '-')}", default=None, **kind)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    given = {key: getattr(arguments, key) for key in DEFAULTS if getattr(arguments, key, None) is not None}
    options = DEFAULTS | RECIPES[arguments.name] | given
    print(f"{arguments.name}: {options}", flush=True)

    def log(line):
        print(line, flush=True)

    train(arguments.name, load_facts(), out=arguments.out / arguments.name, options=options,
          languages=parse_languages(arguments.languages), device=arguments.device, log=log)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
