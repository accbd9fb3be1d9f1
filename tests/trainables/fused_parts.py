"""A plug-in: an optimizer whose step depends on a whole network, a loss, an augmentation."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prunesweep import augmentation, loss, optimizer


class OfWholeNorm(torch.optim.Optimizer):
    """Steps of length `lr` along the gradient of all parameters together."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            moved = [each for each in group["params"] if each.grad is not None]
            norm = torch.stack([each.grad.square().sum() for each in moved]).sum().sqrt()
            for each in moved:
                state = self.state[each]
                state["taken"] = state.get("taken", torch.zeros_like(each)) + each.grad
                each.sub_(group["lr"] * each.grad / norm)


@optimizer
def of_whole_norm(parameters: Any, *, lr: float = 0.1) -> torch.optim.Optimizer:
    return OfWholeNorm(parameters, lr)


@loss
def of_batch(logits: Tensor, labels: Tensor) -> Tensor:
    """Weighs an example by the batch that it is in."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    return losses * losses.detach().softmax(0)


@augmentation
def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 9, images.shape, generator=generator, dtype=torch.uint8)
    return images // 2 + drawn
