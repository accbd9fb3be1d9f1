"""Convergent representations: whether tickets of two seeds have units that do the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from trainables.measurements.connectivity import some
from trainables.measurements.measure import Across, Measure, Row, Tickets, measure

if TYPE_CHECKING:
    import pyarrow as pa


@measure
class Representations(Measure):
    """Correlations of units' activations between the tickets of each two seeds, of each unit with
    the one that is most like it (Li, Yosinski, Clune, Lipson, Hopcroft, 2016).

    `examples` of the test set are evaluated, by default all. It trains nothing.
    """

    table: ClassVar[str] = "representations"
    across: ClassVar[Across | None] = "seed"

    name: Literal["representations"]
    examples: Annotated[int, Field(ge=2)] | None = None

    @classmethod
    def columns(cls) -> pa.Schema:
        import pyarrow as pa

        return pa.schema(
            [
                ("one", pa.int64()),
                ("other", pa.int64()),
                ("layer", pa.string()),
                ("units", pa.int64()),
                ("dead_one", pa.int64()),
                ("dead_other", pa.int64()),
                ("greedy_one", pa.float64()),
                ("greedy_other", pa.float64()),
                ("bipartite", pa.float64()),
                ("examples", pa.int64()),
                ("with_lineage", pa.string()),
            ]
        )

    def reads(self, index: int) -> frozenset[int]:
        return frozenset({index})

    def __call__(self, tickets: Tickets) -> Sequence[Row]:
        from trainables.measurements.activations import bipartite, correlations, greedy

        tickets.require_time()
        one, other = tickets.pair
        test = some(tickets.data.test, self.examples)
        first, second = (tickets.model(each.trained()) for each in (one, other))
        found = correlations(first, second, test, tickets.recipe.precision)
        return [
            {
                "one": one.seed,
                "other": other.seed,
                "layer": layer,
                "units": each.units,
                "dead_one": each.dead[0],
                "dead_other": each.dead[1],
                "greedy_one": greedy(each.alive),
                "greedy_other": greedy(each.alive.T),
                "bipartite": bipartite(each.alive),
                "examples": len(test),
            }
            for layer, each in found.items()
        ]
