"""GraSP (Wang et al., 2020): what removing a weight does to the gradient's norm."""

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.pruning.criteria.scoring import Batch, Scoring, leaving_gradients


def grasp(scoring: Scoring) -> dict[str, Tensor]:
    """θ·Hg, in the weight's shape; signed, and the highest are to be kept.

    g is the gradient and H the Hessian of the loss summed over all examples, logits divided by
    the temperature. The loss is a sum over chunks, so Hg is the sum of each chunk's Hessian
    times the whole g.
    """
    weights = scoring.weights
    parameters = list(weights.values())
    with leaving_gradients(weights):
        total = [torch.zeros_like(weight) for weight in parameters]
        for batch in scoring.batches:
            for sum_, gradient in zip(total, torch.autograd.grad(_loss(scoring, batch), parameters),
                                      strict=True):  # fmt: skip
                sum_ += gradient
        product = [torch.zeros_like(weight) for weight in parameters]
        for batch in scoring.batches:
            chunk = torch.autograd.grad(_loss(scoring, batch), parameters, create_graph=True)
            inner = torch.stack([(g * c).sum() for g, c in zip(total, chunk, strict=True)]).sum()
            for sum_, part in zip(product, torch.autograd.grad(inner, parameters), strict=True):
                sum_ += part
    return {
        name: weight.detach() * hg
        for (name, weight), hg in zip(weights.items(), product, strict=True)
    }


def _loss(scoring: Scoring, batch: Batch) -> Tensor:
    inputs, labels = batch
    logits = scoring.model(inputs) / scoring.temperature
    return F.cross_entropy(logits, labels, reduction="sum")
