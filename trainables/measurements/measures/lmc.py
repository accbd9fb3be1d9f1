"""Linear mode connectivity: whether a ticket's training is stable to the noise of SGD."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from trainables.measurements.connectivity import Connectivity
from trainables.measurements.measure import Row, Tickets, measure
from trainables.training.augmentation import Unfit

if TYPE_CHECKING:
    from trainables.training.progress import State
    from trainables.training.run import Training


@measure
class LinearModeConnectivity(Connectivity):
    """Error and loss between copies of an iteration, trained from w_k with the same mask in
    different orders (Frankle, Dziugaite, Roy, Carbin, 2020).

    `rewind` is k. Each pair of copies is a line.
    """

    name: Literal["lmc"]
    copies: Annotated[int, Field(ge=2, le=100)] = 2
    rewind: Annotated[int, Field(ge=0)] = 0

    @property
    def label(self) -> str:
        return f"lmc from step {self.rewind}"

    @property
    def snapshots(self) -> frozenset[int]:
        return frozenset({self.rewind})

    @property
    def trainings(self) -> int:
        return self.copies

    def require_fit(self, steps: int, train_examples: int) -> None:
        super().require_fit(steps, train_examples)
        if self.rewind >= steps:
            raise Unfit(
                f"step {self.rewind} is past the end of training, which has {steps} steps; choose "
                f"a step up to {steps - 1}",
                "rewind",
            )

    def __call__(self, tickets: Tickets) -> Generator[Training, Any, Sequence[Row]]:
        state, masks = tickets.rewound(self.rewind), tickets.masks(tickets.index)
        ends: dict[int, State] = {}
        for number in range(1, self.copies + 1):
            ends[number] = yield from tickets.copy(number, state, masks, self.rewind)
        return self.rows(tickets, ends, self.rewind)
