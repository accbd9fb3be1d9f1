"""Interpolation: the straight line between two networks' weights, and the barrier on it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from trainables.lazy_torch import torch

if TYPE_CHECKING:
    from trainables.training.progress import State


def alphas(points: int) -> list[float]:
    """`points` values from 0 to 1, evenly spaced, both ends among them."""
    return [number / (points - 1) for number in range(points)]


def between(one: State, other: State, alpha: float, names: Collection[str] | None = None) -> State:
    """(1 − α)·`one` + α·`other`, of the tensors `names` alone where they are given; the rest, and
    what is no floating-point number, is that of `one`. At 0 and 1 they are those of the ends, bit
    for bit, and so is at any α what both have in common."""
    chosen = one.keys() if names is None else names
    found = {**one}
    for name in chosen:
        if torch.is_floating_point(one[name]):
            found[name] = _between(one[name], other[name], alpha)
    return found


def _between(one: torch.Tensor, other: torch.Tensor, alpha: float) -> torch.Tensor:
    if alpha in (0, 1):
        return other if alpha else one
    # In float64, so that what is rounded is the result alone.
    return torch.lerp(one.double(), other.double(), alpha).to(one.dtype)


def barrier(values: Sequence[float]) -> float:
    """How far the largest of `values`, evenly spaced along the line, is above the mean of the two
    ends: Frankle et al. (2020), Section 2."""
    return _largest(values) - (values[0] + values[-1]) / 2


def barrier_above_line(values: Sequence[float]) -> float:
    """How far `values` are at most above the straight line between the values of the two ends; 0
    where they are nowhere above it."""
    first, last = values[0], values[-1]
    line = (first + alpha * (last - first) for alpha in alphas(len(values)))
    inner = list(zip(values, line, strict=True))[1:-1]
    return _largest([0.0, *(value - at for value, at in inner)])


def _largest(values: Sequence[float]) -> float:
    # Of what is no number, `max` makes one thing or another, as it happens to come.
    return math.nan if any(map(math.isnan, values)) else max(values)
