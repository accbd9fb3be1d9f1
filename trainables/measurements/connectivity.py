"""Connectivity: error and loss along the straight lines between networks, and their barriers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from trainables.config import Choice
from trainables.lazy_torch import torch
from trainables.measurements.batchnorm import batchnorms, recompute
from trainables.measurements.interpolation import alphas, barrier, barrier_above_line, between
from trainables.measurements.measure import Measure, Row, Tickets
from trainables.models import prunable
from trainables.models.prunable import layer_of
from trainables.training.augmentation import Unfit

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from trainables.training.batches import Examples
    from trainables.training.progress import State

BatchNorm = Literal["recompute", "average"]

VALUES = ("test_loss", "test_error", "train_loss", "train_error")

BARRIERS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "barrier": barrier,
    "barrier_above_line": barrier_above_line,
}
"""By what the column `what` calls it."""


class Connectivity(Measure):
    """Measures along lines between trained weights.

    `points` are evaluated on each line, both ends among them. The statistics of BatchNorm are
    recomputed at each of them, or those of the ends are averaged as the weights are.
    `train_examples` are how many of the training examples are evaluated, and used to recompute,
    by default all. `layerwise` measures for each prunable layer, too, the line on which it alone
    goes to the other end.
    """

    table: ClassVar[str] = "connectivity"

    points: Annotated[int, Field(ge=3, le=10_000)] = 30
    batchnorm: Annotated[BatchNorm, Choice("batchnorm")] = "recompute"
    train_examples: Annotated[int, Field(ge=2)] | None = None
    layerwise: bool = False

    @classmethod
    def columns(cls) -> pa.Schema:
        import pyarrow as pa

        return pa.schema(
            [
                ("measure", pa.string()),
                ("rewind", pa.int64()),
                ("one", pa.int64()),
                ("other", pa.int64()),
                ("layer", pa.string()),
                ("what", pa.string()),
                ("alpha", pa.float64()),
                *((name, pa.float64()) for name in VALUES),
                ("batchnorm", pa.string()),
                ("train_examples", pa.int64()),
                ("with_lineage", pa.string()),
            ]
        )

    def require_fit(self, steps: int, train_examples: int) -> None:
        if self.train_examples is not None and self.train_examples > train_examples:
            raise Unfit(
                f"{self.train_examples} is more than the {train_examples} training examples; "
                f"choose at most {train_examples}",
                "train_examples",
            )

    def rows(
        self, tickets: Tickets, ends: Mapping[int, State], rewind: int | None = None
    ) -> list[Row]:
        """The rows of the lines between each two of `ends`, which are told by their numbers."""
        model = tickets.model(next(iter(ends.values())))
        has_batchnorm = bool(batchnorms(model))
        train = some(tickets.data.train, self.train_examples)
        along = _Line(
            tickets, model, train, alphas(self.points),
            recomputes=has_batchnorm and self.batchnorm == "recompute",
        )  # fmt: skip
        of_all = {
            "measure": self.name,
            "rewind": rewind,
            "batchnorm": self.batchnorm if has_batchnorm else None,
            "train_examples": len(train),
        }
        layers = {None: None, **(tensors_of_layers(model) if self.layerwise else {})}
        return [
            of_all | {"one": one, "other": other, "layer": layer} | row
            for one, other in combinations(ends, 2)
            for layer, names in layers.items()
            for row in along.rows(ends[one], ends[other], names)
        ]


@dataclass(frozen=True)
class _Line:
    """What is evaluated along a line, and where."""

    tickets: Tickets
    model: nn.Module
    train: Examples
    alphas: Sequence[float]
    recomputes: bool

    def rows(self, one: State, other: State, names: Collection[str] | None) -> Iterator[Row]:
        """A row for each point, and one for each kind of barrier."""
        points = [self._at(between(one, other, alpha, names)) for alpha in self.alphas]
        for alpha, values in zip(self.alphas, points, strict=True):
            yield {"what": "point", "alpha": alpha} | values
        for what, of in BARRIERS.items():
            found = {name: of([values[name] for values in points]) for name in VALUES}
            yield {"what": what, "alpha": None} | found

    def _at(self, state: State) -> dict[str, float]:
        from trainables.training.evaluation import evaluate

        self.tickets.require_time()
        recipe = self.tickets.recipe
        self.model.load_state_dict(state)
        if self.recomputes:
            recompute(self.model, self.train, recipe)
        test, train = (
            evaluate(self.model, examples, recipe.loss, recipe.precision)
            for examples in (self.tickets.data.test, self.train)
        )
        return {
            "test_loss": test.loss,
            "test_error": 1 - test.accuracy,
            "train_loss": train.loss,
            "train_error": 1 - train.accuracy,
        }


def some(examples: Examples, count: int | None) -> Examples:
    """`count` of the examples, the same for all seeds; without it, all."""
    if count is None:
        return examples
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
    chosen = order[:count].to(examples.labels.device)
    return replace(examples, images=examples.images[chosen], labels=examples.labels[chosen])


def tensors_of_layers(model: nn.Module) -> dict[str, list[str]]:
    """By the name of each prunable weight, what is in the state of the layer that it is of, and the
    weight by all of its names, where layers share it."""
    state = model.state_dict(keep_vars=True).items()
    found = {}
    for name, weight in prunable(model).items():
        layer = layer_of(name)
        found[name] = [n for n, each in state if layer_of(n) == layer or each is weight]
    return found
