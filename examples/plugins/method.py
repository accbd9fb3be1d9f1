"""An iterative method of one's own: `{name: shrinking_steps, first: 0.4}`."""

from typing import Literal

from torch import Tensor

from prunesweep import Iterative, Ratio, Rewinds, method, ratio_amount


@method
class ShrinkingSteps(Rewinds, Iterative):
    """Prune `first` of the weights, and ever less of what is left as the network gets sparse."""

    name: Literal["shrinking_steps"]
    first: Ratio = 0.3

    def amount(self, weights: Tensor, kept: Tensor) -> Tensor:
        share = kept.sum().item() / kept.numel()
        return ratio_amount(kept, max(self.first * share, 0.01))
