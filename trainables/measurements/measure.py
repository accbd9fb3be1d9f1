"""What a measure is: which iterations it measures, what it is given of them, and what it gives."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeAlias, Union

from pydantic import Field

from trainables.config import canonical
from trainables.plugins.entry import Entry, Kind, PluginError
from trainables.pruning import Step

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from trainables.sparsity.masks import Masks
    from trainables.training.batches import DeviceData
    from trainables.training.progress import State
    from trainables.training.recipe import Recipe
    from trainables.training.run import Training

Row: TypeAlias = dict[str, Any]
"""A row of a measure's table, by column."""

Given: TypeAlias = Union["Sequence[Row]", "Generator[Training, Any, Sequence[Row]]"]
"""The rows, or a generator that gives them after it has asked for trainings."""


Across: TypeAlias = Literal["seed", "method"]
"""What alone two lineages differ in whose tickets are compared."""


class Ticket(Protocol):
    """One of two tickets that are compared."""

    @property
    def seed(self) -> int: ...

    @property
    def iteration(self) -> int: ...

    def trained(self) -> State:
        """The weights that it has trained."""
        ...


class Tickets(Protocol):
    """What a measure of the step at `index` of a lineage is given: what the store has of that
    lineage, and a way to train."""

    @property
    def index(self) -> int: ...

    @property
    def steps(self) -> Sequence[Step]:
        """The lineage's iterations."""
        ...

    @property
    def data(self) -> DeviceData: ...

    @property
    def recipe(self) -> Recipe: ...

    @property
    def seed(self) -> int: ...

    @property
    def pair(self) -> tuple[Ticket, Ticket]:
        """What a measure `across` lineages compares, of which the step at `index` is one; in one
        order, whichever of the two lineages is asked."""
        ...

    @property
    def start_step(self) -> int:
        """The training step whose weights the iteration is rewound to; 0 of the dense network."""
        ...

    def accuracy(self, index: int) -> float:
        """The test accuracy that the step at `index` has reached."""
        ...

    def rewound(self, step: int) -> State:
        """The dense network's weights w_k after k training steps; 0 is its initialization."""
        ...

    def trained(self, index: int) -> State:
        """The weights that the step at `index` has trained; only of those that the measure says
        that it `reads`."""
        ...

    def masks(self, index: int) -> Masks:
        """What the step at `index` has kept, on the data's device."""
        ...

    def model(self, state: State) -> nn.Module:
        """A network of the lineage, with the weights `state`."""
        ...

    def copy(
        self, number: int, state: State, masks: Masks, step: int
    ) -> Generator[Training, Any, State]:
        """Train `state` with `masks` from the training step `step` to the end of the recipe, as the
        iteration does but in an order and with an augmentation that are this copy's own; the
        weights. Copies count from 1. One that is trained is kept until the measurement is
        committed, and one that is interrupted goes on where it was."""
        ...

    def train(self, name: str, model: nn.Module, step: int) -> Generator[Training, Any, nn.Module]:
        """Train the parameters of any `model` of images, in place, from the training step `step` to
        the end of the recipe, on the iteration's own batches; kept under its `name` as copies are.
        """
        ...

    def require_time(self) -> None:
        """Raise Interrupted when this process is told to go; to be called now and then."""
        ...


class Measure(Entry):
    """A measure by name; called with the `Tickets` of an iteration, it gives rows of its `table`.

    `iterations` are those that are measured, without it all that are trained on real data. It
    decides no number, so it is in no key.
    """

    table: ClassVar[str]
    """The results table that its rows are in."""

    across: ClassVar[Across | None] = None
    """What lineages differ in, in nothing else, whose tickets it compares two by two, at equal
    densities that are aimed at, or else at equal iterations; None when it is of one lineage. The
    column `with_lineage` of its table says whose the first of a pair is."""

    starts_rewound: ClassVar[bool] = False
    """Whether it starts from the weights of the step that the method rewinds to, which the dense
    network then leaves behind also where the method itself rewinds no weights."""

    iterations: tuple[Annotated[int, Field(ge=0)], ...] | None = None

    @classmethod
    def columns(cls) -> pa.Schema:
        """Of the table, beside those that say which iteration it is."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """What people call it."""
        return self.name

    @property
    def snapshots(self) -> frozenset[int]:
        """The training steps k whose weights w_k it starts from, whatever the method rewinds to."""
        return frozenset()

    @property
    def trainings(self) -> int:
        """How many trainings it takes for an iteration."""
        return 0

    def reads(self, index: int) -> frozenset[int]:
        """The indexes of the steps whose trained weights a measure of the step at `index` reads,
        and which have to be kept."""
        return frozenset()

    def measures(self, steps: Sequence[Step], index: int) -> bool:
        """Whether it measures the step at `index` of a lineage."""
        chosen = self.iterations is None or steps[index].iteration in self.iterations
        return chosen and steps[index].inputs == "real"

    def require_fit(self, steps: int, train_examples: int) -> None:
        """Raise Unfit when it cannot measure trainings of so many steps on so many examples."""

    def require_network(self, weights: int) -> None:
        """Raise Unfit when it cannot measure a network of so many weights, biases among them."""

    def identity(self) -> dict[str, Any]:
        """What decides its numbers, beside the iteration."""
        return {name: value for name, value in canonical(self).items() if name != "iterations"}

    def __call__(self, tickets: Tickets) -> Given:
        return self.call(tickets)


def _has_a_table(config: type[Entry]) -> None:
    if not hasattr(config, "table"):
        raise PluginError(f"{config.where()}: {config.__name__} has no table; say where rows go")


MEASURE = Kind(
    "measure", Measure, ("tickets",), ("trainables.measurements.measures",), check=_has_a_table
)
measure = MEASURE.register
