"""Training steps of networks, with their masks and optimizers."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.sparsity.masks import Masks
from trainables.training.averaging import Average
from trainables.training.batches import Drawn, each_batch
from trainables.training.execution import Compiled
from trainables.training.networks import Networks
from trainables.training.precision import logits_in
from trainables.training.progress import Begun, OptimizerState, State
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
    def like(cls, losses: Tensor, begun: Sequence[Begun] = ()) -> "Totals":
        """Nothing yet, or what was `begun` with each network, for losses of one network, or [K] of
        several."""
        loss = torch.zeros_like(losses, dtype=torch.float64)
        correct = torch.zeros_like(losses, dtype=torch.int64)
        if not begun:
            return cls(loss, correct)
        loss.reshape(-1).copy_(loss.new_tensor([each.loss for each in begun]))
        correct.reshape(-1).copy_(correct.new_tensor([each.correct for each in begun]))
        return cls(loss, correct, begun[0].seen)

    def add(self, losses: Tensor, correct: Tensor, examples: int) -> None:
        self.loss += losses * examples
        self.correct += correct
        self.seen += examples

    def of_each(self) -> tuple[list[float], list[int]]:
        """The sums of losses and the correct answers of each network."""
        return self.loss.reshape(-1).tolist(), self.correct.reshape(-1).tolist()


def _as_given(*given: Tensor) -> tuple[Tensor, ...]:
    return given


def _forward(networks: Networks, recipe: Recipe) -> Callable[..., tuple[Tensor, Tensor]]:
    """The losses and logits of images and labels; of mixtures, with what `mixed` says of them."""

    def forward(images: Tensor, labels: Tensor, *mixing: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_in(recipe.precision, networks.logits, images)
        losses = networks.losses(recipe.loss, logits, labels)
        if mixing:
            others, own = mixing
            losses = own * losses + (1 - own) * networks.losses(recipe.loss, logits, others)
        return losses, logits

    return forward


class Steps:
    """Takes the steps of a recipe with `networks`, which have `masks` (None: all is kept).

    `states` are what the optimizer of earlier steps remembered of each network. `made` makes the
    images and labels of a batch of what `take` is given of it. `compiled`: see `Execution`.
    """

    def __init__(
        self,
        networks: Networks,
        recipe: Recipe,
        masks: Sequence[Masks | None],
        states: Sequence[OptimizerState],
        made: Callable[..., tuple[Tensor, ...]] = _as_given,
        compiled: bool = False,
    ) -> None:
        self._networks, self._recipe, self._made = networks, recipe, made
        forward = _forward(networks, recipe)
        self._computed = Compiled(forward) if compiled else forward
        self._optimizer = networks.optimizer(recipe.optimizer)
        networks.load(self._optimizer, states)
        self._masked, self._count = self._held(masks), len(masks)
        self._average = Average(networks, recipe.ema) if recipe.ema else None

    def _held(self, masks: Sequence[Masks | None]) -> list[tuple[nn.Parameter, Tensor, Tensor]]:
        """Each weight of which something is pruned, its mask, and that as a factor."""
        return [
            (weight, mask, torch.empty_like(weight).copy_(mask))
            for weight, mask in self._networks.masked(masks)
        ]

    def change_masks(self, masks: Sequence[Masks | None]) -> None:
        """Go on with other masks: what goes becomes zero, what comes is zero, and the optimizer
        remembers nothing of either."""
        earlier = {weight: mask for weight, mask, _ in self._masked}
        self._masked = self._held(masks)
        for weight, mask, _ in self._masked:
            stays = mask & earlier.get(weight, mask)
            for held in self._optimizer.state.get(weight, {}).values():
                if isinstance(held, Tensor) and held.shape == weight.shape:
                    held.masked_fill_(~stays, 0)
            if self._average:
                self._average.mask(weight, mask)

    def states(self) -> list[OptimizerState]:
        """What the optimizer remembers of each network."""
        return self._networks.states(self._optimizer)

    def averages(self) -> list[State]:
        """The average of each network, as it is at all times; what is written there, steps go on
        from. Empty where the recipe has none."""
        return self._average.of_each() if self._average else [{} for _ in range(self._count)]

    def averaged(self) -> AbstractContextManager[None]:
        """Within, the networks are what the recipe says that their training comes to: their
        average, or themselves."""
        return self._average.in_place() if self._average else nullcontext()

    def at_rate(self, rate: float) -> None:
        """Go on with another learning rate."""
        self._networks.train()
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def make_capturable(self) -> None:
        """Have all that changes between steps on the device, so that a step can be replayed."""
        device = self._networks.parameters[0].device
        for group in self._optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32, device=device)
            if "capturable" in group:
                group["capturable"] = True

    def backward(self, *drawn: Tensor) -> tuple[Tensor, Tensor]:
        """The losses over the examples of a step, and how many are classified correctly; the
        gradients are left with the parameters, those of pruned weights too."""
        for parameter in self._networks.parameters:
            parameter.grad = None
        batches = each_batch(drawn, self._recipe.batch_size)
        found = [self._of_batch(batch, len(batch[0]) / len(drawn[0])) for batch in batches]
        if len(found) == 1:
            return found[0]
        losses, correct = zip(*found, strict=True)
        return torch.stack(losses).sum(0), torch.stack(correct).sum(0)

    def _of_batch(self, drawn: Drawn, share: float) -> tuple[Tensor, Tensor]:
        """Of a batch that is such a share of the step's examples, its part of the losses."""
        images, labels, *mixing = self._made(*drawn)
        losses, logits = self._computed(images, labels, *mixing)
        if share != 1:
            losses = share * losses
        losses.sum().backward()
        if mixing:
            others, own = mixing
            labels = torch.where(own >= 0.5, labels, others)
        return losses.detach(), (logits.argmax(dim=-1) == labels).sum(dim=0)

    def take(self, *drawn: Tensor) -> tuple[Tensor, Tensor]:
        """One step; the losses before it, and how many examples were classified correctly."""
        recipe = self._recipe
        found = self.backward(*drawn)
        if recipe.clip_before_mask:
            self._clip()
        # A zero weight with a zero gradient has zero momentum and zero weight decay, so masking
        # the gradient keeps it at exactly zero.
        self._mask_gradients()
        if not recipe.clip_before_mask:
            self._clip()
        self._optimizer.step()
        if not recipe.optimizer.keeps_zeros:
            for weight, mask, _ in self._masked:
                weight.data.masked_fill_(~mask, 0.0)
        if self._average:
            self._average.update()
        return found

    def _mask_gradients(self) -> None:
        found = [(weight.grad, mask) for weight, _, mask in self._masked if weight.grad is not None]
        if found:
            gradients, masks = zip(*found, strict=True)
            torch._foreach_mul_(gradients, masks)  # pyright: ignore[reportPrivateImportUsage]

    def _clip(self) -> None:
        if self._recipe.clip_grad_norm is not None:
            self._networks.clip(self._recipe.clip_grad_norm)
