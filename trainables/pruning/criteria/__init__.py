"""Criteria: what a weight is worth. One file each; a criterion maps weights to scores."""

from collections.abc import Callable

from torch import Tensor

from trainables.pruning.criteria.magnitude import magnitude

Criterion = Callable[[dict[str, Tensor]], dict[str, Tensor]]

CRITERIA: dict[str, Criterion] = {
    "magnitude": magnitude,
}

__all__ = ["CRITERIA", "Criterion", "magnitude"]
