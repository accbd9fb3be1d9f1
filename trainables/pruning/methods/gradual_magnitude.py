"""Gradual magnitude pruning: the density falls while the network is trained."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal, Self

from pydantic import model_validator

from trainables.pruning.decorator import method
from trainables.pruning.method import Network
from trainables.pruning.parts import Density
from trainables.pruning.scope import grouped, ungrouped
from trainables.pruning.selection import drop_lowest
from trainables.pruning.within_training import Share, WithinTraining, steps_in
from trainables.sparsity.masks import Masks


@method
class GradualMagnitude(WithinTraining):
    """Prune the smallest weights while the network is trained, fast at first (Zhu & Gupta, 2017).

    The sparsity rises from 0 at the share `begin` of the training to its last value at `end`, at
    every `every` steps: s_t = s·(1 − (1 − (t − t_0)/(n·Δt))³).
    """

    name: Literal["gradual_magnitude"]
    density: Density
    begin: Share = 0.0

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Self:
        if self.begin >= self.end:
            raise ValueError(f"begin = {self.begin:g} must be below end = {self.end:g}")
        return self

    def __call__(self, network: Network) -> Masks:
        """Nothing is pruned yet."""
        return network.masks

    def updates(self, steps: int) -> range:
        """n of them, at t_0 + Δt, …, t_0 + n·Δt; the last one has a step after it."""
        first = steps_in(self.begin, steps)
        last = min(steps_in(self.end, steps), steps - 1)
        return range(first + self.every, last + 1, self.every)

    def kept(self, total: int, step: int, steps: int) -> int:
        """How many of `total` weights are kept from an update on: N − ⌊s_t·N⌋, in exact
        arithmetic."""
        updates = self.updates(steps)
        left = 1 - Fraction(updates.index(step) + 1, len(updates))
        return total - int((1 - Fraction(repr(self.density))) * (1 - left**3) * total)

    def updated(self, network: Network, step: int, steps: int) -> Masks:
        """In each group of the scope; a weight that is pruned stays so."""
        scope, magnitudes = network.scope, {n: w.abs() for n, w in network.weights.items()}
        rows = zip(grouped(magnitudes, scope), grouped(network.masks, scope), strict=True)
        pruned = [
            drop_lowest(each, kept, kept.sum(dim=1) - self.kept(each.shape[1], step, steps))
            for each, kept in rows
        ]
        return ungrouped(pruned, network.masks, scope)
