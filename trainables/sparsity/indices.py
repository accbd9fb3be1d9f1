"""Sparsity of weight vectors: the PQ Index (SAP Definition 1) and the Gini index.

Vectors come as rows of a matrix: `values` [groups, size] with a boolean `kept` of the same shape;
only kept entries belong to a vector. Counts are int64 and sums float64, since float32 sums lose
counts above 2^24.
"""

from __future__ import annotations

import numpy as np

from trainables.lazy_torch import Tensor, torch

ROUNDING_NOISE = 1e-5
GINI_OFFSET = 1e-7


def power_sums(values: Tensor, kept: Tensor, exponents: list[float]) -> Tensor:
    """Σ|w|^r of the kept entries of each row, for each exponent; float64 [exponents, groups]."""
    magnitudes = values.detach().abs().to(torch.float64)
    return torch.stack([row_sums(magnitudes.pow(r), kept) for r in exponents])


def row_sums(values: Tensor, kept: Tensor) -> Tensor:
    return torch.where(kept, values, 0.0).sum(dim=1)


def pq_index_of_sums(
    d: Tensor, sum_p: Tensor, sum_q: Tensor, p: float | Tensor, q: float | Tensor
) -> Tensor:
    """I_{p,q} = 1 − d^{1/q−1/p}·‖w‖_p/‖w‖_q from d kept weights, Σ|w|^p and Σ|w|^q; what is given
    is broadcast.

    d = 0 gives 0, an all-zero vector NaN; rounding noise below 0 becomes 0. The ratio is taken
    in logarithms, because (Σ|w|^p)^(1/p) overflows for small p.
    """
    d = d.to(torch.float64)
    log_ratio = (1 / q - 1 / p) * d.log() + sum_p.log() / p - sum_q.log() / q
    index = 1 - log_ratio.exp()
    index = torch.where((index < 0) & (index > -ROUNDING_NOISE), 0.0, index)
    index = torch.where(sum_p == 0, torch.nan, index)
    return torch.where(d == 0, 0.0, index)


def pq_index(values: Tensor, kept: Tensor, p: float, q: float) -> Tensor:
    """The PQ Index of each row (SAP Definition 1), 0 < p ≤ 1 ≤ q; float64 [groups]."""
    sum_p, sum_q = power_sums(values, kept, [p, q])
    return pq_index_of_sums(kept.sum(dim=1), sum_p, sum_q, p, q)


def gini(values: Tensor, kept: Tensor) -> Tensor:
    """The Gini index of |w| + 1e-7 over the kept entries of each row; float64 [groups].

    Σ(2i−n−1)·w_(i) / (n·Σw), i = 1…n in ascending order. n = 0 gives 0.
    """
    # In place where it can be: of a large network each copy takes longer than the sort.
    ascending = _sorted(torch.where(kept, values.detach().abs(), -1.0)).to(torch.float64)
    pruned = ascending < 0
    ascending.add_(GINI_OFFSET).masked_fill_(pruned, 0.0)
    n, size = kept.sum(dim=1, keepdim=True).to(torch.float64), values.shape[1]
    # Pruned entries sort first: shifting the ranks by their number leaves i = 1…n.
    doubled = torch.arange(2, 2 * size + 2, 2, device=values.device, dtype=torch.float64)
    factors = doubled + (n - 2 * size - 1)
    weighted = factors.mul_(ascending).sum(dim=1)
    total = n.squeeze(1) * ascending.sum(dim=1)
    return torch.where(n.squeeze(1) == 0, 0.0, weighted / total)


def _sorted(values: Tensor) -> Tensor:
    """Each row in ascending order. On a CPU NumPy's sort is tens of times as fast as torch's."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values
