"""One-shot pruning: the dense trained weights, pruned at every iteration."""

from typing import Literal

from torch import Tensor

from trainables.pruning.amount import ratio_amount
from trainables.pruning.decorator import method
from trainables.pruning.iterative import Iterative
from trainables.pruning.parts import Ratio


@method
class OneShot(Iterative):
    """Prune by the magnitudes of the dense trained weights w_0, at every iteration."""

    scored = "dense"

    name: Literal["one_shot"]
    ratio: Ratio = 0.2

    def amount(self, weights: Tensor, kept: Tensor) -> Tensor:
        return ratio_amount(kept, self.ratio)
