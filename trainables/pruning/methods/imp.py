"""IMP: iterative magnitude pruning down to a density, on real or random data."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from trainables.config import Choice, canonical_json
from trainables.lazy_torch import Tensor
from trainables.pruning.amount import ratio_amount
from trainables.pruning.config import MAX_ITERATIONS, Pruning
from trainables.pruning.decorator import method
from trainables.pruning.iterative import Iterative
from trainables.pruning.method import Step
from trainables.pruning.parts import Density, Ratio, Rewind, Rewinds, Selects, ToDensity


@method
class IMP(ToDensity, Rewinds, Selects, Iterative):
    """Iterative magnitude pruning with rewinding, down to a density (sketching paper §8).

    `data: random` finds the mask on normal inputs with uniform labels, and then retrains it on
    real data as one more iteration.
    """

    global_scope = True

    # Those of the parts too, as labels have them in this order.
    name: Literal["imp"]
    density: Density
    ratio: Ratio = 0.2
    rewind: Rewind = Rewind()
    data: Annotated[Literal["real", "random"], Choice("inputs")] = "real"

    @model_validator(mode="after")
    def _rewinds_to_real_weights(self) -> Self:
        if self.data == "random" and self.rewind.rewound != "weights":
            raise PydanticCustomError(
                "meaningless",
                "the mask of data: random is trained from weights of the real trunk; leave out "
                "rewound, or set data: real",
                {"at": ("rewind", "rewound")},
            )
        return self

    @model_validator(mode="after")
    def _few_enough_iterations(self) -> Self:
        if self._rounds > MAX_ITERATIONS:
            # In floats, and upwards, so that what is advised is enough.
            least = -math.expm1(math.log(self.density) / MAX_ITERATIONS)
            place = 10 ** (1 - math.floor(math.log10(least)))
            raise PydanticCustomError(
                "too_many",
                "a ratio of {ratio} takes {rounds} iterations to the density {density}, and at "
                "most {most} are allowed; choose a ratio of {least} or more",
                {
                    "ratio": f"{self.ratio:g}",
                    "rounds": f"{self._rounds:{',.0f' if self._rounds < 1e12 else '.0e'}}",
                    "density": f"{self.density:g}",
                    "most": f"{MAX_ITERATIONS:,}",
                    "least": f"{math.ceil(least * place) / place:g}",
                    "at": ("ratio",),
                },
            )
        return self

    def amount(self, weights: Tensor, kept: Tensor) -> Tensor:
        return ratio_amount(kept, self.ratio)

    def steps(self, prune: Pruning) -> tuple[Step, ...]:
        """As many as it takes to the density, whatever `prune.iterations`.

        Those above the density carry none in their identity, so that densities share them.
        """
        last = self.iterations
        on_the_way = self.identity(prune, "density")
        steps = [Step(0, "train", inputs=self.data)]
        for t in range(1, last):
            steps.append(Step(t, "prune", on_the_way, self.data))
        steps.append(Step(last, "prune", self.identity(prune), self.data, self.density))
        if self.data == "random":
            retrain = canonical_json({"retrain": "real"})
            steps.append(Step(last + 1, "retrain", retrain, "real", self.density))
        return tuple(steps)

    @property
    def iterations(self) -> int:
        """How many prunings of a ratio P bring the density to ρ: ⌈log ρ / log(1−P)⌉, at least
        one, and at most MAX_ITERATIONS."""
        return max(1, math.ceil(self._rounds - 1e-9))

    @property
    def _rounds(self) -> float:
        return math.log(self.density) / math.log1p(-self.ratio)
