"""Parts: what methods are put together from. Each is a field of the config, and what it means."""

from typing import Annotated, Literal

from pydantic import Field

from trainables.config import Choice, Config

Ratio = Annotated[float, Field(gt=0, lt=1)]
Density = Annotated[float, Field(gt=0, le=1)]
Selection = Annotated[Literal["threshold", "sampled"], Choice("selection")]


Rewound = Literal["weights", "learning_rate", "nothing"]


class Rewind(Config):
    """Where retraining starts: step 0 is the initialization, step k the trunk after k steps.

    `rewound` says what goes back there (Renda et al., 2020): the weights, and the learning rate
    with them; the learning rate alone, so that training goes on from the weights that were scored;
    or nothing, so that they are fine-tuned at the last learning rate, for as many steps.
    """

    step: Annotated[int, Field(ge=0)] = 0
    rewound: Annotated[Rewound, Choice("rewound")] = "weights"


class Rewinds(Config):
    """Retraining starts where `rewind` says, and not at the initialization."""

    rewind: Rewind = Rewind()

    @property
    def rewind_step(self) -> int:
        return self.rewind.step

    @property
    def rewinds(self) -> Rewound:
        return self.rewind.rewound


class ToDensity(Config):
    """The last pruning meets `density` exactly."""

    density: Density

    @property
    def target(self) -> float | None:
        return self.density


class Selects(Config):
    """`threshold` keeps the highest scores, `sampled` draws masks (sketching paper §8)."""

    selection: Selection = "threshold"

    @property
    def samples(self) -> bool:
        return self.selection == "sampled"


PARTS: dict[type[Config], str] = {
    Rewinds: "rewind_step",
    ToDensity: "target",
    Selects: "samples",
}
"""Each part, and the property of a method by which it means something."""
