"""Layer densities: how many weights each layer keeps, where a density is shared out over layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import prod
from typing import Literal

from trainables.pruning.amount import kept_count

Distribution = Literal["erk", "uniform"]


def layer_counts(
    shapes: Mapping[str, Sequence[int]], density: float, distribution: Distribution
) -> dict[str, int]:
    """How many weights each layer keeps, by its name; together exactly those of the density.

    *uniform*: every layer the same share. *erk* (Erdős–Rényi kernel, RigL §3): in proportion to
    the sum of the layer's dimensions, such as inputs + outputs + height + width. A layer that would
    keep more than it has is dense, and the others share the rest.
    """
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    total = kept_count(density, sum(sizes.values()))
    if distribution == "uniform":
        return _whole(_shared(total, sizes, sizes))
    return _whole(_shared(total, {name: sum(shape) for name, shape in shapes.items()}, sizes))


def _shared(
    total: int, weights: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, Fraction]:
    """`total` in proportion to the weights, and to each at most its size."""
    shares: dict[str, Fraction] = {}
    open_ = dict(weights)
    while True:
        left, sum_ = total - sum(shares.values()), sum(open_.values())
        found = {name: Fraction(left * weight) / sum_ for name, weight in open_.items()}
        full = [name for name, share in found.items() if share > sizes[name]]
        if not full:
            return {name: (shares | found)[name] for name in sizes}
        for name in full:
            shares[name] = Fraction(sizes[name])
            del open_[name]


def _whole(shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Rounded so that the sum stays: up where most is cut off, the earlier one where that ties."""
    counts = {name: int(share) for name, share in shares.items()}
    missing = int(sum(shares.values())) - sum(counts.values())
    by_rest = sorted(shares, key=lambda name: counts[name] - shares[name])
    return counts | {name: counts[name] + 1 for name in by_rest[:missing]}
