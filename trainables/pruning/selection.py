"""Selections: which weights stay, once their scores and the amounts are known."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from math import inf

import numpy as np

from trainables.lazy_torch import Tensor, torch
from trainables.sparsity.masks import Masks, kept_counts

STRIDE = 61
"""One weight in so many is looked at to guess where a threshold lies."""


def drop_lowest(scores: Tensor, kept: Tensor, amounts: Tensor) -> Tensor:
    """The new `kept` [groups, size] without the `amounts` [groups] lowest-scored kept entries.

    Ties are broken by index, the lower index going first, so that counts are exact. A score that is
    not a number is higher than all that are.
    """
    if len(scores) == 1:
        left = max(0, int(kept.count_nonzero() - amounts))
        return keep_highest({"": scores}, {"": kept}, left)[""]
    # What is not kept comes last: torch sorts NaN behind infinity.
    compared = torch.where(kept, _compared(scores, scores.dtype), torch.nan)
    ascending = compared.argsort(dim=1, stable=True)
    drop = torch.arange(scores.shape[1], device=scores.device) < amounts.unsqueeze(1)
    dropped = torch.zeros_like(kept).scatter_(1, ascending, drop)
    return kept & ~dropped


def keep_highest(scores: dict[str, Tensor], masks: Masks, count: int) -> Masks:
    """The `count` highest scores of all kept weights, or all of them where fewer are kept.

    Ties are broken as in `drop_lowest`. It sorts nothing, which would take ten times as long.
    """
    kind = reduce(torch.promote_types, (s.dtype for s in scores.values()))
    rows = {name: _compared(scores[name], kind).flatten() for name in masks}
    kept = {name: mask.flatten() for name, mask in masks.items()}
    total = sum(int(row.count_nonzero()) for row in kept.values())  # much faster than sum
    if count >= total:
        return {name: mask.clone() for name, mask in masks.items()}
    if count == 0:
        return {name: torch.zeros_like(mask) for name, mask in masks.items()}
    lowest = _lowest_but(total - count, rows, kept, total)
    stay = {name: (rows[name] >= lowest) & row for name, row in kept.items()}
    excess = sum(int(row.count_nonzero()) for row in stay.values()) - count
    for name, row in stay.items():
        if excess > 0:
            tied = ((rows[name] == lowest) & row).nonzero()[:excess, 0]
            row[tied] = False
            excess -= len(tied)
    return {name: stay[name].view(mask.shape) for name, mask in masks.items()}


def _compared(scores: Tensor, kind: torch.dtype) -> Tensor:
    """Scores of the type `kind` as floats that can be compared, none of which is NaN."""
    least = torch.float32 if kind.is_floating_point else torch.float64
    floats = scores.detach().to(torch.promote_types(kind, least))
    return floats.nan_to_num(torch.inf, torch.inf, -torch.inf) if floats.isnan().any() else floats


def keep_highest_of_each(
    scores: dict[str, Tensor], masks: Masks, counts: Mapping[str, int]
) -> Masks:
    """`keep_highest` in each layer by itself."""
    kept: Masks = {}
    for name, mask in masks.items():
        kept |= keep_highest({name: scores[name]}, {name: mask}, counts[name])
    return kept


def _lowest_but(dropped: int, rows: dict[str, Tensor], kept: Masks, total: int) -> float:
    """The kept score that `dropped` of the `total` kept ones come before in ascending order."""
    if any(row.device.type != "cpu" for row in kept.values()):
        everything = torch.cat([rows[name][row] for name, row in kept.items()])
        return everything.topk(total - dropped, sorted=False).values.min().item()
    few = _up_to(_guess(rows, kept, dropped / total), rows, kept)
    values = few if len(few) > dropped else _up_to(inf, rows, kept)
    values.partition(dropped)
    return values[dropped].item()


def _guess(rows: dict[str, Tensor], kept: Masks, share: float) -> float:
    """What the `share` lowest kept scores are likely to be below, by a sample of them: rather too
    high than too low, and maybe infinite."""
    parts = [rows[name][::STRIDE][row[::STRIDE]] for name, row in kept.items()]
    sample = torch.cat(parts).sort().values
    place = int(share * len(sample) + 4 * len(sample) ** 0.5)
    return sample[place].item() if place < len(sample) else inf


def _up_to(most: float, rows: dict[str, Tensor], kept: Masks) -> np.ndarray:
    """The kept scores that are at most `most`, by numpy, which is several times as fast as torch
    at this and at partitioning them."""
    chosen = ((rows[name], (rows[name] <= most) & row) for name, row in kept.items())
    return np.concatenate([row.numpy()[np.flatnonzero(each.numpy())] for row, each in chosen])


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
    return sampled_of_each(scores, masks, counts, generator)


def sampled_of_each(
    scores: dict[str, Tensor], masks: Masks, counts: Mapping[str, int], generator: torch.Generator
) -> Masks:
    """The same, where it is known how many weights each layer keeps."""
    drawn: Masks = {}
    for name, mask in masks.items():
        drawn |= keep_highest({name: _race(scores[name], generator)}, {name: mask}, counts[name])
    return drawn


def _race(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Keys whose n highest are n successive draws in proportion to the positive scores: s/E with
    standard exponential E (Efraimidis & Spirakis, 2006). The other scores are their own keys."""
    exponential = torch.empty(scores.shape, dtype=torch.float64).exponential_(generator=generator)
    return torch.where(scores > 0, scores / exponential.to(scores.device), scores)


def sketch(probabilities: Tensor, s: int, generator: torch.Generator) -> Tensor:
    """Algorithm 1 of the sketching paper: m_i += 1/(s·p_i) for `s` draws i ~ p with replacement.

    The mask has the shape of `probabilities`, [d] or [masks, d] for as many masks; it has at most
    `s` non-zero entries and is not binary. `probabilities` sum to one over d, at most 2^24.
    """
    drawn = torch.multinomial(probabilities, s, replacement=True, generator=generator)
    parts = 1 / (s * probabilities.gather(-1, drawn))
    return torch.zeros_like(probabilities).scatter_add_(-1, drawn, parts)
