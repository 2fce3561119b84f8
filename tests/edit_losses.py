"""The loss that edits are trained on, from whole rows: what ours, from kept states, must be."""

import torch


def examples_loss(model, examples) -> torch.Tensor:
    """Mean -log p over `answer_examples`, in nats."""
    where, targets, share = examples
    found = model.logits_at(*where).float().log_softmax(-1)
    return -(found.gather(1, targets[:, None])[:, 0] * share).sum()
