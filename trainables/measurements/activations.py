"""Activations: what the units of two networks do on the same examples, and how that correlates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from trainables.models import prunable
from trainables.models.prunable import layer_of
from trainables.training.batches import Examples
from trainables.training.precision import Precision, arithmetic, logits_in

BATCH = 100


@contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """While it is open, each call of `model` leaves the activations [values, units] of the units
    that go into each of its prunable layers but the first to be called, by the weight's name.

    The units are the features of a layer's input, or the channels of maps, of which each place is a
    value; so they are as the layer sees them, after what stands between it and the one before.
    """
    called: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}

    def note(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        units = 1 if hasattr(layer, "kernel_size") else -1
        called[name] = inputs[0].movedim(units, -1).flatten(0, -2)

    def keep(*_: object) -> None:
        # The first one is given the images.
        seen.clear()
        seen.update([*called.items()][1:])
        called.clear()

    handles = [model.register_forward_hook(keep)]
    # A layer of which several weights are pruned goes by the first.
    layers = {layer_of(name): name for name in reversed(prunable(model))}
    for layer, name in layers.items():
        hook = partial(note, name)
        handles.append(model.get_submodule(layer).register_forward_pre_hook(hook))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Correlations:
    """Of the units of a layer that are alive in one network [n] with those in another [m], both of
    `units`: Pearson's, float64 [n, m]. A unit that is the same on all examples is dead."""

    units: int
    alive: Tensor

    @property
    def dead(self) -> tuple[int, int]:
        """How many units are dead in each network."""
        return self.units - self.alive.shape[0], self.units - self.alive.shape[1]


class _Moments:
    """Sums over the activations of a layer in two networks, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: list[Tensor] = []
        self._ranges: list[tuple[Tensor, Tensor]] = []

    def add(self, one: Tensor, other: Tensor) -> None:
        self._count += len(one)
        ranges = [(each.amin(0), each.amax(0)) for each in (one, other)]
        one, other = one.double(), other.double()
        sums = [one.sum(0), other.sum(0), (one**2).sum(0), (other**2).sum(0), one.T @ other]
        if self._sums:
            sums = [total + more for total, more in zip(self._sums, sums, strict=True)]
            ranges = [
                (torch.minimum(low, lower), torch.maximum(high, higher))
                for (low, high), (lower, higher) in zip(self._ranges, ranges, strict=True)
            ]
        self._sums, self._ranges = sums, ranges

    def correlations(self) -> Correlations:
        one, other, of_one, of_other, products = (each / self._count for each in self._sums)
        alive_one, alive_other = (high > low for low, high in self._ranges)
        spread_one = (of_one - one**2).clamp(min=0).sqrt()
        spread_other = (of_other - other**2).clamp(min=0).sqrt()
        found = (products - one[:, None] * other) / (spread_one[:, None] * spread_other)
        alive = found[alive_one][:, alive_other]
        return Correlations(len(one), alive.nan_to_num(0, 0, 0).clamp(-1, 1).cpu())


@torch.no_grad()
def correlations(
    one: nn.Module, other: nn.Module, examples: Examples, precision: Precision = "float32"
) -> dict[str, Correlations]:
    """Of the units that go into each prunable layer but the first, in eval mode, by the name of its
    weight; the networks are of one architecture, and may not be one module."""
    moments: dict[str, _Moments] = {}
    with arithmetic(precision), watched(one.eval()) as of_one, watched(other.eval()) as of_other:
        for start in range(0, len(examples), BATCH):
            images = examples.normalized(examples.images[start : start + BATCH])
            for model in (one, other):
                logits_in(precision, model, images)
            for name, activations in of_one.items():
                moments.setdefault(name, _Moments()).add(activations, of_other[name])
    return {name: each.correlations() for name, each in moments.items()}


def greedy(alive: Tensor) -> float | None:
    """The mean over the units [n, …] of each one's highest correlation: a unit of the other network
    may be that of several. None where there are no units."""
    return alive.amax(1).mean().item() if alive.numel() else None


def bipartite(alive: Tensor) -> float | None:
    """The mean correlation of the pairs, each unit in one at most, whose correlations have the
    highest sum: as many as the network with fewer units has. None where there are no units."""
    from scipy.optimize import linear_sum_assignment

    if not alive.numel():
        return None
    rows, columns = linear_sum_assignment(alive.numpy(), maximize=True)
    return alive[rows, columns].mean().item()
