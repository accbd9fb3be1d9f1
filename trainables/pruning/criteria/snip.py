"""SNIP (Lee et al., 2019): how much the loss depends on whether a weight is there."""

from __future__ import annotations

from trainables.lazy_torch import Tensor
from trainables.pruning.criterion import criterion
from trainables.pruning.scoring import Named, Scoring, gradient, loss, summed
from trainables.pruning.scoring_data import Examples


@criterion(data=Examples)
def snip(scoring: Scoring) -> dict[str, Tensor]:
    """|∂L/∂m| = |w·∂L/∂w|, L summed over all examples, in the weight's shape (sketching paper §6).

    The absolute value is that of the sum, not a sum of absolute values.
    """
    slopes = loss_slopes(scoring, scoring.weights)
    return {name: (weight * slopes[name]).abs() for name, weight in scoring.weights.items()}


def loss_slopes(scoring: Scoring, weights: Named) -> Named:
    """∂L/∂w at `weights`, L summed over all examples."""
    # Here, as it derives classes from torch's, which listing criteria does not import.
    from trainables.pruning.convolution import Convolutions, by_tap

    leaves = by_tap(weights)
    with Convolutions():
        return summed(gradient(loss(scoring, leaves, batch), leaves) for batch in scoring.batches)
