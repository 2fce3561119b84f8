"""Time of attribution against its peers, in one process, interleaved, with the agreement of the numbers.

    python tests/benchmarks/attribution.py                  # GPT-2 small, Llama-style 12 x 512, BERT base; one thread
    python tests/benchmarks/attribution.py --toy            # tiny models: does the benchmark work?
    python tests/benchmarks/attribution.py --gpu            # the same table there, and a Llama-7B-size model by batch

All weights are random, from configs. Peers: a plain batched hook loop (all points of a layer in one batch), captum's
IntegratedGradients per layer, and the `knowledge-neurons` package where it can be imported. Never part of the test suite.
"""

import argparse
import random
import statistics
import time
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from knlib.methods import Scorer
from knlib.models import Model, n_inputs, prepared
from knlib.quadrature import integrate_adaptive, integrate_fixed
from knlib.sites import Site, neuron_vectors

STEPS = 20
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
    """A model type with its options, and the number of tokens of a prompt."""

    name: str
    kind: str
    options: dict
    tokens: int


CASES = [Case("GPT-2 small", "gpt2", GPT2, 12), Case("GPT-2 small", "gpt2", GPT2, 48),
         Case("Llama-style 12 x 512", "llama", LLAMA, 24), Case("BERT base", "bert", BERT, 12),
         Case("BERT base", "bert", BERT, 24)]  # fmt: skip


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
    defaults = {"method": "ig", "objective": "prob", "baseline": "zero", "quadrature": "adaptive", "tolerance": 1e-2,
                "steps": STEPS, "engine": "fast", "seed": 0}  # fmt: skip
    return Scorer(model, list(range(model.n_layers)), defaults | options, None).score(sites)[0]


