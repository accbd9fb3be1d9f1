"""The iterative methods: a method is a row of a table, not a class hierarchy.

A row says whose weights are scored, by which criterion, and how many of a group's weights go.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainables.measures.masks import Masks
from trainables.models import prunable
from trainables.pruning.amount import kept_count, pq_amount, ratio_amount
from trainables.pruning.configs import IMP, SAP, IterativePruning, LotteryTicket, OneShot
from trainables.pruning.criteria import Criterion, Scoring, magnitude
from trainables.pruning.scope import Scope, grouped, ungrouped
from trainables.pruning.selection import drop_lowest, sampled


@dataclass(frozen=True)
class Method:
    """`scored`: "dense" for the trunk's trained weights w_0, "parent" for w_t.

    `amount(config, values, kept)` gives int64 [groups] for rows `values`, `kept` [groups, size].
    """

    scored: Literal["dense", "parent"]
    criterion: Criterion
    amount: Callable[[Any, Tensor, Tensor], Tensor]


def _ratio(config: OneShot | LotteryTicket | IMP, values: Tensor, kept: Tensor) -> Tensor:
    return ratio_amount(kept, config.ratio)


def _pq(config: SAP, values: Tensor, kept: Tensor) -> Tensor:
    options = config.model_dump(exclude={"name"})
    return pq_amount(values, kept, **options)


METHODS: dict[str, Method] = {
    "one_shot": Method(scored="dense", criterion=magnitude, amount=_ratio),
    "lottery_ticket": Method(scored="parent", criterion=magnitude, amount=_ratio),
    "sap": Method(scored="parent", criterion=magnitude, amount=_pq),
    "imp": Method(scored="parent", criterion=magnitude, amount=_ratio),
}


def prune(
    config: IterativePruning,
    scope: Scope,
    model: nn.Module,
    masks: Masks,
    density: float | None,
    generator: torch.Generator,
) -> Masks:
    """One pruning step: the new masks, a subset of `masks`.

    `model` has the weights that the method scores (see `Method.scored`). A `density` is met
    exactly, whatever the method's amount. `generator` is drawn from by `selection: sampled`.
    """
    weights = {name: weight.detach() for name, weight in prunable(model).items()}
    masks = {name: masks[name] for name in weights}
    scoring = Scoring(model=model, masks=masks, generator=generator)
    scores = METHODS[config.name].criterion(scoring)
    if isinstance(config, IMP) and config.selection == "sampled":
        return sampled(scores, masks, _imp_count(config, masks, density), generator)
    return without_lowest(config, scope, scores, weights, masks, density)


def without_lowest(
    config: IterativePruning,
    scope: Scope,
    scores: dict[str, Tensor],
    weights: dict[str, Tensor],
    masks: Masks,
    density: float | None = None,
) -> Masks:
    """`masks` without the lowest scores of each group of the scope, as many as the method says."""
    amount = METHODS[config.name].amount
    rows = zip(*(grouped(each, scope) for each in (scores, weights, masks)), strict=True)
    pruned = [
        drop_lowest(s, kept, amount(config, w, kept) if density is None else _excess(kept, density))
        for s, w, kept in rows
    ]
    return ungrouped(pruned, masks, scope)


def _excess(kept: Tensor, density: float) -> Tensor:
    """How many weights of each row are kept above `density`."""
    return (kept.sum(dim=1) - kept_count(density, kept.shape[1])).clamp(min=0)


def _imp_count(config: IMP, masks: Masks, density: float | None) -> int:
    (kept,) = grouped(masks, "global")
    amount = ratio_amount(kept, config.ratio) if density is None else _excess(kept, density)
    return int(kept.sum() - amount.sum())
