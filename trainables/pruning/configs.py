"""What a sweep file says of a method: one config class each."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainables.config import Config
from trainables.pruning.scope import Scope

Ratio = Annotated[float, Field(gt=0, lt=1)]
Density = Annotated[float, Field(gt=0, le=1)]
Selection = Literal["threshold", "sampled"]


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


class IMP(Config):
    """Iterative magnitude pruning with rewinding, down to a density (sketching paper §8).

    `data: random` finds the mask on normal inputs with uniform labels, and then retrains it on
    real data as one more iteration.
    """

    name: Literal["imp"]
    density: Density
    ratio: Ratio = 0.2
    rewind: Rewind = Rewind()
    data: Literal["real", "random"] = "real"
    selection: Selection = "threshold"


class AtInit(Config):
    """What pruning at initialization has in common.

    The scores of `rounds` rounds bring the density down to `density` on a `schedule`: after round
    i of n it is ρ^{i/n} (exponential) or 1 − (1−ρ)·i/n (linear). With `selection: sampled`, masks
    are drawn at the last round, or at `every` one.
    """

    density: Density
    selection: Selection = "threshold"
    sampled_rounds: Literal["last", "every"] = "last"
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 1
    schedule: Literal["exponential", "linear"] = "exponential"


class Random(AtInit):
    """A score for every weight from a standard normal distribution."""

    name: Literal["random"]


class Magnitude(AtInit):
    """|w| at initialization."""

    name: Literal["magnitude"]


class SNIP(AtInit):
    """|w·∂L/∂w| at initialization (Lee et al., 2019), on `examples` examples."""

    name: Literal["snip"]
    data: Literal["real", "normal", "sparse"] = "real"
    examples: Annotated[int, Field(gt=0)] = 256


class GraSP(AtInit):
    """θ·Hg at initialization (Wang et al., 2020), logits divided by `temperature`; the highest
    are kept."""

    name: Literal["grasp"]
    data: Literal["real", "normal", "sparse"] = "real"
    examples: Annotated[int, Field(gt=0)] = 256
    temperature: Annotated[float, Field(gt=0)] = 200.0


class SynFlow(AtInit):
    """|∂R/∂w · w| with R the summed logits of the net of absolute weights (Tanaka et al., 2020)."""

    name: Literal["synflow"]
    data: Literal["ones", "chi"] = "ones"
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 100


PruningAtInit = Random | Magnitude | SNIP | GraSP | SynFlow
IterativePruning = OneShot | LotteryTicket | SAP | IMP

MethodConfig = Annotated[IterativePruning | PruningAtInit, Field(discriminator="name")]
