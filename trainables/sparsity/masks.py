"""Masks: boolean tensors named and shaped as the prunable weights; True means kept."""

from __future__ import annotations

from collections.abc import Mapping

from trainables.lazy_torch import Tensor, nn, torch

Masks = dict[str, Tensor]


def dense_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Masks that keep everything."""
    return {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}


def kept_counts(masks: Masks) -> dict[str, int]:
    return {name: int(mask.sum()) for name, mask in masks.items()}


def density(masks: Masks) -> float:
    """Kept prunable weights / all prunable weights."""
    return sum(kept_counts(masks).values()) / sum(mask.numel() for mask in masks.values())


def apply_masks(model: nn.Module, masks: Masks) -> None:
    """Set the pruned weights of `model` to exactly zero."""
    with torch.no_grad():
        for name, mask in masks.items():
            weight = model.get_parameter(name)
            # Not a product: a pruned weight that is negative or NaN must become +0 as well.
            weight.masked_fill_(~mask.to(weight.device), 0.0)
