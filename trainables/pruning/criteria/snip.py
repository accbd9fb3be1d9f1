"""SNIP (Lee et al., 2019): how much the loss depends on whether a weight is there."""

from __future__ import annotations

from trainables.lazy_torch import Tensor
from trainables.pruning.criterion import criterion
from trainables.pruning.scoring import Scoring, gradient, loss, summed
from trainables.pruning.scoring_data import Examples


@criterion(data=Examples)
def snip(scoring: Scoring) -> dict[str, Tensor]:
    """|∂L/∂m| = |w·∂L/∂w|, L summed over all examples, in the weight's shape (sketching paper §6).

    The absolute value is that of the sum, not a sum of absolute values.
    """
    # Here, as it derives classes from torch's, which listing criteria does not import.
    from trainables.pruning.convolution import Convolutions, by_tap

    weights = by_tap(scoring.weights)
    with Convolutions():
        slopes = summed(
            gradient(loss(scoring, weights, batch), weights) for batch in scoring.batches
        )
    return {name: (weight * slopes[name]).abs() for name, weight in scoring.weights.items()}
