"""A plug-in: networks, an optimizer whose step depends on all of one, a loss, an augmentation."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prunesweep import Shape, augmentation, loss, model, optimizer


class ZeroHead(nn.Module):
    """Mixes its channels, which does not show before the head has learned something."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).softmax(1).mean((2, 3)))


@model
def zero_head(shape: Shape, classes: int) -> nn.Module:
    return ZeroHead(classes)


class ScaledHead(nn.Module):
    """With a weight that is a single number, and is not pruned."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(64, classes)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * self.head(images.flatten(1))

    def prunes(self, name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim > 1


@model
def scaled_head(shape: Shape, classes: int) -> nn.Module:
    return ScaledHead(classes)


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


@loss
def drawn(logits: Tensor, labels: Tensor) -> Tensor:
    """Of noisy logits."""
    return F.cross_entropy(logits + torch.randn_like(logits), labels, reduction="none")


@loss
def of_many(logits: Tensor, labels: Tensor) -> Tensor:
    """Of more examples than two."""
    assert len(labels) > 2
    return F.cross_entropy(logits, labels, reduction="none")


@augmentation
def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 9, images.shape, generator=generator, dtype=torch.uint8)
    return images // 2 + drawn
