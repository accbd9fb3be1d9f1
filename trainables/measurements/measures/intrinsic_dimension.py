"""The intrinsic dimension of a ticket: in how few directions its training gets nearly as far."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import isclose
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from trainables.config import Choice
from trainables.errors import Diverged
from trainables.measurements.measure import Measure, Row, Tickets, measure
from trainables.pruning import Step
from trainables.training.augmentation import Unfit
from trainables.training.randomness import stream

if TYPE_CHECKING:
    import pyarrow as pa

    from trainables.training.evaluation import Evaluation
    from trainables.training.run import Training


def _ascending(dimensions: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({*dimensions}))


Dimensions = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    Field(min_length=1),
    AfterValidator(_ascending),
]


@measure
class IntrinsicDimension(Measure):
    """The smallest of `dimensions` d in which a ticket's training reaches `share` of an accuracy
    (Li, Farkhoor, Liu, Yosinski, 2018).

    The free weights are θ_0 + P z, of which z, d numbers, is trained by the recipe; P is a sparse
    random projection. The accuracy is that of the iteration itself, or of the `dense` network.
    A d in which training diverges has neither loss nor accuracy, and does not reach it.
    """

    table: ClassVar[str] = "intrinsic_dimension"
    starts_rewound: ClassVar[bool] = True

    name: Literal["intrinsic_dimension"]
    dimensions: Dimensions = (100, 200, 400, 800, 1600)
    share: Annotated[float, Field(gt=0, le=1)] = 0.9
    baseline: Annotated[Literal["ticket", "dense"], Choice("baseline")] = "ticket"

    @classmethod
    def columns(cls) -> pa.Schema:
        import pyarrow as pa

        return pa.schema(
            [
                ("what", pa.string()),
                ("dimension", pa.int64()),
                ("free", pa.int64()),
                ("test_loss", pa.float64()),
                ("test_accuracy", pa.float64()),
                ("baseline", pa.string()),
                ("baseline_accuracy", pa.float64()),
                ("share", pa.float64()),
            ]
        )

    @property
    def trainings(self) -> int:
        return len(self.dimensions)

    def require_network(self, weights: int) -> None:
        if self.dimensions[0] > weights:
            raise Unfit(
                f"{self.dimensions[0]} directions are more than its {weights} weights have, so "
                f"none of the dimensions would be measured; choose some up to {weights}",
                "dimensions",
            )

    def measures(self, steps: Sequence[Step], index: int) -> bool:
        dense = steps[0].kind == "train" and steps[0].inputs == "real"
        return (dense or self.baseline == "ticket") and super().measures(steps, index)

    def __call__(self, tickets: Tickets) -> Generator[Training, Any, Sequence[Row]]:
        from trainables.measurements.projection import free_weights

        start, masks = tickets.rewound(tickets.start_step), tickets.masks(tickets.index)
        free = len(free_weights(tickets.model(start), masks))
        points: dict[int, Evaluation | None] = {}
        for dimension in (d for d in self.dimensions if d <= free):
            points[dimension] = yield from self._reached(tickets, dimension, free)
        accuracy = tickets.accuracy(tickets.index if self.baseline == "ticket" else 0)
        of_all = {
            "free": free,
            "baseline": self.baseline,
            "baseline_accuracy": accuracy,
            "share": self.share,
        }
        enough = (d for d, at in points.items() if at and self.is_enough(at.accuracy, accuracy))
        return [
            *(
                of_all
                | {"what": "point", "dimension": dimension}
                | {"test_loss": found and found.loss, "test_accuracy": found and found.accuracy}
                for dimension, found in points.items()
            ),
            of_all | {"what": "intrinsic", "dimension": next(enough, None)},
        ]

    def is_enough(self, accuracy: float, baseline: float) -> bool:
        """Whether an accuracy is `share` of the baseline's, or more. Both are counts of one test
        set over its size, so that exactly the share is common, and rounded either way."""
        goal = self.share * baseline
        return accuracy >= goal or isclose(accuracy, goal)

    def _reached(
        self, tickets: Tickets, dimension: int, free: int
    ) -> Generator[Training, Any, Evaluation | None]:
        """What training reaches in `dimension` directions of the `free` weights; None where it
        diverges."""
        from trainables.measurements.projection import Projection, Subspace
        from trainables.training.evaluation import evaluate

        t, recipe = tickets.steps[tickets.index].iteration, tickets.recipe
        drawn = stream(tickets.seed, "projection", t, dimension)
        projection = Projection.drawn(free, dimension, drawn)
        network = tickets.model(tickets.rewound(tickets.start_step))
        subspace = Subspace(network, tickets.masks(tickets.index), projection)
        name = f"dimension-{dimension}"
        try:
            trained = yield from tickets.train(name, subspace, tickets.start_step)
        except Diverged:
            return None
        return evaluate(trained, tickets.data.test, recipe.loss, recipe.precision)
