"""A sample of scores: of some weights, what a criterion says of each, and which of them stay."""

from __future__ import annotations

from trainables.lazy_torch import Tensor, torch
from trainables.sparsity.masks import Masks


class ScoreSample:
    """Scores of weights that are drawn uniformly over a whole network, without replacement.

    A method that scores tells it what it finds; of one that does not, `scores` stay None. By layer,
    `index` has the places of the drawn weights in the flattened layer, in order.
    """

    def __init__(self, masks: Masks, count: int, generator: torch.Generator) -> None:
        drawn = torch.randperm(sum(mask.numel() for mask in masks.values()), generator=generator)
        places = drawn[:count].sort().values
        self.index: dict[str, Tensor] = {}
        for name, mask in masks.items():
            self.index[name] = places[(places >= 0) & (places < mask.numel())]
            places = places - mask.numel()
        self.scores: Tensor | None = None
        self.highest: Tensor | None = None

    def of(self, tensors: dict[str, Tensor]) -> Tensor:
        """The values of the drawn weights, one layer after the other; on the CPU."""
        return torch.cat([tensors[n].flatten()[i.to(tensors[n].device)].cpu()
                          for n, i in self.index.items()])  # fmt: skip

    def add_scores(self, scores: dict[str, Tensor]) -> None:
        """Keep the scores of the network as it was before it was pruned: those that come first."""
        if self.scores is None:
            # Those of a plug-in may have gradients, or be of any kind of numbers.
            self.scores = self.of(scores).detach().double()

    def add_highest(self, masks: Masks) -> None:
        """Keep which weights would stay if the highest of the last scores did."""
        self.highest = self.of(masks)
