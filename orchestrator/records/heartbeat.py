"""Heartbeat: the last sign of life of a sweep's last run; kept in `run.json`."""

from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, model_validator

from orchestrator.records.files import RecordFile, Time
from trainables.store import Store


class Process(BaseModel):
    """What `trainables.store.processes.this_process` gives."""

    pid: int
    started: str
    host: str
    boot: str | None
    namespace: str | None


@dataclass
class Counts:
    """Lineages by state, and iterations trained so far."""

    lineages: int = 0
    done: int = 0
    failed: int = 0
    waiting: int = 0
    iterations: int = 0
    to_train: int = 0


class AtWork(BaseModel):
    """A lineage at work: its last committed iteration and, when that was trained on real data, its
    test accuracy."""

    iteration: int | None
    accuracy: float | None
    attempt: int

    @model_validator(mode="after")
    def _both(self) -> Self:
        if self.iteration is None and self.accuracy is not None:
            raise ValueError("an accuracy without its iteration")
        return self


class Heartbeat(BaseModel):
    """A run's sign of life; `running` is by lineage, `packing` says how lineages are laid on the
    devices. It and `process` are newer than the rest."""

    model_config = ConfigDict(extra="allow")

    state: str
    host: str
    pid: int
    process: Process | None = None
    heartbeat: Time
    counts: Counts
    running: dict[str, AtWork]
    eta_seconds: FiniteFloat | None
    packing: str | None = Field(default=None, exclude_if=lambda line: line is None)


RUN = RecordFile("run.json", TypeAdapter(Heartbeat))


def write_heartbeat(store: Store, sweep: str, heartbeat: Heartbeat) -> None:
    RUN.write(store, sweep, heartbeat)


def read_heartbeat(store: Store, sweep: str) -> Heartbeat | None:
    """The last sign of life of the sweep's last run; None before the first. Raises Damaged."""
    return RUN.read(store, sweep)
