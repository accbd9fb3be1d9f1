"""Optimizers by name, as a recipe has them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainables.lazy_torch import nn, torch
from trainables.plugins.entry import Entry, Kind, PluginError, described
from trainables.training.eager import eager

NonNegative = Annotated[float, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Entry):
    """An optimizer by name; called with the parameters, it gives one that trains them.

    `lr` is the learning rate that the schedule starts from.
    """

    keeps_zeros: ClassVar[bool] = False
    """Whether a zero weight whose gradient is always zero stays zero by the arithmetic alone; each
    class says it for itself."""

    elementwise: ClassVar[bool] = False
    """Whether each number is updated by its own gradients alone, whatever tensor it is in, so that
    networks can be trained as one computation; each class says it for itself."""

    capturable: ClassVar[bool] = False
    """Whether a step is nothing but operations on the device, so that it can be replayed; each
    class says it for itself."""

    lr: Annotated[float, Field(gt=0)]

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return self.call(parameters)

    def over(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of all parameters. Raises PluginError when it is none."""
        found = self([*parameters])
        if not isinstance(found, torch.optim.Optimizer):
            raise PluginError(
                f"{self.where()}: the optimizer {self.name} gives {described(found)}, no "
                "torch.optim.Optimizer"
            )
        return found


def _checked(config: type[Any]) -> None:
    # What derives from an optimizer that keeps zeros may move them.
    config.keeps_zeros = vars(config).get("keeps_zeros", False)
    config.elementwise = vars(config).get("elementwise", False)
    config.capturable = vars(config).get("capturable", False)
    if config.function is not None and "lr" not in config.option_names:
        raise PluginError(
            f"{config.where()}: the optimizer {config.entry_name} has no option lr, which the "
            "learning rate schedule needs"
        )


OPTIMIZER = Kind("optimizer", Optimizer, ("parameters",), (__name__,), "sgd", check=_checked)
optimizer = OPTIMIZER.register


@optimizer
class SGD(Optimizer):
    """Stochastic gradient descent; the defaults are SAP Table 3."""

    keeps_zeros = True
    elementwise = True
    capturable = True

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

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return eager(torch.optim.SGD)(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,
        )


@optimizer
class Adam(Optimizer):
    """Adam (Kingma & Ba, 2015) with L2 weight decay."""

    keeps_zeros = True
    elementwise = True
    capturable = True

    name: Literal["adam"]
    lr: Annotated[float, Field(gt=0)] = 1e-3
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    weight_decay: NonNegative = 0.0

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return eager(torch.optim.Adam)(
            parameters,
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            fused=True,
        )


@optimizer
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019, Algorithm 2): each step takes
    lr · `weight_decay` of the weights away, whatever their gradients are."""

    keeps_zeros = True
    elementwise = True
    capturable = True

    name: Literal["adamw"]
    lr: Annotated[float, Field(gt=0)] = 1e-3
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    weight_decay: NonNegative = 1e-2

    def __call__(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return eager(torch.optim.AdamW)(
            parameters,
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            fused=True,
        )
