"""Heartbeat: a run's last sign of life, in `run-<its id>.json`; `run.json` has that of the last one
that is over."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, model_validator

from orchestrator.records.files import RecordFile, Time
from trainables.store import Store
from trainables.store.processes import is_gone, is_here

SILENT_SECONDS = 60.0
"""A run on another machine whose heartbeat is older has died without saying so."""


Use = Literal["training", "lost", "starting", "shared", "claimed", "storage", "nothing"]
"""What a slot's time goes to: to training, or to work that was `lost` with its worker and is done
again. Else it is idle: a worker, or room for one, is waited for (`starting`), an iteration that the
lineages share, or what another run has claimed; the storage does not answer; or nothing is left."""

BUSY: tuple[Use, ...] = ("training", "lost")

LAST_LOST = 20
"""So many of the nodes that were lost a heartbeat names."""


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
    test accuracy; `node` is the name of the one that it is on, where that is known."""

    iteration: int | None
    accuracy: float | None
    attempt: int
    node: str | None = Field(default=None, exclude_if=lambda node: node is None)

    @model_validator(mode="after")
    def _both(self) -> Self:
        if self.iteration is None and self.accuracy is not None:
            raise ValueError("an accuracy without its iteration")
        return self


class AlikeNodes(BaseModel):
    """Nodes that have as much each, and room for as many trials, by name: their addresses."""

    cpus: int
    gpus: int
    slots: int
    names: dict[str, str]


class LostNode(BaseModel):
    """A node that was lost: when, how many lineages went back to the queue, and how many seconds
    of trials were spent there since their last commits."""

    name: str
    at: Time
    lineages: int
    seconds: FiniteFloat


class SlotTime(BaseModel):
    """How many slots are at what `now`, and how many seconds of all went to what: each `Use`."""

    now: dict[str, int]
    seconds: dict[str, FiniteFloat]


class Sight(BaseModel):
    """What a run sees of its cluster: the nodes that are there, the slots on them, and the last
    that were `lost`, of so many in all."""

    nodes: list[AlikeNodes]
    slots: SlotTime
    lost: list[LostNode]
    lost_in_all: int


class Heartbeat(BaseModel):
    """A run's sign of life; `running` is by lineage, `packing` says how lineages are laid on the
    devices, `per_second` how many iterations are trained, `sight` what nodes there are. They and
    `process` are newer than the rest.

    `eta_seconds` is to the end of what is left to this run, trained by all that are in flight.
    One that is told of several at once says of how many.
    """

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
    per_second: FiniteFloat | None = Field(default=None, exclude_if=lambda rate: rate is None)
    together: int | None = Field(default=None, exclude_if=lambda runs: runs is None)
    sight: Sight | None = Field(default=None, exclude_if=lambda sight: sight is None)

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.heartbeat)

    @property
    def is_at_work(self) -> bool:
        """Whether the run goes on; one that has died does not say so."""
        if self.state != "running":
            return False
        process = self.process and self.process.model_dump()
        if process is not None and is_here(process):
            return not is_gone(process)
        # Of another machine only the clock tells, which may be ahead of this one's.
        return (datetime.now(UTC) - self.at).total_seconds() < SILENT_SECONDS


RUN = RecordFile("run.json", TypeAdapter(Heartbeat))


def write_heartbeat(store: Store, sweep: str, heartbeat: Heartbeat, run: str) -> None:
    RUN.of(run).write(store, sweep, heartbeat)


def joined(runs: Sequence[Heartbeat]) -> Heartbeat:
    """Runs that are in flight at once as one: heard of when the last was, which ends when all have
    ended, with the lineages of all."""
    if len(runs) == 1:
        return runs[0]
    counts = [run.counts for run in runs]
    last = max(runs, key=lambda run: run.at)
    return last.model_copy(
        update={
            "counts": Counts(
                lineages=max(each.lineages for each in counts),
                done=max(each.done for each in counts),
                failed=max(each.failed for each in counts),
                waiting=min(each.waiting for each in counts),
                iterations=sum(each.iterations for each in counts),
                to_train=max(each.to_train for each in counts),
            ),
            "running": {name: line for run in runs for name, line in run.running.items()},
            "eta_seconds": max((run.eta_seconds for run in runs if run.eta_seconds), default=None),
            "packing": None,
            "per_second": sum(run.per_second or 0 for run in runs) or None,
            "together": len(runs),
            "sight": _seen_together([run.sight for run in runs if run.sight is not None]),
        }
    )


def _seen_together(sights: Sequence[Sight]) -> Sight | None:
    if not sights:
        return None
    now, seconds = Counter[str](), dict[str, float]()
    for each in sights:
        now.update(each.slots.now)
        for use, spent in each.slots.seconds.items():
            seconds[use] = seconds.get(use, 0.0) + spent
    lost = sorted((node for each in sights for node in each.lost), key=lambda node: node.at)
    return Sight(
        nodes=[alike for each in sights for alike in each.nodes],
        slots=SlotTime(now=dict(now), seconds=seconds),
        lost=lost[-LAST_LOST:],
        lost_in_all=sum(each.lost_in_all for each in sights),
    )
