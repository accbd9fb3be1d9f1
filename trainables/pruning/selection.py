"""Selections: which weights go, once their scores and the amounts are known."""

import torch
from torch import Tensor


def drop_lowest(scores: Tensor, kept: Tensor, amounts: Tensor) -> Tensor:
    """The new `kept` [groups, size] without the `amounts` [groups] lowest-scored kept entries.

    Ties are broken by index, the lower index going first, so that counts are exact.
    """
    ascending = torch.where(kept, scores, torch.inf).argsort(dim=1, stable=True)
    drop = torch.arange(scores.shape[1], device=scores.device) < amounts.unsqueeze(1)
    dropped = torch.zeros_like(kept).scatter_(1, ascending, drop)
    return kept & ~dropped
