"""Amounts: how many of a group's kept weights go, as int64 [groups], and what a density keeps."""

from __future__ import annotations

from fractions import Fraction

from trainables.lazy_torch import Tensor, torch
from trainables.sparsity.indices import pq_index

FLOAT32_EXACT_INTEGERS = 2**24


def ratio_amount(kept: Tensor, ratio: float) -> Tensor:
    """⌊P·d⌋ of the d kept weights of each row of `kept` [groups, size].

    The product is exact for the decimal number the user wrote: 0.29 of 100 is 29, although
    0.29 * 100 is below 29 in floating point.
    """
    exact = Fraction(repr(ratio))
    counts = kept.sum(dim=1)
    return torch.tensor([int(exact * d) for d in counts.tolist()], device=kept.device)


def pq_amount(
    values: Tensor, kept: Tensor, *, p: float, q: float, eta: float, gamma: float, beta: float
) -> Tensor:
    """c of SAP Algorithm 1 for each row of `values`, `kept` [groups, size].

    r = d(1+η)^{−q/(q−p)}(1−I)^{qp/(q−p)}, rounded up as in the authors' code (the paper does not
    round), and c = ⌊d·min(γ(1−r/d), β)⌋. An all-zero vector loses nothing.

    Once the index is known, the arithmetic is the authors' float32: where γ(1−r/d)·d is a whole
    number, its rounding decides whether the floor is that number or one less. Groups of more than
    2^24 weights, which float32 cannot count, use float64.
    """
    kept_counts = kept.sum(dim=1)
    dtype = torch.float32 if values.shape[1] <= FLOAT32_EXACT_INTEGERS else torch.float64
    index = pq_index(values, kept, p, q).to(dtype)
    d = kept_counts.to(dtype)
    retained = d * (1 + eta) ** (-q / (q - p)) * (1 - index) ** (q * p / (q - p))
    share = (gamma * (1 - retained.ceil() / d)).clamp(max=beta)
    amounts = (d * share).floor().nan_to_num(0.0).to(torch.int64)
    # β < 1 leaves every group a weight, but a β near 1 is 1 in float32.
    return amounts.minimum(kept_counts - 1).clamp(min=0)


def kept_count(density: float, total: int) -> int:
    """How many of `total` weights a density keeps: N − ⌊(1−ρ)N⌋, exact for the decimal number the
    user wrote; at least one for any density above 0."""
    return total - int((1 - Fraction(repr(density))) * total)
