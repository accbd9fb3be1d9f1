"""What a criterion is given to score a network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from trainables.masks import Masks
from trainables.models import prunable

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Scoring:
    """`model` with its prunable weights masked, and what it is scored with.

    `batches` are chunks of inputs [B, C, H, W] and labels [B], of the model's type and on its
    device; criteria that need no data leave them alone. `temperature` divides GraSP's logits.
    """

    model: nn.Module
    masks: Masks
    batches: tuple[Batch, ...] = ()
    generator: torch.Generator = field(default_factory=torch.Generator)
    temperature: float = 1.0

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """The prunable weights, in module order."""
        return prunable(self.model)


@contextmanager
def leaving_gradients(weights: dict[str, nn.Parameter]) -> Iterator[None]:
    """Let gradients of `weights` be asked for in the block, whatever the caller had set."""
    required = {name: weight.requires_grad for name, weight in weights.items()}
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(required[name])
