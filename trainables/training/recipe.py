"""The training recipe: everything about one training run that decides its numbers."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from trainables.config import Choice, Config
from trainables.plugins.entry import Named, PluginError
from trainables.training.augmentation import AUGMENTATION, Augmentation, FlipAndCrop
from trainables.training.losses import CROSS_ENTROPY, LOSS, Loss
from trainables.training.optimizers import OPTIMIZER, SGD, Optimizer
from trainables.training.precision import Precision
from trainables.training.schedules import SCHEDULE, Cosine, Interval, Last, Schedule


class Recipe(Config):
    """One training run; the defaults are SAP Table 3.

    `keep` says which epoch's weights a run ends with: `last`, or the best by accuracy on the
    held-out part of the training set (`best_validation`) or on the test set (`best_test`, which
    selects on the test set as SAP's published code does). `clip_grad_norm` is the largest norm of
    the gradient: of that of the kept weights, or with `clip_before_mask` of the whole, from which
    the part of pruned weights is taken away afterwards (SAP's published code). `precision` is that
    of the network's computation, in training and where it is evaluated.

    A step is one of the optimizer, by the mean gradient of the examples in `accumulate` batches.
    `lr_interval` says what the schedule counts, epochs or steps; its rates are reached on a line
    from 0 in the first `warmup_epochs` or `warmup_steps` (Goyal et al., 2017, §2.2), a step at a
    time. `cutout` is the side, in pixels, of the square that is left out of each training image
    (DeVries & Taylor, 2017), `mixup` the α of Beta(α, α), by which the examples of a batch are
    mixed (Zhang et al., 2018). With `ema`, the decay, what a training comes to is the exponential
    moving average of its weights: that is evaluated, kept, and pruned (Polyak & Juditsky, 1992).
    """

    epochs: Annotated[int, Field(gt=0, le=100_000)] = 200
    batch_size: Annotated[int, Field(gt=0)] = 250
    optimizer: Annotated[Optimizer, Named(OPTIMIZER)] = SGD(name="sgd")
    lr_schedule: Annotated[Schedule, Named(SCHEDULE)] = Cosine(name="cosine")
    loss: Annotated[Loss, Named(LOSS)] = CROSS_ENTROPY
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    clip_before_mask: bool = False
    augment: Annotated[Augmentation, Named(AUGMENTATION)] = FlipAndCrop()
    keep: Annotated[Literal["last", "best_validation", "best_test"], Choice("keep")] = "last"
    precision: Annotated[Precision, Choice("precision")] = "float32"
    lr_interval: Annotated[Interval, Choice("lr_interval")] = "epoch"
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    accumulate: Annotated[int, Field(gt=0)] = 1
    cutout: Annotated[int, Field(ge=0)] = 0
    mixup: Annotated[float, Field(ge=0, le=1000)] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _refuse_what_means_nothing(self) -> Self:
        if self.clip_before_mask and self.clip_grad_norm is None:
            raise PydanticCustomError(
                "no_norm", "clip_before_mask needs clip_grad_norm, the norm to clip to"
            )
        if self.warmup_epochs and self.warmup_steps:
            raise PydanticCustomError(
                "two_warmups", "warmup_epochs and warmup_steps say the same; set one of them"
            )
        return self

    def at_last_rate(self) -> Self:
        """The same with the learning rate of the last epoch, or step, all the time."""
        last = Last(of=self.lr_schedule)
        return self.model_copy(update={"lr_schedule": last, "warmup_epochs": 0, "warmup_steps": 0})

    def rate(self, epoch: int, step: int = 0, steps: int = 1) -> float:
        """The learning rate of a `step` of `epoch`, both from 0, of as many `steps` in each.

        Raises PluginError when the schedule gives none.
        """
        done = epoch * steps + step
        at, end = (epoch, self.epochs)
        if self.lr_interval == "step":
            at, end = done, self.epochs * steps
        rate, schedule = self.lr_schedule(self.optimizer.lr, at, end), self.lr_schedule
        if not (isinstance(rate, int | float) and 0 <= rate < math.inf):
            raise PluginError(
                f"{schedule.where()}: the lr_schedule {schedule.name} gives {rate!r} in "
                f"{self.lr_interval} {at} of {end}; it must be a number from 0"
            )
        warmup = self.warmup_steps or self.warmup_epochs * steps
        return rate * (done + 1) / warmup if done < warmup else rate
