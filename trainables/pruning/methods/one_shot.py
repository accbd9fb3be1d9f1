"""One-shot pruning: the dense trained weights, pruned at every iteration."""

from __future__ import annotations

import json
from typing import Literal

from trainables.config import canonical_json
from trainables.lazy_torch import Tensor
from trainables.pruning.amount import ratio_amount
from trainables.pruning.config import Pruning
from trainables.pruning.decorator import method
from trainables.pruning.iterative import Iterative
from trainables.pruning.parts import Ratio, Rewinds


@method
class OneShot(Rewinds, Iterative):
    """Prune by the magnitudes of the dense trained weights w_0, at every iteration."""

    scored = "dense"

    name: Literal["one_shot"]
    ratio: Ratio = 0.2

    def identity(self, prune: Pruning, *without: str) -> str:
        """With BatchNorm as it was trained, that of w_0 too: earlier versions took w_{t-1}'s."""
        found = super().identity(prune, *without)
        if prune.rewind_batchnorm:
            return found
        return canonical_json({**json.loads(found), "batchnorm": self.scored})

    def amount(self, weights: Tensor, kept: Tensor) -> Tensor:
        return ratio_amount(kept, self.ratio)
