"""One measurement: its tickets read, its copies trained, its rows committed."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from torch import nn

from trainables.errors import Interrupted
from trainables.lineage.bench import Bench
from trainables.lineage.iteration_run import Asking, IterationRun
from trainables.lineage.keys import Lineage, Measurement, Ticket
from trainables.lineage.metrics import METRICS_SCHEMA
from trainables.lineage.stored import stored_files
from trainables.measurements import Row
from trainables.pruning import Step
from trainables.sparsity.masks import Masks
from trainables.store import Store, iteration_path
from trainables.store.artifacts import (
    METRICS,
    encode_table,
    measured_file,
    read_masks,
    read_table,
    read_tensors,
)
from trainables.store.claims import Claim, ClaimLost, Claims
from trainables.store.store import json_bytes
from trainables.training.batches import DeviceData, Randomness
from trainables.training.checkpoint import StoredCheckpoint
from trainables.training.progress import Progress, State
from trainables.training.recipe import Recipe
from trainables.training.run import Training

ABOUT = "measurement.json"
"""In a measurement's commit: what was measured, and how long that took."""


def measure_lineage(
    lineage: Lineage, bench: Bench, claims: Claims
) -> Generator[Training | Measurement | None, Progress | None]:
    """Make and commit what the store lacks of the measurements of a lineage, all of whose
    iterations it has; yields those made, and None when all that is left others are at. What it
    is to be compared with and is not there yet makes the measurement itself.

    Raises Interrupted when this process is told to go.
    """
    left, files_of = list(lineage.measurements), stored_files(bench.store)
    while left:
        before = len(left)
        for each in [*left]:
            if bench.is_told():
                raise Interrupted("it was told to go before a measurement")
            run = MeasurementRun(lineage, each.index, bench, each)
            if not run.is_committed and each.is_ready(files_of):
                claim = claims.take(each.key)
                made = (yield from _made(run, claim)) if claim else False
                if made:
                    yield each
                elif not run.is_committed:
                    continue
            left.remove(each)
        if len(left) == before:
            yield None


def _made(run: "MeasurementRun", claim: Claim) -> Asking[bool]:
    """Whether it was made here: another may have committed it before the claim was asked for, or
    have taken it over."""
    with claim:
        if run.is_committed:
            return False
        try:
            yield from run.measure(claim)
        except ClaimLost:
            return False
        return True


@dataclass(frozen=True)
class StoredTicket:
    """A ticket that is compared, of this lineage or of another."""

    ticket: Ticket
    store: Store

    @property
    def seed(self) -> int:
        return self.ticket.seed

    @property
    def iteration(self) -> int:
        return self.ticket.iteration

    def trained(self) -> State:
        return read_tensors(self.store, iteration_path(self.ticket.key))


@dataclass(frozen=True)
class MeasurementRun(IterationRun):
    """A measurement at work: the `Tickets` that its measure is given."""

    measurement: Measurement

    def measure(self, claim: Claim | None = None) -> Asking[None]:
        """Measure and commit. Raises ClaimLost, and commits nothing, when `claim` was taken over
        meanwhile."""
        started = time.perf_counter()
        measure = self.measurement.measure
        given = measure(self)
        rows = (yield from given) if isinstance(given, Generator) else given
        about = {
            "measure": measure.identity(),
            "iteration": self.lineage.keys[self.index],
            "seconds": time.perf_counter() - started,
            "git_sha": self.bench.git_sha,
        }
        if claim is not None:
            claim.require()
        files = {measured_file(measure.table): self._encoded(rows), ABOUT: json_bytes(about)}
        self.bench.store.commit(iteration_path(self.measurement.key), files)
        if claim is not None:
            claim.is_spent = True
        self.bench.store.remove(f"checkpoints/{self.measurement.key}")

    def _encoded(self, rows: Sequence[Row]) -> bytes:
        columns = self.measurement.measure.columns()
        return encode_table(pa.Table.from_pylist([*rows], columns))

    @property
    def is_committed(self) -> bool:
        return self.bench.store.is_committed(iteration_path(self.measurement.key))

    # What a measure is given

    @property
    def pair(self) -> tuple["StoredTicket", "StoredTicket"]:
        assert self.measurement.pair is not None
        one, other = (StoredTicket(each, self.bench.store) for each in self.measurement.pair)
        return one, other

    @property
    def steps(self) -> Sequence[Step]:
        return self.lineage.steps

    @property
    def data(self) -> DeviceData:
        return self.bench.data

    @property
    def recipe(self) -> Recipe:
        return self.lineage.cell.train

    @property
    def seed(self) -> int:
        return self.lineage.cell.seed

    @property
    def start_step(self) -> int:
        return 0 if self.step.kind == "train" else super().start_step

    def accuracy(self, index: int) -> float:
        table = read_table(self.bench.store, self.path(index), METRICS, METRICS_SCHEMA)
        return table["test_accuracy"][0].as_py()

    def rewound(self, step: int) -> State:
        return self._trunk_state(step)

    def trained(self, index: int) -> State:
        return read_tensors(self.bench.store, self.path(index))

    def masks(self, index: int) -> Masks:
        found = read_masks(self.bench.store, self.path(index))
        return {name: mask.to(self.bench.device) for name, mask in found.items()}

    def model(self, state: State) -> nn.Module:
        model = self._initial_model()
        model.load_state_dict(state)
        return model

    def copy(
        self, number: int, state: State, masks: Masks, step: int
    ) -> Generator[Training, Any, State]:
        training = replace(
            self._training(self.model(state), masks, self.step.iteration, step),
            randomness=Randomness(self.seed, self.step.iteration, number),
        )
        return (yield from self._kept(f"copy-{number}", training)).state_dict()

    def train(self, name: str, model: nn.Module, step: int) -> Generator[Training, Any, nn.Module]:
        training = self._training(model, None, self.step.iteration, step)
        # It is none of the architecture, of which several can be one computation.
        return (yield from self._kept(name, replace(training, architecture=None)))

    def _kept(self, name: str, training: Training) -> Generator[Training, Any, nn.Module]:
        """The model of a training whose state is kept under `name`."""
        key = f"{self.measurement.key}/{name}"
        kept = StoredCheckpoint(self.bench.store, key, self.bench.keeping.checkpoint_minutes)
        progress: Progress = yield replace(training, checkpoint=kept)
        # Where the next run finds that nothing is left to train of it.
        kept.save(training.model, progress)
        return training.model

    def require_time(self) -> None:
        if self.bench.is_told():
            raise Interrupted("it was told to go in a measurement")
