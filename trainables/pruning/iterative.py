"""Iterative pruning: T times prune some of what is kept, rewind and retrain."""

from __future__ import annotations

import json
from typing import Annotated, ClassVar

from trainables.config import canonical_json
from trainables.lazy_torch import Tensor, torch
from trainables.plugins.entry import Named, PluginError, described
from trainables.pruning.amount import kept_count
from trainables.pruning.config import Pruning
from trainables.pruning.criteria.magnitude import MAGNITUDE
from trainables.pruning.criterion import CRITERION, Criterion
from trainables.pruning.method import Method, Network, Scored, Scorer, Step, checked_masks
from trainables.pruning.scope import Scope, grouped, ungrouped
from trainables.pruning.selection import drop_lowest, sampled
from trainables.sparsity.masks import Masks


class Repeated(Method):
    """The base of methods that prune T times: the trunk is trained densely, and each of the T
    iterations prunes, rewinds and retrains."""

    scored: ClassVar[Scored] = "parent"

    def steps(self, prune: Pruning) -> tuple[Step, ...]:
        last, target = prune.iterations, self.target
        on_the_way, at_last = (self._adds(prune, density) for density in (None, target))
        pruned = [Step(t, "prune", on_the_way, scored=self.scored) for t in range(1, last)]
        if last:
            pruned.append(Step(last, "prune", at_last, density=target, scored=self.scored))
        return (Step(0, "train"), *pruned)

    def _adds(self, prune: Pruning, density: float | None) -> str:
        """What the key of an iteration adds that has to reach `density`; which one that is depends
        on how many there are, and nothing else in keys says so."""
        found = self.identity(prune)
        if self.target is None:
            return found
        return canonical_json({**json.loads(found), "density": density})


class Iterative(Repeated):
    """The base of methods that drop the lowest scores of what is `scored`, as many of each group of
    the scope as `amount` says."""

    criterion: Annotated[Criterion, Named(CRITERION)] = MAGNITUDE

    def amount(self, weights: Tensor, kept: Tensor) -> Tensor:
        """How many of each group's kept weights go, int64 [groups]; `weights` and `kept`, which
        are [groups, size], are the weights that are scored and whether they are kept."""
        raise NotImplementedError

    @property
    def real_examples(self) -> int:
        return self.criterion.real_examples

    def __call__(self, network: Network) -> Masks:
        weights = network.weights
        masks = {name: network.masks[name] for name in weights}
        scores = self.weight_scores(network)
        if not self.samples:
            return self.without_lowest(scores, weights, masks, network.scope, network.density)
        (each,), (kept,) = grouped(weights, "global"), grouped(masks, "global")
        count = int(kept.sum() - self._amount(each, kept, network.density).sum())
        return sampled(scores, masks, count, network.stream("selection", network.iteration))

    def without_lowest(
        self,
        scores: dict[str, Tensor],
        weights: dict[str, Tensor],
        masks: Masks,
        scope: Scope,
        density: float | None = None,
    ) -> Masks:
        """`masks` without the lowest scores of each group of the scope: as many as `amount` says,
        or as many as are kept above a `density`."""
        rows = zip(*(grouped(each, scope) for each in (scores, weights, masks)), strict=True)
        pruned = [drop_lowest(s, kept, self._amount(w, kept, density)) for s, w, kept in rows]
        return ungrouped(pruned, masks, scope)

    def weight_scores(self, network: Network) -> dict[str, Tensor]:
        masks = {name: network.masks[name] for name in network.weights}
        criterion, t = self.criterion, network.iteration
        inputs = criterion.inputs(network.data, network.stream("scoring data", t))
        scorer = Scorer.of(network, inputs, network.stream("scores", t))
        return scorer.scores(criterion, f"{criterion.where()}: {criterion.name}", masks)

    def _amount(self, weights: Tensor, kept: Tensor, density: float | None) -> Tensor:
        if density is not None:
            return _above(density, kept)
        amounts = self.amount(weights, kept)
        if (
            not isinstance(amounts, torch.Tensor)
            or amounts.shape != kept.shape[:1]
            or amounts.dtype != torch.int64
        ):
            raise PluginError(
                f"{self.where()}: the amount of {self.name} is {described(amounts)}; it must be "
                f"int64 ({len(kept)},), a number for each group"
            )
        # The last pruning brings nothing back of what goes too early.
        return amounts if self.target is None else amounts.minimum(_above(self.target, kept))


def _above(density: float, kept: Tensor) -> Tensor:
    """How many more than a `density` leaves are kept of each group."""
    return (kept.sum(dim=1) - kept_count(density, kept.shape[1])).clamp(min=0)


class ByFunction(Repeated):
    """A method that is a function of the network, called at every iteration."""

    def __call__(self, network: Network) -> Masks:
        found = checked_masks(self.call(network), network.masks, f"{self.where()}: {self.name}")
        return {name: found[name] & mask for name, mask in network.masks.items()}
