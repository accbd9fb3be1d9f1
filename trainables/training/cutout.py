"""Cutout: a square of each training image is left out (DeVries & Taylor, 2017)."""

from __future__ import annotations

from trainables.lazy_torch import Tensor, torch


def centers(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """For each of `count` images [C, H, W] the row and the column around which is cut, [count, 2];
    any pixel, so that squares may reach over the border."""
    _, height, width = shape
    rows = torch.randint(height, (count,), generator=generator)
    columns = torch.randint(width, (count,), generator=generator)
    return torch.stack([rows, columns], dim=1)


def cut(images: Tensor, at: Tensor, length: int) -> Tensor:
    """Normalized images [..., C, H, W] with zeros, their data's mean, in a square of `length`
    pixels around `at` [..., 2]."""

    def inside(center: Tensor, size: int) -> Tensor:
        first = center.unsqueeze(-1) - length // 2
        pixels = torch.arange(size, device=images.device)
        return (pixels >= first) & (pixels < first + length)

    rows, columns = inside(at[..., 0], images.shape[-2]), inside(at[..., 1], images.shape[-1])
    square = rows.unsqueeze(-1) & columns.unsqueeze(-2)
    return images.masked_fill(square.unsqueeze(-3), 0.0)
