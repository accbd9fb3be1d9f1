"""Linear mode connectivity of the tickets that two methods find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from trainables.measurements.connectivity import Connectivity
from trainables.measurements.measure import Across, Row, Tickets, measure


@measure
class MethodConnectivity(Connectivity):
    """Error and loss between the trained weights of each two methods' tickets of one seed, at equal
    densities that are aimed at, or else at equal iterations.

    It trains nothing.
    """

    name: Literal["lmc_methods"]
    across: ClassVar[Across | None] = "method"

    def reads(self, index: int) -> frozenset[int]:
        return frozenset({index})

    def __call__(self, tickets: Tickets) -> Sequence[Row]:
        one, other = tickets.pair
        told = {"one": one.iteration, "other": other.iteration}
        # They may be of one iteration, by whose numbers `rows` tells others apart.
        return [row | told for row in self.rows(tickets, {0: one.trained(), 1: other.trained()})]
