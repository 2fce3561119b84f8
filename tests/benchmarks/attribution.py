"""Time of attribution against its peers, in one process, interleaved, with the agreement of the numbers.

    python tests/benchmarks/attribution.py                  # GPT-2 small, Llama-style 12 x 512, BERT base; one thread
    python tests/benchmarks/attribution.py --case bert-24   # one case of the table
    python tests/benchmarks/attribution.py --toy            # tiny models: does the benchmark work?
    python tests/benchmarks/attribution.py --gpu            # the same table there, and a Llama-7B-size model by batch

All weights are random, from configs. Peers: a plain batched hook loop (all points of a layer in one batch), captum's
IntegratedGradients per layer, and the `knowledge-neurons` package where it can be imported. A round runs every peer once
and ours before and after them; peers take minutes, so that one round is the default. Never part of the test suite.
"""

import argparse
import random
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from peers import STEPS, peers_of
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from knlib.methods import ROWS, Scorer
from knlib.models import Model, n_inputs, prepared
from knlib.quadrature import integrate_adaptive, integrate_fixed
from knlib.sites import Site

ADAPTIVE_BATCH = 8
GPT2 = {}
LLAMA = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 12, "num_attention_heads": 8,
         "num_key_value_heads": 4, "vocab_size": 32000}  # fmt: skip
BERT = {}
LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
            "vocab_size": 32000}  # fmt: skip
TOY = {"gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 500},
       "llama": LLAMA | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": 500},
       "bert": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                "vocab_size": 500}}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model type with its options, the number of tokens of a prompt, and how fast we want to be.

    `goals`: (which run of ours, which peer, how many times faster), on one CPU thread.
    """

    title: str
    kind: str
    options: dict
    tokens: int
    goals: tuple[tuple[str, str, float], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.tokens}"


PLAIN, ADAPTIVE = "ours, 20 right points", f"ours, adaptive, {ADAPTIVE_BATCH} prompts"
CASES = [
    Case("GPT-2 small", "gpt2", GPT2, 12, ((PLAIN, "captum", 12), (ADAPTIVE, "captum", 35))),
    Case("GPT-2 small", "gpt2", GPT2, 48, ((PLAIN, "captum", 40), (ADAPTIVE, "captum", 120))),
    Case("Llama-style 12 x 512", "llama", LLAMA, 24, ((PLAIN, "captum", 20), (ADAPTIVE, "captum", 60))),
    Case("BERT base", "bert", BERT, 12),
    Case("BERT base", "bert", BERT, 24, ((PLAIN, "hook loop", 1.8), (ADAPTIVE, "captum", 12))),
]


def build(kind: str, options: dict, device: str) -> Model:
    """A random model; the tokenizer is a stand-in, because prompts are random ids."""
    masked = kind == "bert"
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **options)
    with torch.device(device):
        network = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config(config, dtype=torch.float32)
    tokenizer = SimpleNamespace(pad_token="<pad>", pad_token_id=0, mask_token_id=1, eos_token_id=2,
                                all_special_ids=[0, 1, 2])  # fmt: skip
    return prepared(kind, network.to(device), tokenizer, "masked" if masked else "causal")


def make_prompts(model: Model, tokens: int, count: int) -> list[Site]:
    """Sites of random tokens; in a masked model the answer stands before the last token."""
    draw, vocabulary = random.Random(0), model.network.config.vocab_size
    sites = []
    for _ in range(count):
        ids = [draw.randrange(3, vocabulary) for _ in range(tokens)]
        position = tokens - 1
        if model.kind == "masked":
            position = tokens - 2
            ids[position] = model.tokenizer.mask_token_id
        sites.append(Site(0, tuple(ids), position, draw.randrange(3, vocabulary), ()))
    return sites


def ours(model: Model, sites: list[Site], **options) -> np.ndarray:
    """Scores [sites, layers, neurons] by the engine's default path."""
    return measured(model, sites, **options)[0]


def measured(model: Model, sites: list[Site], **options) -> tuple:
    """Scores as `ours`, log-probabilities, and by how much the objective changes along each layer's path [sites, layers]."""
    defaults = {"method": "ig", "objective": "prob", "baseline": "zero", "formula": "difference",
                "quadrature": "adaptive", "tolerance": 1e-2, "steps": STEPS, "engine": "fast", "seed": 0}  # fmt: skip
    return Scorer(model, list(range(model.n_layers)), defaults | options, None).score(sites)


def seconds(model: Model, function, *args) -> tuple[float, np.ndarray]:
    """Seconds of a call (of the processor where it is one thread, so that other programs do not count), its result."""
    alone = model.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    start = clock()
    result = function(*args)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start, result


def matmul_rate(model: Model, rows: int) -> float:
    """Multiply-adds per second of this machine's float32 product of [rows, width] with a down-projection's shape."""
    width, neurons = model.network.config.hidden_size, n_inputs(model.down_projections[0])
    left, right = torch.randn(rows, neurons, device=model.device), torch.randn(neurons, width, device=model.device)
    best = min(seconds(model, lambda: [left @ right for _ in range(10)])[0] for _ in range(5))
    return 10 * rows * width * neurons / best


def multiply_adds(model: Model, tokens: int, nodes: float) -> float:
    """Of the staircase for one prompt with `nodes` paid points per layer: rows forward and back, head, clean pass.

    A layer's rows run the layers above it; the end that all layers share runs those above the first. Products of
    attention are left out.
    """
    layers = model.n_layers
    layer = sum(p.numel() for p in model.layers[0].parameters() if p.ndim == 2)
    head = model.network.get_output_embeddings().weight.numel()
    per_row = 1 if model.kind == "causal" else tokens
    return (
        2 * (nodes * layers * (layers - 1) / 2 + layers - 1) * layer * per_row
        + 2 * (nodes * layers + 1) * head
        + tokens * layers * layer
    )


