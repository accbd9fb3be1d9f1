"""Losses by name, as a recipe has them."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field

from trainables.lazy_torch import F, Tensor, torch
from trainables.plugins.entry import Entry, Kind, PluginError, described


class Loss(Entry):
    """A loss by name; called with logits [B, classes] and labels [B], it gives the loss of each
    example, [B]. All losses of the tables are its means."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.call(logits, labels)

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over a batch, which training minimizes."""
        return self._of_each(logits, labels).mean()

    def means(self, logits: Tensor, labels: Tensor) -> Tensor:
        """`mean` for each of K networks, [K], of logits [B, K, classes] and labels [B, K]."""
        pairs = zip(logits.unbind(1), labels.unbind(1), strict=True)
        return torch.stack([self.mean(*pair) for pair in pairs])

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The sum over a batch."""
        return self._of_each(logits, labels).sum()

    def _of_each(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = self(logits, labels)
        if (
            not isinstance(losses, torch.Tensor)
            or losses.shape != labels.shape
            or not losses.is_floating_point()
        ):
            raise PluginError(
                f"{self.where()}: the loss {self.name} gives {described(losses)} for {len(labels)} "
                f"examples; it must give floats ({len(labels)},), one for each"
            )
        return losses


LOSS = Kind("loss", Loss, ("logits", "labels"), (__name__,), "cross_entropy")
loss = LOSS.register


@loss
class CrossEntropy(Loss):
    """Cross-entropy of the softmax, with labels smoothed by `label_smoothing` (Szegedy et al.,
    2016)."""

    name: Literal["cross_entropy"]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._reduced(logits, labels, "none")

    def mean(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._reduced(logits, labels, "mean")

    def means(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = self._reduced(logits.flatten(0, 1), labels.flatten(), "none")
        return losses.view_as(labels).mean(0)

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._reduced(logits, labels, "sum")

    def _reduced(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        smoothing = self.label_smoothing
        return F.cross_entropy(logits, labels, reduction=reduction, label_smoothing=smoothing)


CROSS_ENTROPY = CrossEntropy(name="cross_entropy")


def may_draw(loss: Loss, classes: int) -> bool:
    """Whether a loss draws random numbers, as a plugged-in one may, or cannot be tried for it."""
    frozen: Any = loss
    return _drew(frozen, classes)


@cache
def _drew(loss: Any, classes: int) -> bool:
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        try:
            loss.mean(torch.zeros(2, classes), torch.zeros(2, dtype=torch.int64))
        except Exception:  # what it has against these examples is its own
            return True
        return not torch.equal(torch.get_rng_state(), before)
