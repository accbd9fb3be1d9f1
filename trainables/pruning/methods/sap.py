"""SAP: the PQ Index of the trained weights says how many go."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainables.lazy_torch import Tensor
from trainables.pruning.amount import pq_amount
from trainables.pruning.decorator import method
from trainables.pruning.iterative import Iterative
from trainables.pruning.parts import Ratio, Rewinds


@method
class SAP(Rewinds, Iterative):
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

    def amount(self, weights: Tensor, kept: Tensor) -> Tensor:
        return pq_amount(
            weights, kept, p=self.p, q=self.q, eta=self.eta, gamma=self.gamma, beta=self.beta
        )
