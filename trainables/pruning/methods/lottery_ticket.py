"""Lottery tickets: prune the smallest trained weights, rewind, retrain."""

from __future__ import annotations

from typing import Literal

from trainables.lazy_torch import Tensor
from trainables.pruning.amount import ratio_amount
from trainables.pruning.decorator import method
from trainables.pruning.iterative import Iterative
from trainables.pruning.parts import Ratio, Rewinds


@method
class LotteryTicket(Rewinds, Iterative):
    """Prune by the magnitudes of w_t, rewind, retrain (Frankle & Carbin, 2019)."""

    name: Literal["lottery_ticket"]
    ratio: Ratio = 0.2

    def amount(self, weights: Tensor, kept: Tensor) -> Tensor:
        return ratio_amount(kept, self.ratio)