def batch_of(model: Model, sites: list[Site]):
    """The staircase of the engine's default budget."""
    return Scorer(model, list(range(model.n_layers)), {"engine": "fast"}, None).make(
        sites, "prob", ROWS.get(model.device.type, 4096)
    )


def exact(model: Model, sites: list[Site]) -> np.ndarray:
    """Scores by Gauss points too many to be wrong: random encoders are smooth, and their rows are dear."""
    batch = batch_of(model, sites)
    found = integrate_fixed(batch, "gauss", 200 if model.kind == "causal" else 12)
    layers = range(model.n_layers)
    return np.stack(
        [(batch.difference_neurons(k) * batch.project(k, found.gradient[:, k])).cpu().numpy() for k in layers], 1
    )


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the prompt's largest score; the worst prompt."""
    scale = np.abs(expected).max((1, 2), keepdims=True)
    return float((np.abs(found - expected) / scale).max())


def timed(model: Model, peers: dict, prompts: list[Site], rounds: int) -> tuple[dict, dict]:
    """Seconds per prompt of every run, and their results; ours before and after each peer."""
    own = {PLAIN: (partial(ours, model, quadrature="riemann"), prompts[:1]), ADAPTIVE: (partial(ours, model), prompts)}
    times, results = {name: [] for name in (*peers, *own)}, {}

    def once(name, function, sites):
        spent, results[name] = seconds(model, function, sites)
        times[name].append(spent / len(sites))

    def all_of_ours():
        for name, run in own.items():
            once(name, *run)

    for function, sites in own.values():
        function(sites)  # not timed: the probe of the model, first touches of memory
    for _ in range(rounds):
        all_of_ours()
        for name, function in peers.items():
            once(name, function, prompts[:1])
        all_of_ours()
    return {name: statistics.median(found) for name, found in times.items()}, results


def compare(case: Case, device: str, rounds: int) -> None:
    model = build(case.kind, case.options, device)
    prompts = make_prompts(model, case.tokens, ADAPTIVE_BATCH)
    batch = batch_of(model, prompts)
    peers, missing = peers_of(model, make_prompts(model, 4, 1))
    spent, results = timed(model, peers, prompts, rounds)
    truth, rate = (
        exact(model, prompts[:1]),
        matmul_rate(model, STEPS * model.n_layers * (1 if model.kind == "causal" else case.tokens)),
    )
    nodes = {PLAIN: STEPS, ADAPTIVE: float(integrate_adaptive(batch, 1e-2).nodes.mean())}
    print(f"\n{case.name}: {case.title}, T = {case.tokens}; {rate / 1e9:.1f} G multiply-adds/s; {batch.path}")
    print(f"{'':32}{'s/prompt':>10}{'x captum':>10}{'to captum':>11}{'to exact':>10}{'points':>8}{'of floor':>10}")
    for name, seconds_each in spent.items():
        line = f"{name:32}{seconds_each:10.4f}"
        line += f"{spent['captum'] / seconds_each:10.1f}" if "captum" in spent else f"{'':10}"
        first = results[name][:1]
        if first.shape == truth.shape:
            to_captum = f"{difference(first, results['captum']):.1e}" if "captum" in results else ""
            line += f"{to_captum:>11}{difference(first, truth):10.1e}"
        if name in nodes:
            line += f"{nodes[name]:8.1f}{multiply_adds(model, case.tokens, nodes[name]) / rate / seconds_each:10.0%}"
        print(line)
    for name, peer, times in case.goals:
        if peer in spent:
            found = spent[peer] / spent[name]
            print(f"goal: {name} at least {times:g} x {peer}: {found:.1f} {'reached' if found >= times else 'MISSED'}")
    for name, reason in missing.items():
        print(f"{name} does not run here: {reason}")
    sys.stdout.flush()


def by_batch(options: dict, device: str, tokens: int, batches: tuple[int, ...]) -> None:
    """Queries per second of the adaptive default against the batch size; TF32 products."""
    model = build("llama", options, device)
    for tf32 in (False, True):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        print(
            f"\nLlama, {model.n_layers} layers x {model.network.config.hidden_size}, T = {tokens}, TF32 {'on' if tf32 else 'off'}"
        )
        for batch in batches:
            sites = make_prompts(model, tokens, batch)
            ours(model, sites)
            spent = statistics.median(seconds(model, ours, model, sites)[0] for _ in range(3))
            print(f"batch {batch:4}: {batch / spent:8.2f} queries/s", flush=True)
    torch.backends.cuda.matmul.allow_tf32 = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny models")
    parser.add_argument("--gpu", action="store_true", help="on the GPU, and a Llama-7B-size model by batch size")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="default: all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if options.gpu else "cpu"
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} thread(s), medians of {options.rounds} round(s)"
    )
    for case in CASES:
        if options.case and case.name not in options.case:
            continue
        if options.toy:
            case = Case(case.title + " (toy)", case.kind, TOY[case.kind], case.tokens)
        compare(case, device, options.rounds)
    if options.gpu:
        by_batch(LLAMA_7B, device, 24, (1, 4, 8, 16, 32, 64))
    elif options.toy:
        by_batch(TOY["llama"], device, 24, (1, 2, 8))


if __name__ == "__main__":
    main()
