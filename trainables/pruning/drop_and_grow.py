"""Drop and grow: sparse from the start, with as many weights in each layer all the time."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from trainables.config import Choice, canonical, canonical_json
from trainables.lazy_torch import Tensor, torch
from trainables.pruning.amount import kept_count
from trainables.pruning.config import Pruning
from trainables.pruning.layer_densities import kept_by_layer
from trainables.pruning.method import Network
from trainables.pruning.selection import keep_highest, keep_highest_of_each
from trainables.pruning.within_training import WithinTraining, steps_in
from trainables.sparsity.masks import Masks


class DropAndGrow(WithinTraining):
    """The base of methods that begin with a random mask and, at every update, drop the smallest
    kept weights of each layer and grow as many where they say.

    `fraction` is the share that goes at the first update; it falls as half a cosine, to zero at the
    share `end` of the training. `distribution` says how many weights each layer has.
    """

    global_scope = True

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.3
    distribution: Annotated[Literal["erk", "uniform"], Choice("distribution")] = "erk"

    def identity(self, prune: Pruning, *without: str) -> str:
        """Nothing of `prune`, none of which it has a use for."""
        return canonical_json({"method": canonical(self)})

    def growth(self, network: Network, step: int) -> dict[str, Tensor]:
        """For each weight, in its shape, what it is worth to grow it; the highest grow."""
        raise NotImplementedError

    def updates(self, steps: int) -> range:
        """Every `every` steps before `end`, the very first among them, as in the code of RigL's
        authors; none where that would be the only one."""
        found = range(0, steps_in(self.end, steps), self.every)
        return found if len(found) > 1 else range(0)

    def dropped(self, kept: int, step: int, steps: int) -> int:
        """How many of the `kept` weights of a layer go: ⌊α/2·(1 + cos(πt/T))·kept⌋."""
        annealed = (1 + math.cos(math.pi * step / steps_in(self.end, steps))) / 2
        return int(Fraction(repr(self.fraction)) * Fraction(annealed) * kept)

    def __call__(self, network: Network) -> Masks:
        """Random masks."""
        weights = network.weights
        total = kept_count(self.density, sum(weight.numel() for weight in weights.values()))
        counts = kept_by_layer(self.distribution, network.masks, total)
        drawn = uniform(weights, network.stream("first masks"))
        return keep_highest_of_each(drawn, network.masks, counts)

    def updated(self, network: Network, step: int, steps: int) -> Masks:
        """As many weights of each layer are kept as before.

        What has just been dropped may grow at once, and stays then as it was, as in the code of
        RigL's authors.
        """
        weights, growth, found = network.weights, self.growth(network, step), Masks()
        for name, mask in network.masks.items():
            kept = int(mask.count_nonzero())
            goes = self.dropped(kept, step, steps)
            stay = _highest(weights[name].abs(), mask, kept - goes)
            found[name] = stay | _highest(growth[name], ~stay, goes)
        return found


def _highest(scores: Tensor, masks: Tensor, count: int) -> Tensor:
    # Where a training diverges there is no order, and counts are exact all the same.
    return keep_highest({"": scores.nan_to_num()}, {"": masks}, count)[""]


def uniform(like: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Numbers drawn from [0, 1), in the shape of each tensor and on its device."""
    return {
        name: torch.rand(each.shape, generator=generator, dtype=torch.float64).to(each.device)
        for name, each in like.items()
    }
