"""New initial weights under the same mask."""

from typing import Literal

from trainables.pruning.ablation import Ablation, ablation
from trainables.training.randomness import stream_seed


@ablation
class Reinit(Ablation):
    """The mask on initial weights that are drawn anew, trained from the first step on (Frankle &
    Carbin 2019)."""

    start = "initial"

    name: Literal["reinit"]

    def initial_seed(self, seed: int) -> int:
        return stream_seed(seed, "ablation", "reinit")
