"""The pruned weights trained on with the learning rates from an earlier step."""

from typing import Annotated, Literal

from pydantic import Field

from trainables.pruning.ablation import Ablation, ablation


@ablation
class RewindLr(Ablation):
    """The trained weights that were pruned, trained on with the learning rate schedule from `step`
    to its end (Renda et al. 2020)."""

    start = "trained"

    name: Literal["rewind_lr"]
    step: Annotated[int, Field(ge=0)] = 0

    def first_step(self, rewound: int) -> int:
        return self.step
