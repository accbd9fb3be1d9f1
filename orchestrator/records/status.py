"""Status: how far a sweep is, read from its records and commits."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeVar

from orchestrator.records.failures import Failure, read_failures
from orchestrator.records.heartbeat import Heartbeat, read_heartbeat
from orchestrator.records.labels import labels, lineage_labels
from orchestrator.records.sweep import LineageRecord, NoSuchSweep, SweepRecord, existing_sweep
from trainables.store import Damaged, Store
from trainables.store.processes import is_gone, is_here

SILENT_SECONDS = 60.0
"""A run on another machine whose heartbeat is older has died without saying so."""

Read = TypeVar("Read")

WATCH_SECONDS = 2.0

State = Literal["finished", "incomplete", "running", "died"]
LineageState = Literal["done", "failed", "running", "partial", "not begun"]


@dataclass(frozen=True)
class LineageStatus:
    """A lineage: how many of its iterations are committed, and of how many."""

    id: str
    state: LineageState
    committed: int
    iterations: int


@dataclass(frozen=True)
class MethodStatus:
    """The lineages of one label, and their iterations, each with the trunk that it shares."""

    label: str
    lineages: int
    done: int
    failed: int
    iterations: int
    committed: int


@dataclass(frozen=True)
class SweepStatus:
    """`run` is the last heartbeat of the last run, None when there was none.

    `damage` are records that cannot be read, and count as not being there. `labels` are those of
    the lineages that have failed or are at work.
    """

    name: str
    state: State
    lineages: int
    lineages_done: int
    iterations: int
    iterations_stored: int
    methods: tuple[MethodStatus, ...]
    failures: tuple[Failure, ...]
    run: Heartbeat | None
    damage: tuple[str, ...]
    labels: dict[str, str]


def sweep_status(store: Store, name: str) -> SweepStatus:
    """The status of the sweep `name`; raises NoSuchSweep or Damaged."""
    sweep, signs = existing_sweep(store, name), signs_of(store, name)
    # The commits last: a run that says it has ended has made them all.
    return status_by(sweep, signs, store.committed("iterations"))


@dataclass(frozen=True)
class Signs:
    """What the last run of a sweep has said of itself; `damage` are records that cannot be read."""

    run: Heartbeat | None
    failures: tuple[Failure, ...]
    damage: tuple[str, ...]


def signs_of(store: Store, name: str) -> Signs:
    """The signs of the sweep `name`, as they are now."""
    damage: list[str] = []
    run = _or_none(read_heartbeat, store, name, damage)
    failures = tuple(_or_none(read_failures, store, name, damage) or ())
    return Signs(run, failures, tuple(damage))


def status_of(store: Store, sweep: SweepRecord, stored: Collection[str]) -> SweepStatus:
    """The status of `sweep` when the keys `stored` are committed."""
    return status_by(sweep, signs_of(store, sweep.name), stored)


def status_by(sweep: SweepRecord, signs: Signs, stored: Collection[str]) -> SweepStatus:
    """The status of `sweep` by the `signs` of its last run when the keys `stored` are committed."""
    run, failures = signs.run, signs.failures
    lineages = lineage_statuses(sweep, stored, failures, run)
    done = sum(line.state == "done" for line in lineages)
    named = {failure.lineage for failure in failures} | {*(run.running if run else ())}
    keys = {key for line in sweep.lineages for key in line.keys}
    return SweepStatus(
        name=sweep.name,
        state=_state(done == len(lineages), run),
        lineages=len(lineages),
        lineages_done=done,
        iterations=len(keys),
        iterations_stored=sum(key in stored for key in keys),
        methods=_methods(labels(sweep), lineages),
        failures=failures,
        run=run,
        damage=signs.damage,
        labels={id: label for id, label in lineage_labels(sweep).items() if id in named},
    )


def _or_none(
    read: Callable[[Store, str], Read], store: Store, name: str, damage: list[str]
) -> Read | None:
    try:
        return read(store, name)
    except Damaged as error:
        damage.append(str(error))
        return None


def watch_status(store: Store, name: str) -> Iterator[SweepStatus]:
    """The status now, and every two seconds for as long as a run is in flight.

    The last one is of the run's end, or of its death. A sweep that is not there
    yet is waited for. Raises Damaged.
    """
    before = time.monotonic()
    while (status := _begun(store, name)) is None:
        time.sleep(WATCH_SECONDS)
    yield status
    while status.state == "running":
        # Listing a large store takes a while; it shall not be all that a watcher does.
        time.sleep(max(WATCH_SECONDS, 5 * (time.monotonic() - before)))
        before = time.monotonic()
        status = sweep_status(store, name)
        if status.state != "running":
            # A run records its failures a moment after its last heartbeat.
            time.sleep(WATCH_SECONDS)
            status = sweep_status(store, name)
        yield status


def _begun(store: Store, name: str) -> SweepStatus | None:
    try:
        return sweep_status(store, name)
    except NoSuchSweep:
        return None


def lineage_statuses(
    sweep: SweepRecord,
    stored: Collection[str],
    failures: Sequence[Failure],
    run: Heartbeat | None,
) -> list[LineageStatus]:
    """The status of every lineage; `stored` are the keys of the committed iterations."""
    failed = {failure.lineage for failure in failures}
    running = run.running if run is not None and _state(False, run) == "running" else ()

    def state(line: LineageRecord, committed: int) -> LineageState:
        if committed == len(line.keys):
            return "done"
        if line.id in running:
            return "running"
        if line.id in failed:
            return "failed"
        return "partial" if committed else "not begun"

    counts = [(line, sum(key in stored for key in line.keys)) for line in sweep.lineages]
    return [
        LineageStatus(line.id, state(line, committed), committed, len(line.keys))
        for line, committed in counts
    ]


def _methods(names: dict[str, str], lineages: Sequence[LineageStatus]) -> tuple[MethodStatus, ...]:
    groups: dict[str, list[LineageStatus]] = {}
    for line in lineages:
        groups.setdefault(names[line.id], []).append(line)
    return tuple(
        MethodStatus(
            label=label,
            lineages=len(group),
            done=sum(line.state == "done" for line in group),
            failed=sum(line.state == "failed" for line in group),
            iterations=sum(line.iterations for line in group),
            committed=sum(line.committed for line in group),
        )
        for label, group in groups.items()
    )


def _state(complete: bool, run: Heartbeat | None) -> State:
    if run is not None and run.state == "running":
        return "running" if _is_at_work(run) else "died"
    return "finished" if complete else "incomplete"


def _is_at_work(run: Heartbeat) -> bool:
    process = run.process and run.process.model_dump()
    if process is not None and is_here(process):
        return not is_gone(process)
    # Of another machine only the clock tells, which may be ahead of this one's.
    age = datetime.now(UTC) - datetime.fromisoformat(run.heartbeat)
    return age.total_seconds() < SILENT_SECONDS


def run_in_flight(store: Store, name: str) -> Heartbeat | None:
    """The heartbeat of the run of a sweep that is at work; None when there is no such run."""
    run = _or_none(read_heartbeat, store, name, [])
    return run if run is not None and _state(False, run) == "running" else None
