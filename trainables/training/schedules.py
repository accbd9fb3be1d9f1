"""Learning rate schedules by name, as a recipe has them."""

import math
from typing import Annotated, Literal

from pydantic import Field

from trainables.plugins.entry import Entry, Kind
from trainables.training.augmentation import Unfit

Interval = Literal["epoch", "step"]
"""By what a schedule counts."""


class Schedule(Entry):
    """A schedule by name; called with the optimizer's `lr`, an epoch (from 0) and the number of
    epochs, it gives the learning rate of that epoch. Where a recipe has it count steps, it is
    called with a step and the number of all steps in their place."""

    def __call__(self, lr: float, epoch: int, epochs: int) -> float:
        return self.call(lr, epoch, epochs)

    def require_fit(self, epochs: int, interval: Interval = "epoch") -> None:
        """Raises Unfit when it cannot mean what it says in so many epochs, or steps."""


SCHEDULE = Kind("lr_schedule", Schedule, ("lr", "epoch", "epochs"), (__name__,), "cosine")
lr_schedule = SCHEDULE.register


@lr_schedule
class Constant(Schedule):
    """The optimizer's learning rate, all the time."""

    name: Literal["constant"]

    def __call__(self, lr: float, epoch: int, epochs: int) -> float:
        return lr


@lr_schedule
class Cosine(Schedule):
    """Cosine annealing to 0 over the run (Loshchilov & Hutter, 2017): by default one change an
    epoch (SAP Table 3)."""

    name: Literal["cosine"]

    def __call__(self, lr: float, epoch: int, epochs: int) -> float:
        return lr * (1 + math.cos(math.pi * epoch / epochs)) / 2


@lr_schedule
class StepDecay(Schedule):
    """Multiply the learning rate by `factor` after each of the `milestones` (epochs or steps)."""

    name: Literal["step"]
    milestones: tuple[Annotated[int, Field(gt=0)], ...]
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1

    def __call__(self, lr: float, epoch: int, epochs: int) -> float:
        return lr * self.factor ** sum(epoch >= m for m in self.milestones)

    def require_fit(self, epochs: int, interval: Interval = "epoch") -> None:
        late = [m for m in self.milestones if m >= epochs]
        if late:
            raise Unfit(
                f"{', '.join(map(str, late))} would never be reached: there are {epochs} "
                f"{interval}s; leave it out, or train longer",
                "milestones",
            )


class Last(Schedule):
    """The last learning rate of another schedule, all the time. No sweep file names it."""

    name: Literal["last"] = "last"
    of: Schedule

    def __call__(self, lr: float, epoch: int, epochs: int) -> float:
        return self.of(lr, epochs - 1, epochs)
