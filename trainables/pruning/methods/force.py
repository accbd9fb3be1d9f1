"""FORCE (de Jorge et al., 2021): SNIP in rounds, in which weights can come back."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainables.pruning.at_init import InRounds
from trainables.pruning.criteria.snip import loss_slopes
from trainables.pruning.decorator import method
from trainables.pruning.method import Network
from trainables.pruning.scoring import Named, Scoring
from trainables.pruning.scoring_data import Examples
from trainables.sparsity.masks import Masks


@method
class FORCE(Examples, InRounds):
    """|θ·∂L/∂θ̄| of all weights θ, the slope at the weights θ̄ = θ⊙m of the round before.

    A pruned weight comes back when the loss of the pruned network would depend on it enough.
    """

    name: Literal["force"]
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 60

    def __call__(self, network: Network) -> Masks:
        """After the last round exactly N − ⌊(1−ρ)N⌋ weights are kept.

        Raises ValueError when the training data has fewer than `examples` examples, or when a
        score is not a finite number.
        """
        dense = masks = network.masks
        inputs = self.inputs(network.data, network.stream("scoring data", self.name))
        scoring = Scoring(network.to_score(), dense, inputs())
        for count in self.kept_after_rounds(sum(mask.numel() for mask in dense.values())):
            scores = self._scores(scoring, masks)
            masks = self.highest_by_layer(scores, dense, count)
            if network.sample is not None:
                network.sample.add_scores(scores)
                network.sample.add_highest(masks)
        return masks

    def _scores(self, scoring: Scoring, masks: Masks) -> Named:
        weights = scoring.weights
        slopes = loss_slopes(scoring, {name: w * masks[name] for name, w in weights.items()})
        scores = {name: (weight * slopes[name]).abs() for name, weight in weights.items()}
        for layer, score in scores.items():
            if not bool(score.isfinite().all()):
                raise ValueError(f"{self.name}: not all scores of {layer} are finite numbers")
        return scores
