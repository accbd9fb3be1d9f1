"""Layer densities: how many weights each layer keeps of those that a network keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Literal

from trainables.config import Choice, Config
from trainables.lazy_torch import Tensor
from trainables.pruning.amount import kept_count
from trainables.pruning.selection import keep_highest, keep_highest_of_each
from trainables.sparsity.masks import Masks, kept_counts
from trainables.training.augmentation import Unfit

LAST_LAYER = Fraction(3, 10)
"""What `smart_ratio` keeps of the last layer."""


class LayerDensities(Config):
    """The part of a method that says how many weights each layer keeps: as many as have the highest
    scores of all (`global`), or as many as its shape says, see `kept_by_layer`."""

    layer_densities: Annotated[
        Literal["global", "uniform", "erk", "smart_ratio"], Choice("layer_densities")
    ] = "global"

    def highest_by_layer(self, scores: dict[str, Tensor], masks: Masks, count: int) -> Masks:
        """The `count` highest scores of all kept weights, or the highest of each layer, `count`
        together."""
        if self.layer_densities == "global":
            return keep_highest(scores, masks, count)
        counts = kept_by_layer(self.layer_densities, masks, count)
        return keep_highest_of_each(scores, masks, counts)

    def require_room(self, density: float, weights: Mapping[str, Tensor]) -> None:
        """Raises Unfit where `smart_ratio` would leave nothing to all layers but the last."""
        sizes = [weight.numel() for weight in weights.values()]
        last, total = of_last_layer(sizes[-1]), sum(sizes)
        count = kept_count(density, total)
        if self.layer_densities != "smart_ratio" or len(sizes) == 1 or count > last:
            return
        place = 10 ** (1 - math.floor(math.log10((last + 1) / total)))
        raise Unfit(
            f"density {density:g} keeps {count:,} of {total:,} weights, and smart_ratio keeps "
            f"{last:,} of the last layer alone; choose a density of "
            f"{math.ceil((last + 1) / total * place) / place:g} or more, or another "
            "layer_densities",
            "density",
        )


def kept_by_layer(
    how: Literal["uniform", "erk", "smart_ratio"], masks: Masks, count: int
) -> dict[str, int]:
    """How many weights each layer keeps, `count` together; of no layer more than `masks` keep.

    *uniform*: the same share of each layer. *erk* (Erdős–Rényi kernel; Evci et al., 2020): the
    density of a weight of the shape [a, b, c, d] is in proportion to (a+b+c+d)/(a·b·c·d).
    *smart_ratio* (Su et al., 2020): that of layer l of L to (L−l+1)² + (L−l+1), and that of the
    last one is 0.3. What a layer has no room for goes to the others in the same proportion.
    """
    sizes, most = [mask.numel() for mask in masks.values()], [*kept_counts(masks).values()]
    count = min(count, sum(most))
    if how == "smart_ratio":
        last = max(min(of_last_layer(sizes[-1]), most[-1], count), count - sum(most[:-1]))
        decay = (k * k + k for k in range(len(sizes), 1, -1))
        parts = [k * size for k, size in zip(decay, sizes[:-1], strict=True)]
        found = [*divided(count - last, parts, most[:-1]), last]
    else:
        parts = sizes if how == "uniform" else [sum(mask.shape) for mask in masks.values()]
        found = divided(count, parts, most)
    return dict(zip(masks, found, strict=True))


def of_last_layer(size: int) -> int:
    """How many of its `size` weights the last layer keeps by `smart_ratio`."""
    return int(LAST_LAYER * size)


def divided(count: int, parts: Sequence[int], most: Sequence[int]) -> list[int]:
    """`count` in proportion to `parts`, in whole numbers none of which is above its `most`.

    Those with the largest fractions are rounded up, the earlier of equal ones. `count` is at most
    the sum of `most`.
    """
    shares = _shares(count, parts, most)
    found = [int(share) for share in shares]
    by_fraction = sorted(range(len(shares)), key=lambda at: found[at] - shares[at])
    for at in by_fraction[: count - sum(found)]:
        found[at] += 1
    return found


def _shares(count: int, parts: Sequence[int], most: Sequence[int]) -> list[Fraction]:
    """min(most, ε·part), with the ε by which they add up to `count`."""
    shares = [Fraction(each) for each in most]
    free = {*range(len(parts))}
    while free:
        left = count - sum(most[at] for at in range(len(parts)) if at not in free)
        scale = Fraction(left, sum(parts[at] for at in free))
        full = {at for at in free if scale * parts[at] > most[at]}
        if not full:
            return [scale * parts[at] if at in free else shares[at] for at in range(len(parts))]
        free -= full
    return shares
