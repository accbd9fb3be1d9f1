"""Progress: how far a training run has come, and where it is kept between steps."""

from dataclasses import dataclass, field
from typing import Any, NotRequired, Protocol, TypedDict

from torch import Tensor, nn

from trainables.sparsity.masks import Masks

State = dict[str, Tensor]

OptimizerState = dict[int, dict[str, Any]]
"""Of each parameter, by its number from 0, what the optimizer remembers of it, by name; and of each
group of parameters, by its number from -1 down, what it changed of the group's options. Those of
prunesweep's own are tensors, and in no group."""


class EpochRow(TypedDict):
    """The measures of one epoch, as the table `epochs` has them; accuracies are 0…1."""

    epoch: int
    step: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float
    test_accuracy: float
    density: NotRequired[float]
    """Where masks change within the training."""


@dataclass(frozen=True)
class Begun:
    """What was taken of an epoch: its first `steps`, with the sums over the examples `seen`, and
    the `states` of torch's global generators after them, by device."""

    steps: int
    loss: float
    correct: int
    seen: int
    states: State


@dataclass
class Progress:
    """How far a run has come: what a checkpoint holds besides the weights.

    `epoch` are the epochs that are complete, `begun` is of the one after them. `fused` is the
    largest number of networks, this one among them, that were one computation. `seconds` is this
    network's share of the time. `masks` are the kept weights of now, where those have changed.
    `average` is that of the weights, where the recipe has one.
    """

    epoch: int = 0
    begun: Begun | None = None
    rows: list[EpochRow] = field(default_factory=list)
    seconds: float = 0.0
    fused: int = 1
    best: State | None = None
    optimizer: OptimizerState = field(default_factory=dict)
    masks: Masks | None = None
    average: State = field(default_factory=dict)

    @property
    def place(self) -> tuple[int, int]:
        """The complete epochs, and the steps of the one after them."""
        return self.epoch, self.begun.steps if self.begun else 0


class Checkpoint(Protocol):
    """Where a run keeps its state between steps."""

    @property
    def is_due(self) -> bool:
        """Whether the state is to be saved by now; asked between steps."""
        ...

    def load(self, model: nn.Module) -> Progress | None: ...

    def save(self, model: nn.Module, progress: Progress) -> None: ...
