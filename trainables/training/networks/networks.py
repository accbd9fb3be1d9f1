"""What training asks of the networks that it steps."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.sparsity.masks import Masks
from trainables.training.losses import Loss
from trainables.training.optimizers import Optimizer
from trainables.training.progress import OptimizerState


class Networks(Protocol):
    """One network, or K of one architecture as one computation.

    With K, what belongs to one of them has a dimension for it: images [B, K, C, H, W], labels
    [B, K], logits [B, K, classes], losses [K], and a parameter is [K, …]. With one, there is none.
    """

    @property
    def parameters(self) -> Sequence[nn.Parameter]: ...

    @property
    def averaged(self) -> Mapping[str, Tensor]:
        """By name, what an average is made of: see `averaged_names`."""
        ...

    def of_each(self, tensor: Tensor) -> Sequence[Tensor]:
        """The part that each network has of a tensor that is as a parameter is."""
        ...

    def train(self) -> None:
        """Be as in training, not as in evaluation."""
        ...

    def logits(self, images: Tensor) -> Tensor: ...

    def losses(self, loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of the batch, of each network."""
        ...

    def masked(self, masks: Sequence[Masks | None]) -> list[tuple[nn.Parameter, Tensor]]:
        """Each parameter of which something is pruned, and its mask as bool; pruned weights are
        set to zero."""
        ...

    def clip(self, largest: float) -> None:
        """Scale the gradient of each network to a norm of at most `largest`."""
        ...

    def optimizer(self, config: Optimizer) -> torch.optim.Optimizer:
        """One that takes the step of all parameters together."""
        ...

    def states(self, optimizer: torch.optim.Optimizer) -> list[OptimizerState]:
        """What the optimizer remembers of each network."""
        ...

    def load(self, optimizer: torch.optim.Optimizer, states: Sequence[OptimizerState]) -> None:
        """Let the optimizer remember of each network what it did."""
        ...
