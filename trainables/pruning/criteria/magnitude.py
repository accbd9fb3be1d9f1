"""Magnitude: a weight's score is its absolute value."""

from __future__ import annotations

from trainables.lazy_torch import Tensor
from trainables.pruning.criterion import Criterion, criterion
from trainables.pruning.scoring import Scoring


@criterion
def magnitude(scoring: Scoring) -> dict[str, Tensor]:
    """|w| of each prunable weight, in the weight's shape."""
    return {name: weight.abs() for name, weight in scoring.weights.items()}


MAGNITUDE: Criterion = vars(magnitude)["config"](name="magnitude")
