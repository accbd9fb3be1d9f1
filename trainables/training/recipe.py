"""The training recipe: everything about one training run that decides its numbers."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainables.config import Config, Listed

NonNegative = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class SGD(Config):
    """Stochastic gradient descent; the defaults are SAP Table 3."""

    name: Literal["sgd"]
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Momentum = 0.9
    nesterov: bool = True
    weight_decay: NonNegative = 5e-4

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum > 0; set nesterov: false")
        return self


class Adam(Config):
    """Adam (Kingma & Ba, 2015) with L2 weight decay."""

    name: Literal["adam"]
    lr: Annotated[float, Field(gt=0)] = 1e-3
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    weight_decay: NonNegative = 0.0


Optimizer = Annotated[SGD | Adam, Field(discriminator="name")]


class Constant(Config):
    name: Literal["constant"]


class Cosine(Config):
    """Cosine annealing to 0 over the epochs of the run, one step an epoch (SAP Table 3)."""

    name: Literal["cosine"]


class StepDecay(Config):
    """Multiply the learning rate by `factor` after each of the `milestones` (epochs)."""

    name: Literal["step"]
    milestones: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Listed]
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1


LearningRateSchedule = Annotated[Constant | Cosine | StepDecay, Field(discriminator="name")]


def learning_rate(
    base: float, schedule: Constant | Cosine | StepDecay, epoch: int, epochs: int
) -> float:
    """The learning rate of `epoch` (0-based) in a run of `epochs`."""
    match schedule:
        case Constant():
            return base
        case Cosine():
            return base * (1 + math.cos(math.pi * epoch / epochs)) / 2
        case StepDecay():
            return base * schedule.factor ** sum(epoch >= m for m in schedule.milestones)


class Augment(Config):
    """Augmentation of training images, drawn anew at every epoch.

    `crop_padding` p > 0 pads p pixels on each side and crops back to the image's size.
    """

    horizontal_flip: bool = False
    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    padding_mode: Literal["reflect", "zeros"] = "reflect"


class Recipe(Config):
    """One training run; the defaults are SAP Table 3.

    `keep` says which epoch's weights a run ends with: `last`, or the best by accuracy on the
    held-out part of the training set (`best_validation`) or on the test set (`best_test`, which
    selects on the test set as SAP's published code does).
    """

    epochs: Annotated[int, Field(gt=0, le=100_000)] = 200
    batch_size: Annotated[int, Field(gt=0)] = 250
    optimizer: Optimizer = SGD(name="sgd")
    lr_schedule: LearningRateSchedule = Cosine(name="cosine")
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = None
    augment: Augment = Augment()
    keep: Literal["last", "best_validation", "best_test"] = "last"
