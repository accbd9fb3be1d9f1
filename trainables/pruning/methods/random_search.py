"""Random search: of many random sparse networks, the one that is best before training."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from trainables.config import Choice
from trainables.lazy_torch import Tensor, torch
from trainables.pruning.amount import kept_count
from trainables.pruning.at_init import PrunedAtInit
from trainables.pruning.decorator import method
from trainables.pruning.method import Network
from trainables.pruning.scoring import Scoring, loss
from trainables.pruning.scoring_data import Examples
from trainables.sparsity.masks import Masks


@method
class RandomSearch(Examples, PrunedAtInit):
    """Draw `candidates` masks of the density, and train the one whose untrained network has the
    lowest loss, or the highest accuracy, on training examples."""

    name: Literal["random_search"]
    candidates: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    score: Annotated[Literal["loss", "accuracy"], Choice("score")] = "loss"

    def __call__(self, network: Network) -> Masks:
        """Exactly N − ⌊(1−ρ)N⌋ weights of each candidate are kept; of equal ones, the first is
        taken. Raises ValueError when the training data has fewer than `examples` examples."""
        count = kept_count(self.density, sum(mask.numel() for mask in network.masks.values()))
        inputs = self.inputs(network.data, network.stream("scoring data", self.name))
        draws = network.stream("candidates", self.name)
        scoring = Scoring(network.to_score(), network.masks, inputs())
        candidates = (self._drawn(network.masks, count, draws) for _ in range(self.candidates))
        with torch.no_grad():
            return min(candidates, key=lambda masks: self._cost(scoring, masks))

    def _drawn(self, masks: Masks, count: int, draws: torch.Generator) -> Masks:
        noise = {
            name: torch.rand(mask.shape, generator=draws, dtype=torch.float64).to(mask.device)
            for name, mask in masks.items()
        }
        return self.highest_by_layer(noise, masks, count)

    def _cost(self, scoring: Scoring, masks: Masks) -> float:
        """The loss summed over all examples, or how many are misclassified."""
        weights = {name: weight * masks[name] for name, weight in scoring.weights.items()}
        if self.score == "loss":
            found = sum(loss(scoring, weights, batch).item() for batch in scoring.batches)
            return found if math.isfinite(found) else math.inf
        return sum(_mistakes(scoring, weights, *batch) for batch in scoring.batches)


def _mistakes(scoring: Scoring, weights: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> int:
    logits = torch.func.functional_call(scoring.model, weights, (inputs,))
    return int((logits.argmax(dim=1) != labels).sum())
