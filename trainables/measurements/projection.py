"""Projection: a sparse random matrix, and a network that moves in the subspace it spans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.func import functional_call

from trainables.sparsity.masks import Masks, apply_masks


@dataclass(frozen=True)
class Projection:
    """P, of `rows` × `columns`, by its nonzero values, which are there in the order of its rows and
    in that of its columns: sums of either order need no place for zeros, and no atomic addition.

    `values` [n] lie in the columns `column_of` [n], row by row, as many as `in_row` [rows] says;
    `transposed` [n] in the rows `row_of` [n], column by column, as many as `in_column` [columns].
    """

    column_of: Tensor
    values: Tensor
    in_row: Tensor
    row_of: Tensor
    transposed: Tensor
    in_column: Tensor

    @classmethod
    def of(cls, row: Tensor, column: Tensor, values: Tensor, rows: int, columns: int) -> Projection:
        """Of values at (`row`, `column`), each place once."""
        by_row, by_column = (torch.argsort(each, stable=True) for each in (row, column))
        return cls(
            column[by_row],
            values[by_row],
            torch.bincount(row, minlength=rows),
            row[by_column],
            values[by_column],
            torch.bincount(column, minlength=columns),
        )

    @classmethod
    def drawn(cls, rows: int, columns: int, generator: torch.Generator) -> Projection:
        """A very sparse random projection (Li, Hastie & Church, 2006): with s = √rows, an entry is
        ±√(s / rows) with the probability 1 / s, and else 0; a column's squared norm is 1 in
        expectation. float32, on the CPU."""
        share = 1 / math.sqrt(rows)
        places = _chosen(rows * columns, share, generator)
        signs = torch.randint(2, places.shape, generator=generator).mul_(2).sub_(1)
        values = (signs / math.sqrt(share * rows)).float()
        return cls.of(places % rows, places // rows, values, rows, columns)

    def to(self, device: torch.device) -> Projection:
        return Projection(*(each.to(device) for each in vars(self).values()))

    def __call__(self, z: Tensor) -> Tensor:
        """P z [rows] of z [columns], with a gradient."""
        return _Product.apply(self, z)  # pyright: ignore[reportReturnType]


def _chosen(count: int, share: float, generator: torch.Generator) -> Tensor:
    """Of `count` places those that are chosen, each with the probability `share`, in order."""
    if share == 1:
        return torch.arange(count)
    # By the gaps between them, ten standard deviations more than are expected to be needed.
    most = int(count * share + 10 * math.sqrt(count * share)) + 100
    gaps = torch.empty(most, dtype=torch.float64).geometric_(share, generator=generator)
    places = gaps.cumsum(0).long() - 1
    return places[places < count]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, projection: Projection, z: Tensor) -> Tensor:
        ctx.projection = projection  # pyright: ignore[reportAttributeAccessIssue]
        of_each = projection.values * z[projection.column_of]
        return torch.segment_reduce(of_each, "sum", lengths=projection.in_row)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        projection = ctx.projection
        of_each = projection.transposed * gradient[projection.row_of]
        return None, torch.segment_reduce(of_each, "sum", lengths=projection.in_column)


def free_weights(model: nn.Module, masks: Masks) -> Tensor:
    """The places of all that training moves, in the parameters of `model` one after the other, each
    flattened: what `masks` keep of the prunable weights, and all other parameters, but for those
    that are no matter of gradients."""
    # By what they are: a weight that layers share may be pruned by another name than its first.
    pruned = {id(model.get_parameter(name)): mask for name, mask in masks.items()}
    kept = (
        pruned.get(id(each), torch.ones_like(each, dtype=torch.bool)) & each.requires_grad
        for each in model.parameters()
    )
    return torch.cat([each.flatten() for each in kept]).nonzero().flatten()


class Subspace(nn.Module):
    """`model` with the parameters θ_0 + P z: θ_0 are those it is given with, pruned weights zero,
    and z, which is zero at first, is all that is trained. `projection` has a row for each of the
    `free_weights`. Maps what the model does."""

    def __init__(self, model: nn.Module, masks: Masks, projection: Projection) -> None:
        super().__init__()
        apply_masks(model, masks)
        self._free = free_weights(model, masks)
        self.model = model.requires_grad_(False)
        parameters = dict(model.named_parameters())
        self._shapes: Mapping[str, torch.Size] = {n: p.shape for n, p in parameters.items()}
        start = torch.cat([each.detach().flatten() for each in parameters.values()])
        self._projection = projection.to(start.device)
        self.register_buffer("_start", start, persistent=False)
        self.z = nn.Parameter(start.new_zeros(len(projection.in_column)))

    def weights(self) -> dict[str, Tensor]:
        """θ_0 + P z, by the names of the model's parameters."""
        moved = self.get_buffer("_start").index_add(0, self._free, self._projection(self.z))
        parts = moved.split([shape.numel() for shape in self._shapes.values()])
        shapes = zip(self._shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in shapes}

    def forward(self, images: Tensor) -> Tensor:
        return functional_call(self.model, self.weights(), (images,))
