"""SET: sparse evolutionary training."""

from __future__ import annotations

from typing import Literal

from trainables.lazy_torch import Tensor
from trainables.pruning.decorator import method
from trainables.pruning.drop_and_grow import DropAndGrow, uniform
from trainables.pruning.method import Network
from trainables.pruning.parts import Density


@method
class SET(DropAndGrow):
    """Train sparse, drop the smallest weights of each layer now and then, and grow as many at
    random (Mocanu et al., 2018)."""

    name: Literal["set"]
    density: Density

    def growth(self, network: Network, step: int) -> dict[str, Tensor]:
        """Of a stream of its own for every update."""
        return uniform(network.weights, network.stream("grown weights", step))
