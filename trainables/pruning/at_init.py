"""Pruning at initialization: score, select, and again, until the density is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import Field

from trainables.config import Choice, canonical, canonical_json
from trainables.lazy_torch import Tensor
from trainables.pruning.amount import kept_count
from trainables.pruning.config import Pruning
from trainables.pruning.layer_densities import LayerDensities
from trainables.pruning.method import Method, Network, Scorer, Step
from trainables.pruning.parts import Selects, ToDensity
from trainables.pruning.scoring import Scoring
from trainables.pruning.scoring_data import ScoringData
from trainables.pruning.selection import sampled_of_each
from trainables.sparsity.masks import Masks, kept_counts


class PrunedAtInit(LayerDensities, ToDensity, Method):
    """The base of methods that prune once, at initialization, and train what is left."""

    global_scope = True

    def steps(self, prune: Pruning) -> tuple[Step, ...]:
        """One, which needs no trunk, and whose key has nothing of `prune`."""
        adds = canonical_json({"method": canonical(self)})
        return (Step(1, "prune", adds, density=self.density, scored="init"),)

    def require_fit(self, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """Raises Unfit."""
        if self.layer_densities != "global":
            self.require_room(self.density, weights())


class InRounds(PrunedAtInit):
    """The base of those that do so in several rounds, which bring the density down on a `schedule`:
    after round i of n it is ρ^{i/n} (exponential) or 1 − (1−ρ)·i/n (linear)."""

    rounds: Annotated[int, Field(ge=1, le=10_000)] = 1
    schedule: Annotated[Literal["exponential", "linear"], Choice("schedule")] = "exponential"

    def kept_after_rounds(self, total: int) -> list[int]:
        """How many of `total` weights are kept after each round: exact at the last one, and in the
        floats of SynFlow's published code on the way."""
        last = kept_count(self.density, total)
        on_the_way = [self.round_density(round_) for round_ in range(1, self.rounds)]
        # In floats a tiny density leaves nothing, and the last round keeps at least one weight.
        return [max(last, total - int((1.0 - density) * total)) for density in on_the_way] + [last]

    def round_density(self, round_: int) -> float:
        """The density after `round_` (from 1) of the rounds."""
        done = round_ / self.rounds
        if self.schedule == "exponential":
            return self.density**done
        return 1 - (1 - self.density) * done


class AtInit(Selects, ScoringData, InRounds):
    """The base of the method that every criterion is at initialization: one pruning, one training.

    Every round scores what those before it have kept. With `selection: sampled`, masks are drawn at
    the last round, or at `every` one. `layer_densities` says how many weights each layer keeps, in
    which the highest scores of the layer stay.
    """

    sampled_rounds: Annotated[Literal["last", "every"], Choice("sampled_rounds")] = "last"

    def scores(self, scoring: Scoring) -> dict[str, Tensor]:
        """What the criterion says."""
        return self.call(scoring)

    def __call__(self, network: Network) -> Masks:
        """After the last round exactly N − ⌊(1−ρ)N⌋ weights are kept, and a weight that a round
        prunes never comes back.

        Raises ValueError when the training data has fewer than `examples` examples, or when a
        score is not a finite number.
        """
        masks = network.masks
        counts = self.kept_after_rounds(sum(mask.numel() for mask in masks.values()))
        selection = network.stream("selection", self.name)
        scorer = self._scorer(network)
        for round_, count in enumerate(counts, start=1):
            scores = self._scored(scorer, masks)
            highest = self.highest_by_layer(scores, masks, count)
            if network.sample is not None:
                network.sample.add_scores(scores)
                network.sample.add_highest(highest)
            if self._draws(round_):
                highest = sampled_of_each(scores, masks, kept_counts(highest), selection)
            masks = highest
        return masks

    def weight_scores(self, network: Network) -> dict[str, Tensor]:
        return self._scored(self._scorer(network), network.masks)

    def _scorer(self, network: Network) -> Scorer:
        inputs = self.inputs(network.data, network.stream("scoring data", self.name))
        return Scorer.of(network, inputs, network.stream("scores", self.name))

    def _scored(self, scorer: Scorer, masks: Masks) -> dict[str, Tensor]:
        return scorer.scores(self.scores, f"{self.where()}: {self.name}", masks)

    def _draws(self, round_: int) -> bool:
        return self.samples and (self.sampled_rounds == "every" or round_ == self.rounds)
