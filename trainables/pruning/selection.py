"""Selections: which weights stay, once their scores and the amounts are known."""

import torch
from torch import Tensor

from trainables.masks import Masks, kept_counts
from trainables.pruning.scope import grouped, ungrouped


def drop_lowest(scores: Tensor, kept: Tensor, amounts: Tensor) -> Tensor:
    """The new `kept` [groups, size] without the `amounts` [groups] lowest-scored kept entries.

    Ties are broken by index, the lower index going first, so that counts are exact.
    """
    ascending = torch.where(kept, scores, torch.inf).argsort(dim=1, stable=True)
    drop = torch.arange(scores.shape[1], device=scores.device) < amounts.unsqueeze(1)
    dropped = torch.zeros_like(kept).scatter_(1, ascending, drop)
    return kept & ~dropped


def keep_highest(scores: dict[str, Tensor], masks: Masks, count: int) -> Masks:
    """The `count` highest scores of all kept weights, or all of them where fewer are kept."""
    (row,) = grouped(scores, "global")
    (kept,) = grouped(masks, "global")
    excess = (kept.sum(dim=1) - count).clamp(min=0)
    return ungrouped([drop_lowest(row, kept, excess)], masks, "global")


def sampled(
    scores: dict[str, Tensor], masks: Masks, count: int, generator: torch.Generator
) -> Masks:
    """Randomized masks (sketching paper §8): the global threshold says how many weights each
    layer keeps, and that many distinct kept ones are drawn with probability proportional to score.

    Negative scores count as 0; where the positive ones run out, the highest of the rest fill up.
    """
    counts = kept_counts(keep_highest(scores, masks, count))
    return {
        name: _drawn(scores[name].flatten(), mask.flatten(), counts[name], generator).view_as(mask)
        for name, mask in masks.items()
    }


def _drawn(scores: Tensor, kept: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` of the `kept` entries, successively and proportionally to their scores.

    The smallest of E_i/s_i with standard exponential E_i are such a draw (Efraimidis and Spirakis,
    2006), in one pass over the layer.
    """
    exponential = torch.empty(len(scores), dtype=torch.float64).exponential_(generator=generator)
    positive = scores.to(torch.float64).clamp(min=0)
    keys = exponential.to(scores.device) / positive
    # The logarithm is monotone; what cannot be drawn follows, the highest scores first.
    order = torch.where(positive > 0, keys, torch.inf)
    rank = torch.stack([order, -scores.to(torch.float64)])
    rank = torch.where(kept, rank, torch.inf)
    chosen = _lexicographic_argsort(rank)[:count]
    return torch.zeros_like(kept).scatter_(0, chosen, True) & kept


def _lexicographic_argsort(rows: Tensor) -> Tensor:
    """Indices that sort by the first row, ties by the second; [size] for `rows` [2, size]."""
    by_second = rows[1].argsort(stable=True)
    return by_second[rows[0][by_second].argsort(stable=True)]


def sketch(probabilities: Tensor, s: int, generator: torch.Generator) -> Tensor:
    """Algorithm 1 of the sketching paper: m_i += 1/(s·p_i) for `s` draws i ~ p with replacement.

    The mask has the shape [d] of `probabilities`, at most `s` non-zero entries, and is not binary.
    """
    drawn = torch.multinomial(probabilities, s, replacement=True, generator=generator)
    counts = torch.bincount(drawn, minlength=len(probabilities))
    return torch.where(counts > 0, counts / (s * probabilities), 0.0)
