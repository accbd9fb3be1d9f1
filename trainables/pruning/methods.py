"""The methods: a method is a row of a table, not a class hierarchy.

A row says whose weights are scored, by which criterion, and how many of a group's weights go.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from trainables.config import Config
from trainables.masks import Masks
from trainables.pruning.amount import pq_amount, ratio_amount
from trainables.pruning.criteria import Criterion, magnitude
from trainables.pruning.scope import Scope, grouped, ungrouped
from trainables.pruning.selection import drop_lowest

Ratio = Annotated[float, Field(gt=0, lt=1)]


class Rewind(Config):
    """Where retraining starts: step 0 is the initialization, step k the trunk after k steps."""

    step: Annotated[int, Field(ge=0)] = 0


class Pruning(Config):
    """How a lineage is pruned, whatever its method.

    With `rewind_batchnorm: false`, BatchNorm statistics stay as trained when the weights rewind.
    """

    iterations: Annotated[int, Field(ge=0, le=1000)] = 30
    scope: Scope = "global"
    rewind_batchnorm: bool = True


class OneShot(Config):
    """Prune by the magnitudes of the dense trained weights w_0, at every iteration."""

    name: Literal["one_shot"]
    ratio: Ratio = 0.2


class LotteryTicket(Config):
    """Prune by the magnitudes of w_t, rewind, retrain (Frankle & Carbin, 2019)."""

    name: Literal["lottery_ticket"]
    ratio: Ratio = 0.2
    rewind: Rewind = Rewind()


class SAP(Config):
    """Sparsity-informed Adaptive Pruning (SAP Algorithm 1)."""

    name: Literal["sap"]
    p: Annotated[float, Field(gt=0, le=1)] = 0.5
    q: Annotated[float, Field(ge=1)] = 1.0
    eta: Annotated[float, Field(ge=0)] = 0.0
    gamma: Annotated[float, Field(gt=0)] = 1.0
    beta: Ratio = 0.9

    @model_validator(mode="after")
    def _p_below_q(self) -> Self:
        if self.p >= self.q:
            raise ValueError(f"p = {self.p:g} must be below q = {self.q:g}")
        return self


MethodConfig = Annotated[OneShot | LotteryTicket | SAP, Field(discriminator="name")]


@dataclass(frozen=True)
class Method:
    """`scored`: "dense" for the trunk's trained weights w_0, "parent" for w_t.

    `amount(config, values, kept)` gives int64 [groups] for rows `values`, `kept` [groups, size].
    """

    scored: Literal["dense", "parent"]
    criterion: Criterion
    amount: Callable[[Any, Tensor, Tensor], Tensor]


def _ratio(config: OneShot | LotteryTicket, values: Tensor, kept: Tensor) -> Tensor:
    return ratio_amount(kept, config.ratio)


def _pq(config: SAP, values: Tensor, kept: Tensor) -> Tensor:
    options = config.model_dump(exclude={"name"})
    return pq_amount(values, kept, **options)


METHODS: dict[str, Method] = {
    "one_shot": Method(scored="dense", criterion=magnitude, amount=_ratio),
    "lottery_ticket": Method(scored="parent", criterion=magnitude, amount=_ratio),
    "sap": Method(scored="parent", criterion=magnitude, amount=_pq),
}


def rewind_step(config: OneShot | LotteryTicket | SAP) -> int:
    """The training step that retraining starts from (0: the initialization)."""
    return config.rewind.step if isinstance(config, LotteryTicket) else 0


def prune(
    config: OneShot | LotteryTicket | SAP, scope: Scope, weights: dict[str, Tensor], masks: Masks
) -> Masks:
    """One pruning step: the new masks, a subset of `masks`.

    `weights` are the prunable weights that the method scores (see `Method.scored`).
    """
    method = METHODS[config.name]
    scores = grouped(method.criterion(weights), scope)
    values = grouped(weights, scope)
    kept = grouped(masks, scope)
    pruned = [
        drop_lowest(s, k, method.amount(config, v, k))
        for s, v, k in zip(scores, values, kept, strict=True)
    ]
    return ungrouped(pruned, masks, scope)
