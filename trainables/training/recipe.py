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
from trainables.training.schedules import SCHEDULE, Constant, Cosine, Schedule


class Recipe(Config):
    """One training run; the defaults are SAP Table 3.

    `keep` says which epoch's weights a run ends with: `last`, or the best by accuracy on the
    held-out part of the training set (`best_validation`) or on the test set (`best_test`, which
    selects on the test set as SAP's published code does). `clip_grad_norm` is the largest norm of
    the gradient: of that of the kept weights, or with `clip_before_mask` of the whole, from which
    the part of pruned weights is taken away afterwards (SAP's published code). `precision` is that
    of the network's computation, in training and where it is evaluated.
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

    @model_validator(mode="after")
    def _refuse_what_means_nothing(self) -> Self:
        if self.clip_before_mask and self.clip_grad_norm is None:
            raise PydanticCustomError(
                "no_norm", "clip_before_mask needs clip_grad_norm, the norm to clip to"
            )
        return self

    def at_last_rate(self) -> Self:
        """The same with the learning rate of the last epoch in every one."""
        optimizer = self.optimizer.model_copy(update={"lr": self.rate(self.epochs - 1)})
        return self.model_copy(
            update={"optimizer": optimizer, "lr_schedule": Constant(name="constant")}
        )

    def rate(self, epoch: int) -> float:
        """The learning rate of `epoch`, from 0. Raises PluginError when the schedule gives none."""
        schedule = self.lr_schedule
        rate = schedule(self.optimizer.lr, epoch, self.epochs)
        if not (isinstance(rate, int | float) and 0 <= rate < math.inf):
            raise PluginError(
                f"{schedule.where()}: the lr_schedule {schedule.name} gives {rate!r} in epoch "
                f"{epoch} of {self.epochs}; it must be a number from 0"
            )
        return rate
