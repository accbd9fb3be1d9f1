"""Training steps of networks, with their masks and optimizers."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.measures.masks import Masks
from trainables.training.networks import Networks
from trainables.training.progress import OptimizerState
from trainables.training.recipe import Recipe


@dataclass
class Totals:
    """Sums over the steps of an epoch, on the device: no step waits for them.

    `loss` and `correct` are of each network where there are several. `seen` are the examples.
    """

    loss: Tensor
    correct: Tensor
    seen: int = 0

    @classmethod
    def like(cls, labels: Tensor) -> "Totals":
        """Nothing yet, for batches with labels [B], or [B, K] of K networks."""
        shape = labels.shape[1:]
        return cls(
            torch.zeros(shape, dtype=torch.float64, device=labels.device),
            torch.zeros(shape, dtype=torch.int64, device=labels.device),
        )

    @torch.no_grad()
    def add(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.loss += losses * len(labels)
        self.correct += (logits.argmax(dim=-1) == labels).sum(dim=0)
        self.seen += len(labels)

    def of_each(self) -> tuple[list[float], list[int]]:
        """The sums of losses and the correct answers of each network."""
        return self.loss.reshape(-1).tolist(), self.correct.reshape(-1).tolist()


class Steps:
    """Takes the steps of a recipe with `networks`, which have `masks` (None: all is kept).

    `states` are what optimizers of earlier steps remembered of each network.
    """

    def __init__(
        self,
        networks: Networks,
        recipe: Recipe,
        masks: Sequence[Masks | None],
        states: Sequence[OptimizerState],
    ) -> None:
        self._networks, self._recipe = networks, recipe
        self._optimizers = networks.optimizers(recipe.optimizer)
        networks.load(self._optimizers, states)
        self._masked = [(weight, mask, mask.to(weight)) for weight, mask in networks.masked(masks)]

    def states(self) -> list[OptimizerState]:
        """What the optimizers remember of each network."""
        return self._networks.states(self._optimizers)

    def at_rate(self, rate: float) -> None:
        """Go on with another learning rate."""
        self._networks.train()
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def take(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step; the losses before it, and the logits."""
        recipe, networks = self._recipe, self._networks
        for parameter in networks.parameters:
            parameter.grad = None
        logits = networks.logits(images)
        losses = networks.losses(recipe.loss, logits, labels)
        losses.sum().backward()
        if recipe.clip_before_mask:
            self._clip()
        # A zero weight with a zero gradient has zero momentum and zero weight decay, so masking
        # the gradient keeps it at exactly zero.
        for weight, _, mask in self._masked:
            if weight.grad is not None:
                weight.grad.mul_(mask)
        if not recipe.clip_before_mask:
            self._clip()
        for optimizer in self._optimizers:
            optimizer.step()
        if not recipe.optimizer.keeps_zeros:
            for weight, mask, _ in self._masked:
                weight.data.masked_fill_(~mask, 0.0)
        return losses, logits

    def _clip(self) -> None:
        if self._recipe.clip_grad_norm is not None:
            self._networks.clip(self._recipe.clip_grad_norm)
