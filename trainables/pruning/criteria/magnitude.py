"""Magnitude: a weight's score is its absolute value."""

from torch import Tensor


def magnitude(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """|w| of each prunable weight, in the weight's shape."""
    return {name: weight.abs() for name, weight in weights.items()}
