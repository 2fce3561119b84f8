"""The head: the answer's log-probability from the last hidden state, in blocks of the vocabulary; the final norm's gain."""

import torch

from .errors import InputError, Literal
from .models import Model
from .sites import Site, set_values, uncached

# Tokens of the vocabulary in a block. On a CPU a block's scores and weights stay in a core's cache: fewer for many rows.
BLOCK, LEAST = 8192, 512
CACHED = 2**16
FEW = 24


class LinearHead:
    """Catches what goes into the output embeddings, and computes the objective from it.

    Exact for heads that end there; those that scale or cap the logits afterwards go through the plain path.
    """

    def __init__(self, model: Model):
        self.module = model.network.get_output_embeddings()
        self.hidden: torch.Tensor | None = None

    def capture(self):
        """A hook handle; while it lives, no row goes through the full head."""

        def hook(module, inputs):
            self.hidden = inputs[0][:, 0]
            return (inputs[0][:0], *inputs[1:])

        return self.module.register_forward_pre_hook(hook)

    def values(self, sites: list[Site], rows: torch.Tensor, objective: str) -> torch.Tensor:
        """As `knlib.sites.answer_values`, [rows], without logits of all rows."""
        weight, bias = self.module.weight, getattr(self.module, "bias", None)
        rows = rows.to(self.hidden.device)
        targets = torch.tensor([s.target for s in sites], device=rows.device)[rows]
        if sites[0].sets:
            few = lambda t: torch.nn.functional.linear(self.hidden, weight[t], None if bias is None else bias[t])  # noqa: E731
            whole = lambda: _AnswerLogProbability.apply(self.hidden, weight, bias, targets)  # noqa: E731
            return set_values(few, whole, sites, rows, objective)
        if objective != "margin":
            return _AnswerLogProbability.apply(self.hidden, weight, bias, targets)
        vectors, offsets = [], []
        for site in sites:
            others = list(site.alternatives)
            vectors.append(weight[site.target] - weight[others].mean(0))
            offsets.append(vectors[-1].new_zeros(()) if bias is None else bias[site.target] - bias[others].mean())
        return (self.hidden * torch.stack(vectors)[rows]).sum(-1) + torch.stack(offsets)[rows]


def _products(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if len(hidden) > FEW:
        return hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)
    # Few rows: with the weights in front they are read faster (CPU).
    scores = (weight @ hidden.T).T
    return scores if bias is None else scores + bias


def _block(rows: int, device: torch.device) -> int:
    """Tokens of the vocabulary that are multiplied with so many rows at a time."""
    return min(BLOCK, max(LEAST, CACHED // rows)) if rows and device.type == "cpu" else BLOCK


class _AnswerLogProbability(torch.autograd.Function):
    """log softmax(h W^T + b)[target] and its gradient W_y - sum_v p_v W_v, with a running maximum over blocks of v."""

    @staticmethod
    def forward(context, hidden, weight, bias, targets):
        wanted = context.needs_input_grad[0]
        top = hidden.new_full((len(hidden), 1), -torch.inf)
        total = hidden.new_zeros(len(hidden), 1)
        mean = torch.zeros_like(hidden) if wanted else None
        block = _block(len(hidden), hidden.device)
        for start in range(0, len(weight), block):
            part = weight[start : start + block]
            scores = _products(hidden, part, None if bias is None else bias[start : start + block])
            highest = torch.maximum(top, scores.amax(-1, keepdim=True))
            shrink = (top - highest).exp_()
            scores.sub_(highest).exp_()
            total.mul_(shrink).add_(scores.sum(-1, keepdim=True))
            if wanted:
                mean.mul_(shrink).addmm_(scores, part)
            top = highest
        own = (hidden * weight[targets]).sum(-1)
        if bias is not None:
            own = own + bias[targets]
        if wanted:
            context.save_for_backward(weight[targets] - mean.div_(total))
        return own - top[:, 0] - total[:, 0].log()

    @staticmethod
    def backward(context, gradient):
        (slope,) = context.saved_tensors
        return gradient[:, None] * slope, None, None, None


@torch.no_grad()
def final_gain(model: Model) -> torch.Tensor:
    """What the norm before the output embedding multiplies each coordinate by, [width]; ones where there is no norm.

    Measured, not read: some norms store the gain less 1. Raises `InputError` for a head with a transform of its own (a
    dense layer, a second norm), where no direction of the stream stands for a token.

    Example
    -------
    >>> final_gain(load_model("atlas-gpt2")).shape
    torch.Size([192])
    """
    seen = _before_head(model)
    if len(seen) > 1 or any(next(module.parameters(recurse=False)).ndim != 1 for module in seen):
        words = ", ".join(type(module).__name__ for module in seen)
        raise InputError(f"model {model.name}, head", found=Literal(f"a transform of its own ({words})"),
                         expected="at most a norm between the last layer and the output embedding")  # fmt: skip
    weight = model.network.get_output_embeddings().weight
    if not seen:
        return weight.new_ones(weight.shape[1])
    # Of mean 0 and so large that the norm's epsilon does not count.
    signs = weight.new_ones(1, weight.shape[1])
    signs[:, ::2] = -1
    norm = seen[0]
    return ((norm(1000 * signs) - norm(0 * signs)) / signs)[0]


def _before_head(model: Model) -> list:
    """Modules with parameters of their own that run between the last layer and the output embedding, in order."""
    head, last = model.network.get_output_embeddings(), model.layers[-1]
    layered = set(last.modules())
    seen: list = []
    handles = [last.register_forward_hook(lambda *_: seen.clear())]
    for module in model.network.modules():
        own = next(module.parameters(recurse=False), None) is not None
        # What holds the head is no step before it, though it may have a parameter (the bias of BERT's).
        if own and module not in layered and head not in module.modules():
            handles.append(module.register_forward_hook(lambda m, *_: seen.append(m)))
    handles.append(head.register_forward_pre_hook(lambda *_: seen.append(None)))
    try:
        ids = torch.tensor([[*model.specials[0], 5, 6]], device=model.device)
        model.network(input_ids=ids, attention_mask=torch.ones_like(ids), **uncached(model))
    finally:
        for handle in handles:
            handle.remove()
    return seen[: seen.index(None)]
