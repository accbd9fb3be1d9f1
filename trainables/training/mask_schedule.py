"""Mask schedules: how the masks of a training change on its way."""

from typing import Protocol

from trainables.sparsity.masks import Masks


class MaskSchedule(Protocol):
    """When the masks of a training change, and to what.

    Steps count from 0 over the whole training. What is said of a step depends on nothing but the
    step, the network as it is then, and its masks, so that a run that is resumed goes the same way.
    """

    @property
    def by_gradient(self) -> bool:
        """Whether the gradients of all weights decide, those of pruned ones too. An update is then
        in the place of a step: what its batch gives moves no weight (RigL, Algorithm 1)."""
        ...

    def is_due(self, step: int) -> bool:
        """Whether the masks change before `step`."""
        ...

    def masks(self, step: int, masks: Masks) -> Masks:
        """Those of `step` on, of the `masks` up to it."""
        ...
