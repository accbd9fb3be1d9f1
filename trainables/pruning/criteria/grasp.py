"""GraSP (Wang et al., 2020): what removing a weight does to the gradient's norm."""

import torch
from torch import Tensor

from trainables.pruning.criteria.scoring import Batch, Named, Scoring, gradient, loss, summed


def grasp(scoring: Scoring) -> dict[str, Tensor]:
    """θ·Hg, in the weight's shape; signed, and the highest are to be kept.

    g is the gradient and H the Hessian, with respect to the kept weights, of the loss summed over
    all examples, logits divided by the temperature. The loss is a sum over chunks, so Hg is the
    sum of each chunk's Hessian times the whole g. (The original's score is −θ·Hg, whose highest
    are removed.)
    """
    weights = scoring.leaves
    slopes = summed(gradient(loss(scoring, weights, batch), weights) for batch in scoring.batches)
    direction = {name: slope * scoring.masks[name] for name, slope in slopes.items()}
    product = summed(
        _hessian_product(scoring, weights, batch, direction) for batch in scoring.batches
    )
    return {name: weight.detach() * product[name] for name, weight in weights.items()}


def _hessian_product(scoring: Scoring, weights: Named, batch: Batch, direction: Named) -> Named:
    """The Hessian of the batch's loss times `direction`, as the gradient of an inner product."""
    slopes = gradient(loss(scoring, weights, batch), weights, create_graph=True)
    inner = [torch.vdot(direction[name].flatten(), slopes[name].flatten()) for name in weights]
    return gradient(torch.stack(inner).sum(), weights)
