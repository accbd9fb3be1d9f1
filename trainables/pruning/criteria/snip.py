"""SNIP (Lee et al., 2019): how much the loss depends on whether a weight is there."""

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.pruning.criteria.scoring import Scoring, leaving_gradients


def snip(scoring: Scoring) -> dict[str, Tensor]:
    """|∂L/∂m| = |w·∂L/∂w|, L summed over all examples, in the weight's shape."""
    weights = scoring.weights
    gradients = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with leaving_gradients(weights):
        for inputs, labels in scoring.batches:
            loss = F.cross_entropy(scoring.model(inputs), labels, reduction="sum")
            chunk = torch.autograd.grad(loss, list(weights.values()))
            for total, gradient in zip(gradients.values(), chunk, strict=True):
                total += gradient
    return {name: (weight.detach() * gradients[name]).abs() for name, weight in weights.items()}
