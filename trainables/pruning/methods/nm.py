"""N:M: of each m consecutive weights along the input dimension, n are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from trainables.lazy_torch import Tensor
from trainables.pruning.config import Pruning
from trainables.pruning.decorator import method
from trainables.pruning.iterative import Iterative
from trainables.pruning.method import Network, Step
from trainables.pruning.parts import Rewinds
from trainables.pruning.selection import drop_lowest
from trainables.sparsity.masks import Masks
from trainables.training.augmentation import Unfit


@method
class NM(Rewinds, Iterative):
    """Semi-structured sparsity, 2:4 by default (Mishra et al., 2021): one pruning of the trained
    network.

    The m weights of a group follow each other along dimension 1, the inputs, at one place of the
    kernel. Layers whose inputs m does not divide stay dense.
    """

    global_scope = True

    name: Literal["nm"]
    n: Annotated[int, Field(ge=1)] = 2
    m: Annotated[int, Field(ge=2)] = 4

    @model_validator(mode="after")
    def _fewer_than_all(self) -> Self:
        if self.n >= self.m:
            raise PydanticCustomError(
                "too_many",
                "n: {n} of {m} leaves all weights; choose n below m",
                {"n": self.n, "m": self.m, "at": ("n",)},
            )
        return self

    def steps(self, prune: Pruning) -> tuple[Step, ...]:
        """One pruning, whatever `prune.iterations`."""
        return super().steps(prune.model_copy(update={"iterations": 1}))

    def require_fit(self, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """Raises Unfit where no layer can be pruned."""
        if not any(self._divides(weight) for weight in weights().values()):
            raise Unfit(
                f"no layer has a number of inputs that {self.m} divides; choose another m", "m"
            )

    def amount(self, weights: Tensor, kept: Tensor) -> Tensor:
        return (kept.sum(dim=1) - self.n).clamp(min=0)

    def __call__(self, network: Network) -> Masks:
        weights, masks = network.weights, network.masks
        scores = self.weight_scores(network)
        return {
            name: self._without_lowest(scores[name], weight, masks[name])
            if self._divides(weight)
            else masks[name]
            for name, weight in weights.items()
        }

    def _without_lowest(self, scores: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        inputs_last = mask.movedim(1, -1)
        groups, each, kept = (t.movedim(1, -1).reshape(-1, self.m) for t in (scores, weight, mask))
        pruned = drop_lowest(groups, kept, self.amount(each, kept))
        return pruned.reshape(inputs_last.shape).movedim(-1, 1).contiguous()

    def _divides(self, weight: Tensor) -> bool:
        return weight.dim() > 1 and weight.shape[1] % self.m == 0
