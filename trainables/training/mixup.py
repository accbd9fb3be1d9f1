"""Mixup: networks are trained on mixtures of two examples each (Zhang et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainables.lazy_torch import Tensor, torch


def pairs(sizes: Sequence[int], alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of batches of so many examples: with which of its batch each example is mixed, by its place
    there, and its own share λ of the mixture, float32; both [examples].

    A batch has one λ, of Beta(α, α), and its partners are a permutation, as in the authors' code.
    """
    # NumPy's RandomState draws for ever what it does today.
    seed = int(torch.randint(2**62, (), generator=generator))
    shares = np.random.RandomState(np.random.MT19937(seed)).beta(alpha, alpha, len(sizes))
    partners = [torch.randperm(size, generator=generator) for size in sizes]
    own = torch.from_numpy(shares).to(torch.float32)
    return torch.cat(partners), own.repeat_interleave(torch.tensor([*sizes]))


def mixed(images: Tensor, labels: Tensor, partners: Tensor, shares: Tensor) -> tuple[Tensor, ...]:
    """Images [B, C, H, W] mixed with those of their `partners`, by their `shares` [B], the labels
    [B], those of the partners, and the one share of all; or of K networks, whose images are
    [B, K, C, H, W], all others [B, K], and the share [K]."""
    of_network = () if labels.ndim == 1 else (torch.arange(labels.shape[1], device=labels.device),)
    at = (partners, *of_network)
    own = shares.view(*shares.shape, 1, 1, 1)
    return own * images + (1 - own) * images[at], labels, labels[at], shares[0]