def injected(model: Model, site: Site, module: torch.nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    """The answer's probability where the module's input at the site's position is each of `vectors`, in one batch."""
    ids = torch.tensor([site.ids] * len(vectors), device=vectors.device)

    def put(module, inputs):
        hidden = inputs[0].clone()
        hidden[:, site.position] = vectors
        return (hidden,)

    handle = module.register_forward_pre_hook(put)
    try:
        return model.network(input_ids=ids).logits[:, site.position].softmax(-1)[:, site.target]
    finally:
        handle.remove()


def hook_loop(model: Model, sites: list[Site]) -> np.ndarray:
    """A plain batched hook loop, as one would write it by hand: a layer's points are one batch, layer after layer."""
    found = []
    for site in sites:
        neurons, scores = neuron_vectors(model, [site.ids], [site.position])[0], []
        steps = torch.arange(1, STEPS + 1, device=neurons.device)[:, None] / STEPS
        for own, module in zip(neurons, model.down_projections, strict=True):
            points = (steps * own).requires_grad_(True)
            gradient = torch.autograd.grad(injected(model, site, module, points).sum(), points)[0]
            scores.append(own * gradient.mean(0))
        found.append(torch.stack(scores))
    return torch.stack(found).cpu().numpy()


def captum(model: Model, sites: list[Site]) -> np.ndarray:
    """captum's IntegratedGradients over the vector that a hook injects, right Riemann points, layer by layer."""
    from captum.attr import IntegratedGradients

    found = []
    for site in sites:
        neurons, scores = neuron_vectors(model, [site.ids], [site.position])[0], []
        for own, module in zip(neurons, model.down_projections, strict=True):
            method = IntegratedGradients(partial(injected, model, site, module))
            scores.append(method.attribute(own[None], n_steps=STEPS, method="riemann_right")[0])
        found.append(torch.stack(scores))
    return torch.stack(found).detach().cpu().numpy()


def knowledge_neurons(model: Model, kind: str):
    """The PyPI package's scores as a function of sites, or the reason why it does not run here.

    Its numbers differ by construction: its own grid, and for GPT-2 neurons before the non-linearity.
    """
    try:
        from knowledge_neurons import KnowledgeNeurons

        device = model.device.type
        tokenizer = SimpleNamespace(mask_token_id=model.tokenizer.mask_token_id)
        package = KnowledgeNeurons(
            model.network, tokenizer, model_type="bert" if kind == "bert" else "gpt", device=device
        )

        def run(sites):
            found = []
            for site in sites:
                tokenizer.encode = lambda text, target=site.target, **options: [target]
                tokenizer.convert_tokens_to_ids = lambda text, target=site.target: target
                tokenizer.decode = lambda ids, **options: "answer"
                ids = torch.tensor([site.ids], device=model.device)
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
                layers = [package.get_scores_for_layer("prompt", "answer", layer, batch_size=STEPS, steps=STEPS,
                                                       encoded_input=dict(inputs)).detach() for layer in range(model.n_layers)]  # fmt: skip
                found.append(torch.stack(layers))
            return torch.stack(found).cpu().numpy()

        run(make_prompts(model, 4, 1))
        return run
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"


def seconds(function, *args, **options) -> tuple[float, np.ndarray]:
    """Processor seconds (on a GPU: wall seconds) of a call, and its result."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = clock()
    result = function(*args, **options)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start, result


def matmul_rate(rows: int, width: int, device: str) -> float:
    """Multiply-adds per second of this machine's float32 matrix product, [rows, width] x [width, 4 width]."""
    left, right = torch.randn(rows, width, device=device), torch.randn(width, 4 * width, device=device)
    best = min(seconds(lambda: [left @ right for _ in range(10)])[0] for _ in range(5))
    return 10 * rows * width * 4 * width / best


def multiply_adds(model: Model, tokens: int, nodes: float) -> float:
    """Of the staircase for one prompt with `nodes` paid points per layer: rows forward and back, head, clean pass."""
    layers = model.n_layers
    layer = sum(p.numel() for p in model.layers[0].parameters() if p.ndim == 2)
    head = model.network.get_output_embeddings().weight.numel()
    per_row = 1 if model.kind == "causal" else tokens
    return (
        2 * nodes * layers * (layers - 1) / 2 * layer * per_row
        + 2 * (nodes * layers + 1) * head
        + tokens * layers * layer
    )


def paid_nodes(model: Model, sites: list[Site]) -> float:
    """Points per (prompt, layer) that the adaptive default computes here."""
    batch = Scorer(model, list(range(model.n_layers)), {"engine": "fast"}, None).make(sites, "prob", 10**6)
    return float(integrate_adaptive(batch, 1e-2).nodes.mean())


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the prompt's largest score; the worst prompt."""
    scale = np.abs(expected).max((1, 2), keepdims=True)
    return float((np.abs(found - expected) / scale).max())


def compare(case: Case, device: str, repeats: int) -> None:
    model = build(case.kind, case.options, device)
    prompts = make_prompts(model, case.tokens, ADAPTIVE_BATCH)
    one = prompts[:1]
    peers = {"captum": captum, "hook loop": hook_loop}
    package = knowledge_neurons(model, case.kind)
    if callable(package):
        peers["knowledge-neurons"] = package
    runs = {name: (function, one, {}) for name, function in peers.items()}
    runs["ours, 20 right points"] = (lambda s, **o: ours(model, s, **o), one, {"quadrature": "riemann"})
    runs[f"ours, adaptive, {ADAPTIVE_BATCH} prompts"] = (lambda s, **o: ours(model, s, **o), prompts, {})
    times, results = {name: [] for name in runs}, {}
    ours(model, one)  # the probe, once per model
    for _ in range(repeats):
        for name, (function, sites, options) in runs.items():
            args = (sites,) if name.startswith("ours") or name == "knowledge-neurons" else (model, sites)
            spent, results[name] = seconds(function, *args, **options)
            times[name].append(spent / len(sites))
    fast = Scorer(model, list(range(model.n_layers)), {"engine": "fast"}, None).make(one, "prob", 10**6)
    exact = integrate_fixed(fast, "gauss", 200)
    truth = np.stack([(fast.difference_neurons(k) * fast.project(k, exact.gradient[:, k])).cpu().numpy()
                      for k in range(model.n_layers)], axis=1)  # fmt: skip
    reference, rate = (
        statistics.median(times["captum"]),
        matmul_rate(240, n_inputs(model.down_projections[0]) // 4, device),
    )
    nodes = {"ours, 20 right points": STEPS, f"ours, adaptive, {ADAPTIVE_BATCH} prompts": paid_nodes(model, prompts)}
    print(f"\n{case.name}, T = {case.tokens}, {model.n_layers} layers; {rate / 1e9:.1f} G multiply-adds/s; {fast.path}")
    print(f"{'':32}{'s/prompt':>10}{'x captum':>10}{'to captum':>11}{'to exact':>10}{'of floor':>10}")
    for name in runs:
        median = statistics.median(times[name])
        line = f"{name:32}{median:10.3f}{reference / median:10.1f}"
        first = results[name][:1]
        if first.shape == truth.shape:
            line += f"{difference(first, results['captum']):11.1e}{difference(first, truth):10.1e}"
        if name in nodes:
            line += f"{multiply_adds(model, case.tokens, nodes[name]) / rate / median:10.0%}"
        print(line, flush=True)
    if not callable(package):
        print(f"knowledge-neurons does not run here: {package}")


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
            spent = statistics.median(seconds(ours, model, sites)[0] for _ in range(3))
            print(f"batch {batch:4}: {batch / spent:8.2f} queries/s", flush=True)
    torch.backends.cuda.matmul.allow_tf32 = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toy", action="store_true", help="tiny models")
    parser.add_argument("--gpu", action="store_true", help="on the GPU, and a Llama-7B-size model by batch size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = "cuda" if options.gpu else "cpu"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} thread(s), medians of {options.repeats}")
    for case in CASES:
        if options.toy:
            case = Case(case.name + " (toy)", case.kind, TOY[case.kind], case.tokens)
        compare(case, device, options.repeats)
    if options.gpu or options.toy:
        by_batch(
            TOY["llama"] if options.toy else LLAMA_7B, device, 24, (1, 2, 8) if options.toy else (1, 4, 8, 16, 32, 64)
        )


if __name__ == "__main__":
    main()
