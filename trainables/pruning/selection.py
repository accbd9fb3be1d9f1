"""Selections: which weights stay, once their scores and the amounts are known."""

from __future__ import annotations

from trainables.lazy_torch import Tensor, torch
from trainables.measures.masks import Masks, kept_counts
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
    """The `count` highest scores of all kept weights, or all of them where fewer are kept.

    Ties are broken as in `drop_lowest`, whose result this is for one group, without a full sort.
    """
    (row,) = grouped(scores, "global")
    (kept,) = grouped(masks, "global")
    return ungrouped([_highest(row, kept, count)], masks, "global")


def sampled(
    scores: dict[str, Tensor], masks: Masks, count: int, generator: torch.Generator
) -> Masks:
    """Randomized masks (sketching paper §8): the global threshold says how many weights each
    layer keeps, and that many distinct kept ones are drawn with probability proportional to score.

    A draw is successive: each weight in proportion to its score among those not drawn yet.
    Only the positive part of a score counts; where it runs out, the highest of the rest fill up.
    `generator` is on the CPU.
    """
    counts = kept_counts(keep_highest(scores, masks, count))
    return {
        name: _highest(_race(scores[name], generator), mask, counts[name])
        for name, mask in masks.items()
    }


def _race(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Keys whose n highest are n successive draws in proportion to the positive scores: s/E with
    standard exponential E (Efraimidis & Spirakis, 2006). The other scores are their own keys."""
    exponential = torch.empty(scores.shape, dtype=torch.float64).exponential_(generator=generator)
    return torch.where(scores > 0, scores / exponential.to(scores.device), scores)


def _highest(scores: Tensor, kept: Tensor, count: int) -> Tensor:
    """The `count` highest-scored entries of `kept`, whatever its shape; of equal ones the lower
    index goes first."""
    count = min(count, int(kept.count_nonzero()))  # which is ten times faster than sum
    if count == 0:
        return torch.zeros_like(kept)
    row = torch.where(kept, scores, -torch.inf).flatten()
    threshold = row.topk(count, sorted=False).values.min()
    above, tied = row > threshold, row == threshold
    surplus = int(above.count_nonzero() + tied.count_nonzero()) - count
    if surplus > 0:
        tied &= tied.cumsum(dim=0) > surplus
    return (above | tied).view_as(kept)


def sketch(probabilities: Tensor, s: int, generator: torch.Generator) -> Tensor:
    """Algorithm 1 of the sketching paper: m_i += 1/(s·p_i) for `s` draws i ~ p with replacement.

    The mask has the shape of `probabilities`, [d] or [masks, d] for as many masks; it has at most
    `s` non-zero entries and is not binary. `probabilities` sum to one over d, at most 2^24.
    """
    drawn = torch.multinomial(probabilities, s, replacement=True, generator=generator)
    parts = 1 / (s * probabilities.gather(-1, drawn))
    return torch.zeros_like(probabilities).scatter_add_(-1, drawn, parts)
