"""GraSP (Wang et al., 2020): what removing a weight does to the gradient's norm."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainables.lazy_torch import Tensor
from trainables.pruning.criterion import criterion
from trainables.pruning.scoring import Batch, Named, Scoring, gradient, loss, summed
from trainables.pruning.scoring_data import Examples


@criterion(data=Examples)
def grasp(
    scoring: Scoring, *, temperature: Annotated[float, Field(gt=0)] = 200.0
) -> dict[str, Tensor]:
    """θ·Hg, in the weight's shape; signed, and the highest are to be kept.

    g is the gradient and H the Hessian, with respect to the kept weights, of the loss summed over
    all examples, logits divided by `temperature`. The loss is a sum over chunks, so Hg is the
    sum of each chunk's Hessian times the whole g. (The original's score is −θ·Hg, whose highest
    are removed.)
    """
    # Here, as it derives classes from torch's, which listing criteria does not import.
    from trainables.pruning.convolution import Convolutions, by_tap

    weights, batches = by_tap(scoring.weights), scoring.batches
    with Convolutions():
        slopes = summed(
            gradient(loss(scoring, weights, batch, temperature), weights) for batch in batches
        )
        direction = {name: slope * scoring.masks[name] for name, slope in slopes.items()}
        product = summed(
            _hessian_product(scoring, weights, batch, direction, temperature) for batch in batches
        )
    return {name: weight * product[name] for name, weight in scoring.weights.items()}


def _hessian_product(
    scoring: Scoring, weights: Named, batch: Batch, direction: Named, temperature: float
) -> Named:
    """The Hessian of the batch's loss times `direction`."""
    slopes = gradient(loss(scoring, weights, batch, temperature), weights, create_graph=True)
    slopes = {name: slope for name, slope in slopes.items() if slope.requires_grad}
    return gradient(slopes, weights, {name: direction[name] for name in slopes})
