"""Averaging: the moving average of the weights that training passes through."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.training.networks import Networks
from trainables.training.networks.one import named_tensors
from trainables.training.progress import State


class Average:
    """ā ← decay·ā + (1 − decay)·w of `networks`, after each step; it begins as they are.

    All buffers but the running statistics of normalization layers are those of now.
    """

    def __init__(self, networks: Networks, decay: float) -> None:
        self._decay = decay
        self._networks = networks
        self._now = networks.averaged
        self._mean = {name: tensor.detach().clone() for name, tensor in self._now.items()}
        self._lists = [*self._mean.values()], [tensor.detach() for tensor in self._now.values()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of now."""
        mean, now = self._lists
        torch._foreach_lerp_(mean, now, 1 - self._decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def mask(self, weight: nn.Parameter, mask: Tensor) -> None:
        """Set to zero what is pruned of a weight."""
        for name, now in self._now.items():
            if now is weight:
                self._mean[name].masked_fill_(~mask, 0.0)

    def of_each(self) -> list[State]:
        """The average of each network, by name; what is written there is what it goes on from."""
        parts = {name: self._networks.of_each(tensor) for name, tensor in self._mean.items()}
        count = len(next(iter(parts.values())))
        return [{name: each[k] for name, each in parts.items()} for k in range(count)]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the networks have the average in the place of their weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, now in zip(*self._lists, strict=True):
            kept = now.clone()
            now.copy_(mean)
            mean.copy_(kept)


@torch.no_grad()
def end_with(model: nn.Module, average: State) -> None:
    """Give a network its average."""
    now = named_tensors(model)
    for name, tensor in average.items():
        now[name].copy_(tensor)
