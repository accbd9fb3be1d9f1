"""Linear mode connectivity of tickets that follow each other in a lineage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from trainables.measurements.connectivity import Connectivity
from trainables.measurements.measure import Row, Tickets, measure
from trainables.pruning import Step


@measure
class ConsecutiveConnectivity(Connectivity):
    """Error and loss between the trained weights of an iteration and of the one before it.

    It trains nothing.
    """

    name: Literal["lmc_consecutive"]

    def measures(self, steps: Sequence[Step], index: int) -> bool:
        before = index > 0 and steps[index - 1].inputs == "real"
        return before and super().measures(steps, index)

    def reads(self, index: int) -> frozenset[int]:
        return frozenset({index - 1, index})

    def __call__(self, tickets: Tickets) -> Sequence[Row]:
        at = sorted(self.reads(tickets.index))
        ends = {tickets.steps[index].iteration: tickets.trained(index) for index in at}
        return self.rows(tickets, ends)
