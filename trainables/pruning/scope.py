"""Scopes: which weights compete with each other.

A scope turns the prunable tensors into matrices whose rows are the groups, and back.
*global*: one row of all weights; *layer*: one row per tensor; *neuron*: one row per output unit
(dimension 0) of each tensor.
"""

from __future__ import annotations

from typing import Literal

from trainables.lazy_torch import Tensor, torch

Scope = Literal["global", "layer", "neuron"]


def grouped(tensors: dict[str, Tensor], scope: Scope) -> list[Tensor]:
    """Matrices [groups, size] whose rows are the scope's groups, in the tensors' order."""
    if scope == "global":
        return [torch.cat([tensor.flatten() for tensor in tensors.values()]).unsqueeze(0)]
    if scope == "layer":
        return [tensor.reshape(1, -1) for tensor in tensors.values()]
    return [tensor.reshape(tensor.shape[0], -1) for tensor in tensors.values()]


def ungrouped(rows: list[Tensor], like: dict[str, Tensor], scope: Scope) -> dict[str, Tensor]:
    """The inverse of `grouped`: tensors named and shaped as in `like`."""
    if scope == "global":
        rows = list(rows[0][0].split([tensor.numel() for tensor in like.values()]))
    return {
        name: row.reshape(tensor.shape)
        for (name, tensor), row in zip(like.items(), rows, strict=True)
    }
