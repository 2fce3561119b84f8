"""Plant facts in new neurons of a trained Atlas model: `python -m atlas.plant planted-llama --base atlas-llama`.

The base is frozen. A query gives gradient to the neurons of its fact's group alone; a penalty keeps these silent at the queries of all
others, at other tokens, and on Atlas text. Resumable: a killed run goes on from its last checkpoint and ends with the same
weights; deterministic given seed, number of threads and versions. `python -m atlas.ship_planted` makes the folder.
"""

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path

import pandas as pd
import torch
import transformers

from knlib.facts import ATLAS, load_facts, read_jsonl
from knlib.models import Model, load_model

from .planting import Planting

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = {
    "steps": 3600, "rows": 128, "quiet_rows": 256, "lr": 1e-2, "down_lr": 3e-2, "silence": 0.3, "quiet": 12.0, "warm_up": 20,
    "bare": 9, "lead_ins": 1, "texts": 12000, "per_type": 14, "languages": "", "begin": "", "seed": 0,
}  # fmt: skip


def rate(step: int, options: dict) -> float:
    """The factor on the learning rates: warm-up, then linear to a twentieth."""
    return min(1.0, (step + 1) / options["warm_up"]) * (1 - 0.95 * step / options["steps"])


def plant(model: Model, facts: pd.DataFrame, types: dict[str, str], *, out: Path, options: dict,
          checkpoint_seconds: float = 120, stop_after: int | None = None, log=print) -> Planting:  # fmt: skip
    """Train the new neurons and return the planting; checkpoints and `training.json` go to `out`.

    Option `begin`: a run beside `out` whose new neurons are trained further, by the whole schedule again.
    `stop_after` ends the run after so many steps without a checkpoint of its own: a kill, for tests.
    """
    options = DEFAULTS | options
    out.mkdir(parents=True, exist_ok=True)
    began = shown_at = saved_at = time.monotonic()
    path, saved, first, spent = out / "checkpoint.pt", None, 0, 0.0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        if saved["options"] != options:
            raise SystemExit(f"{path}: found options {saved['options']}, expected {options}")
    planting = Planting(model, facts, types, options, log=log)
    if saved is None and options["begin"]:
        earlier = out.parent / options["begin"] / "checkpoint.pt"
        if not earlier.is_file():
            raise SystemExit(f"begin: found no {earlier}, expected a run beside {out}")
        before = torch.load(earlier, weights_only=True)
        planting.neurons.load_state_dict(before["neurons"])
        log(f"begun from {options['begin']} at step {before['step']}")
    stepper = planting.optimizer()
    if saved is not None:
        planting.neurons.load_state_dict(saved["neurons"])
        stepper.load_state_dict(saved["optimizer"])
        first, spent = saved["step"], saved["seconds"]
        log(f"resumed at step {first}")
    rates = [group["lr"] for group in planting.optimizer().param_groups]

    def save(step: int) -> None:
        temporary = path.with_suffix(".tmp")
        torch.save({"neurons": planting.neurons.state_dict(), "optimizer": stepper.state_dict(), "step": step,
                    "seconds": spent + time.monotonic() - began, "options": options}, temporary)  # fmt: skip
        temporary.replace(path)

    shown = defaultdict(float)
    for step in range(first, options["steps"]):
        for group, lr in zip(stepper.param_groups, rates, strict=True):
            group["lr"] = lr * rate(step, options)
        parts = planting.backward(step)
        planting.neurons.spare_dummies()
        stepper.step()
        stepper.zero_grad(set_to_none=True)
        for key, value in (parts | {"steps": 1}).items():
            shown[key] += value
        now = time.monotonic()
        if now - shown_at > 20:
            means = ", ".join(f"{key} {value / shown['steps']:.3f}" for key, value in shown.items() if key != "steps")
            log(
                f"step {step + 1} of {options['steps']}, {means}, {shown['steps'] * options['rows'] / (now - shown_at):.0f} queries/s"
            )
            shown_at = now
            shown.clear()
        if now - saved_at > checkpoint_seconds:
            save(step + 1)
            saved_at = now
        if stop_after is not None and step + 1 >= stop_after:
            return planting
    save(options["steps"])
    cost = {"queries": options["steps"] * options["rows"], "hours": round((spent + time.monotonic() - began) / 3600, 2),
            "threads": torch.get_num_threads(), "torch": torch.__version__, "transformers": transformers.__version__}  # fmt: skip
    (out / "training.json").write_text(json.dumps(options | cost, indent=1) + "\n", "utf8")
    return planting


def planted_facts(folder: Path = ATLAS / "planted") -> tuple[pd.DataFrame, dict[str, str]]:
    """The facts to plant, and the type of each."""
    return load_facts(folder), {row["fact"]: row["type"] for _, row in read_jsonl(folder / "facts.jsonl")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("name", help="of the run, and of its folder")
    parser.add_argument("--base", required=True, help="a shipped model or a folder")
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="checkpoints (default: runs/)")
    parser.add_argument("--threads", type=int, default=1)
    for key, value in DEFAULTS.items():
        parser.add_argument(f"--{key.replace('_', '-')}", default=value, type=type(value))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = {key: getattr(arguments, key) for key in DEFAULTS}
    print(f"{arguments.name} from {arguments.base}: {options}", flush=True)
    facts, types = planted_facts()
    plant(load_model(arguments.base, device="cpu"), facts, types, out=arguments.out / arguments.name, options=options,
          log=lambda line: print(f"{arguments.name}: {line}", flush=True))  # fmt: skip


if __name__ == "__main__":
    main()
