"""Pruning within a training: the mask changes while the network is trained, once, from w_init."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from trainables.pruning.config import Pruning
from trainables.pruning.method import Method, Network, Step
from trainables.pruning.parts import ToDensity
from trainables.sparsity.masks import Masks
from trainables.training.augmentation import Unfit

if TYPE_CHECKING:
    from trainables.training.recipe import Recipe

Share = Annotated[float, Field(ge=0, le=1)]
Every = Annotated[int, Field(gt=0)]


def steps_in(share: float, steps: int) -> int:
    """The whole steps of a share, exact for the decimal number the user wrote."""
    return int(Fraction(repr(share)) * steps)


class WithinTraining(ToDensity, Method):
    """The base of methods that change the mask while the network is trained, every `every` steps
    up to the share `end` of the training. Called, they give the masks that it begins with."""

    changes_masks = True
    by_gradient: ClassVar[bool] = False
    """See `MaskSchedule.by_gradient`."""

    end: Annotated[float, Field(gt=0, le=1)] = 0.75
    every: Every = 100

    def updates(self, steps: int) -> range:
        """The steps before which the mask changes, in a training of so many."""
        raise NotImplementedError

    def updated(self, network: Network, step: int, steps: int) -> Masks:
        """The masks of `step` on, of those of `network`."""
        raise NotImplementedError

    def steps(self, prune: Pruning) -> tuple[Step, ...]:
        """One, which needs no trunk."""
        return (Step(1, "prune", self.identity(prune), density=self.density, scored="init"),)

    def mask_schedule(self, network: Network, steps: int) -> Updates:
        return Updates(self, network, steps, self.updates(steps))

    def require_time(self, recipe: Recipe, steps: int) -> None:
        if recipe.keep != "last":
            raise Unfit(
                f"{self.name} changes the mask within a training, and the weights of another epoch "
                f"than the last may have another; set train.keep: last instead of {recipe.keep}",
                "name",
            )
        if not self.updates(steps):
            raise Unfit(
                f"a training of {steps} steps leaves {self.name} no room to change the mask every "
                f"{self.every} of them, up to its share end of {self.end:g}; choose a smaller "
                "every, or train longer",
                "every",
            )


@dataclass(frozen=True)
class Updates:
    """The `MaskSchedule` of a method, for a training of `network` of so many `steps`."""

    method: WithinTraining
    network: Network
    steps: int
    at: range

    @property
    def by_gradient(self) -> bool:
        return self.method.by_gradient

    def is_due(self, step: int) -> bool:
        return step in self.at

    def masks(self, step: int, masks: Masks) -> Masks:
        # A checkpoint has them in any order.
        masks = {name: masks[name] for name in self.network.weights}
        return self.method.updated(replace(self.network, masks=masks), step, self.steps)
