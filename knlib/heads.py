"""The answer's log-probability from the last hidden state, in blocks of the vocabulary."""

import torch

from .models import Model
from .sites import Site

BLOCK = 8192


class LinearHead:
    """Catches what goes into the output embeddings, and computes the objective from it.

    Exact for heads that end there; those that scale or cap the logits afterwards go through the plain path.
    """

    def __init__(self, model: Model):
        self.module = model.network.get_output_embeddings()
        self.hidden: torch.Tensor | None = None

    def capture(self):
        """A hook handle; while it lives, only one row goes through the full head."""

        def hook(module, inputs):
            self.hidden = inputs[0][:, 0]
            return (inputs[0][:1].detach(), *inputs[1:])

        return self.module.register_forward_pre_hook(hook)

    def values(self, sites: list[Site], rows: torch.Tensor, objective: str) -> torch.Tensor:
        """As `knlib.sites.answer_values`, [rows], without logits of all rows."""
        weight, bias = self.module.weight, getattr(self.module, "bias", None)
        rows = rows.to(self.hidden.device)
        if objective != "margin":
            targets = torch.tensor([s.target for s in sites], device=rows.device)[rows]
            return _AnswerLogProbability.apply(self.hidden, weight, bias, targets)
        vectors, offsets = [], []
        for site in sites:
            others = list(site.alternatives)
            vectors.append(weight[site.target] - weight[others].mean(0))
            offsets.append(vectors[-1].new_zeros(()) if bias is None else bias[site.target] - bias[others].mean())
        return (self.hidden * torch.stack(vectors)[rows]).sum(-1) + torch.stack(offsets)[rows]


class _AnswerLogProbability(torch.autograd.Function):
    """log softmax(h W^T + b)[target] and its gradient W_y - sum_v p_v W_v, with a running maximum over blocks of v."""

    @staticmethod
    def forward(context, hidden, weight, bias, targets):
        wanted = context.needs_input_grad[0]
        top = hidden.new_full((len(hidden), 1), -torch.inf)
        total = hidden.new_zeros(len(hidden), 1)
        mean = torch.zeros_like(hidden) if wanted else None
        for start in range(0, len(weight), BLOCK):
            part = weight[start : start + BLOCK]
            scores = hidden @ part.T if bias is None else torch.addmm(bias[start : start + BLOCK], hidden, part.T)
            highest = torch.maximum(top, scores.amax(-1, keepdim=True))
            shrink = (top - highest).exp()
            scores = scores.sub_(highest).exp_()
            total = total * shrink + scores.sum(-1, keepdim=True)
            if wanted:
                mean = torch.addmm(mean * shrink, scores, part)
            top = highest
        own = (hidden * weight[targets]).sum(-1)
        if bias is not None:
            own = own + bias[targets]
        if wanted:
            context.save_for_backward(weight[targets] - mean / total)
        return own - top[:, 0] - total[:, 0].log()

    @staticmethod
    def backward(context, gradient):
        (slope,) = context.saved_tensors
        return gradient[:, None] * slope, None, None, None
