"""What attribution is timed against: a hook loop by hand, captum, and the `knowledge-neurons` package."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import torch

from knlib.models import Model
from knlib.sites import Site, neuron_vectors

STEPS = 20


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


def hook_loop(model: Model, sites: list[Site], steps: int = STEPS, *, changes: list | None = None) -> np.ndarray:
    """A plain batched hook loop, as one would write it by hand: a layer's points are one batch, layer after layer.

    `changes` gets by how much the probability changes from neurons at 0, site after site and layer after layer: with it the loop
    knows how complete its scores are, which ours always says.
    """
    found, least = [], 1 if changes is None else 0
    for site in sites:
        neurons, scores = neuron_vectors(model, [site.ids], [site.position])[0], []
        factors = torch.arange(least, steps + 1, device=neurons.device)[:, None] / steps
        for own, module in zip(neurons, model.down_projections, strict=True):
            points = (factors * own).requires_grad_(True)
            values = injected(model, site, module, points)
            gradient = torch.autograd.grad(values.sum(), points)[0]
            scores.append(own * gradient[-steps:].mean(0))
            if changes is not None:
                changes.append(float((values[-1] - values[0]).detach()))
        found.append(torch.stack(scores))
    return torch.stack(found).cpu().numpy()


def captum(model: Model):
    """captum's IntegratedGradients over the vector that a hook injects, right Riemann points, layer by layer."""
    from captum.attr import IntegratedGradients

    def run(sites):
        found = []
        for site in sites:
            neurons, scores = neuron_vectors(model, [site.ids], [site.position])[0], []
            for own, module in zip(neurons, model.down_projections, strict=True):
                method = IntegratedGradients(partial(injected, model, site, module))
                scores.append(method.attribute(own[None], n_steps=STEPS, method="riemann_right")[0])
            found.append(torch.stack(scores))
        return torch.stack(found).detach().cpu().numpy()

    return run


def knowledge_neurons(model: Model):
    """The PyPI package's scores as a function of sites.

    Its numbers differ by construction: its own grid, and for GPT-2 neurons before the non-linearity.
    """
    from knowledge_neurons import KnowledgeNeurons

    tokenizer = SimpleNamespace(mask_token_id=model.tokenizer.mask_token_id)
    kind = "bert" if model.kind == "masked" else "gpt"
    package = KnowledgeNeurons(model.network, tokenizer, model_type=kind, device=model.device.type)

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

    return run


def peers_of(model: Model, trial: list[Site]) -> tuple[dict, dict]:
    """The peers that run here, by name, and why the others do not. Each is tried on the given sites."""
    makers = {
        "captum": captum,
        "hook loop": lambda model: partial(hook_loop, model),
        "knowledge-neurons": knowledge_neurons,
    }
    found, missing = {}, {}
    for name, make in makers.items():
        try:
            run = make(model)
            run(trial)
            found[name] = run
        except Exception as error:  # a peer that fails is a line of the report, whatever it raises
            missing[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:80]}"
    return found, missing
