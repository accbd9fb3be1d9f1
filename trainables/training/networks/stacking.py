"""Tensors of several networks as one, whose slices they are."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound=Tensor)


def by_name(named: Sequence[Mapping[str, T]]) -> dict[str, list[T]]:
    """For each name, the tensors that the networks have of it."""
    return {name: [each[name] for each in named] for name in named[0]}


def shared(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors as one [K, …], whose slices they become."""
    stacked = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, own in zip(tensors, stacked, strict=True):
        tensor.data = own
    return stacked
