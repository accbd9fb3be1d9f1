"""RigL: rigging the lottery."""

from __future__ import annotations

from typing import Literal

from trainables.lazy_torch import Tensor, torch
from trainables.models import prunable
from trainables.pruning.decorator import method
from trainables.pruning.drop_and_grow import DropAndGrow
from trainables.pruning.method import Network
from trainables.pruning.parts import Density


@method
class RigL(DropAndGrow):
    """Train sparse, drop the smallest weights of each layer now and then, and grow as many where
    the gradient of the loss is largest (Evci et al., 2020)."""

    by_gradient = True

    name: Literal["rigl"]
    density: Density

    def growth(self, network: Network, step: int) -> dict[str, Tensor]:
        """|∂L/∂w| of the update's batch, zero of what the loss does not depend on."""
        return {
            name: torch.zeros_like(weight) if weight.grad is None else weight.grad.abs()
            for name, weight in prunable(network.model).items()
        }
