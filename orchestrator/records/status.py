"""Status: how far a sweep is, read from its records and commits."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from orchestrator.records.ends import ENDS, by_lineage, until_ends
from orchestrator.records.failures import FAILURES, Failure, each_once
from orchestrator.records.files import RecordFile
from orchestrator.records.heartbeat import RUN, Heartbeat, joined
from orchestrator.records.labels import labels, lineage_labels
from orchestrator.records.sweep import LineageRecord, NoSuchSweep, SweepRecord, existing_sweep
from trainables.lineage.ending import End
from trainables.store import Damaged, Store, sweep_path

Contents = TypeVar("Contents")

WATCH_SECONDS = 2.0

State = Literal["finished", "incomplete", "running", "died"]
LineageState = Literal["done", "failed", "running", "partial", "not begun"]


@dataclass(frozen=True)
class LineageStatus:
    """A lineage: how many of its iterations are committed, and of how many; and why it was
    ended, where it was."""

    id: str
    state: LineageState
    committed: int
    iterations: int
    stopped: str | None = None


@dataclass(frozen=True)
class Stopped:
    """A lineage that is done, as it was ended with an iteration, and why."""

    lineage: str
    iteration: int
    why: str


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
    """`runs` are the heartbeats of the runs in flight, and `run` is all of those as one; the last
    that any run has left where none is in flight, None when there was none.

    `failures` are those of lineages that nobody has completed. `damage` are records that cannot be
    read, and count as not being there. `labels` are those of the lineages that have failed, are at
    work, or were `stopped`. With `at_most`, some may end before all `iterations` are trained.
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
    runs: tuple[Heartbeat, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    at_most: bool = False
    measurements: int = 0
    measurements_stored: int = 0


def sweep_status(store: Store, name: str) -> SweepStatus:
    """The status of the sweep `name`; raises NoSuchSweep or Damaged."""
    sweep, signs = existing_sweep(store, name), signs_of(store, name)
    # The commits last: a run that says it has ended has made them all.
    return status_by(sweep, signs, store.committed("iterations"))


@dataclass(frozen=True)
class Signs:
    """What the runs of a sweep have said of themselves, see SweepStatus, and of the `ends` of its
    lineages, by lineage."""

    run: Heartbeat | None
    failures: tuple[Failure, ...]
    damage: tuple[str, ...]
    runs: tuple[Heartbeat, ...] = ()
    ends: Mapping[str, End] = field(default_factory=dict)


def signs_of(store: Store, name: str) -> Signs:
    """The signs of the sweep `name`, as they are now."""
    damage: list[str] = []
    names = store.names(sweep_path(name))
    beats = _told(RUN, store, name, names, damage)
    runs = tuple(sorted((beat for beat in beats if beat.is_at_work), key=lambda beat: beat.at))
    failures = each_once(_told(FAILURES, store, name, names, damage))
    ends = by_lineage(_told(ENDS, store, name, names, damage))
    last = joined(runs) if runs else max(beats, key=lambda beat: beat.at, default=None)
    return Signs(last, tuple(failures), tuple(damage), runs, ends)


def status_of(store: Store, sweep: SweepRecord, stored: Collection[str]) -> SweepStatus:
    """The status of `sweep` when the keys `stored` are committed."""
    return status_by(sweep, signs_of(store, sweep.name), stored)


def status_by(sweep: SweepRecord, signs: Signs, stored: Collection[str]) -> SweepStatus:
    """The status of `sweep` by the `signs` of its runs when the keys `stored` are committed."""
    run, sweep = signs.run, until_ends(sweep, signs.ends)
    failures = left_undone(sweep, signs.failures, stored)
    lineages = lineage_statuses(sweep, stored, failures, run)
    done = sum(line.state == "done" for line in lineages)
    stopped, ranked = stopped_in(sweep), (sweep.spec.get("budget") or {}).get("rank")
    named = {failure.lineage for failure in failures} | {*(run.running if run else ())}
    named |= {each.lineage for each in stopped}
    keys = {key for line in sweep.lineages for key in line.keys}
    measured = {each.key for line in sweep.lineages for each in line.measurements or ()}
    return SweepStatus(
        name=sweep.name,
        state=_state(done == len(lineages), run),
        lineages=len(lineages),
        lineages_done=done,
        iterations=len(keys),
        iterations_stored=sum(key in stored for key in keys),
        measurements=len(measured),
        measurements_stored=sum(key in stored for key in measured),
        methods=_methods(labels(sweep), lineages),
        failures=failures,
        run=run,
        damage=signs.damage,
        labels={id: label for id, label in lineage_labels(sweep).items() if id in named},
        runs=signs.runs,
        stopped=stopped,
        at_most=any(
            one.state != "done" and (ranked or line.config["prune"].get("stop"))
            for line, one in zip(sweep.lineages, lineages, strict=True)
        ),
    )


def stopped_in(sweep: SweepRecord) -> tuple[Stopped, ...]:
    """The lineages of `sweep`, as far as it has come, that were ended."""
    return tuple(
        Stopped(line.id, line.iterations[-1], line.stopped)
        for line in sweep.lineages
        if line.stopped is not None
    )


def left_undone(
    sweep: SweepRecord, failures: Sequence[Failure], stored: Collection[str]
) -> tuple[Failure, ...]:
    """Those of `failures` whose lineages nobody has completed when the keys `stored` are
    committed."""
    done = {line.id for line in sweep.lineages if all(key in stored for key in line.committed_keys)}
    return tuple(failure for failure in failures if failure.lineage not in done)


def _told(
    kind: RecordFile[Contents],
    store: Store,
    name: str,
    names: Collection[str],
    damage: list[str],
) -> list[Contents]:
    """What the sweep's runs have written in files with `names`, the newest first."""
    found = []
    for file in kind.each(store, name, names):
        try:
            found.append(file.read(store, name))
        except Damaged as error:
            damage.append(str(error))
    return [each for each in found if each is not None]


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
        if all(key in stored for key in line.committed_keys):
            return "done"
        if line.id in running:
            return "running"
        if line.id in failed:
            return "failed"
        return "partial" if committed else "not begun"

    counts = [(line, sum(key in stored for key in line.keys)) for line in sweep.lineages]
    return [
        LineageStatus(line.id, state(line, committed), committed, len(line.keys), line.stopped)
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
        return "running" if run.is_at_work else "died"
    return "finished" if complete else "incomplete"


def run_in_flight(store: Store, name: str) -> Heartbeat | None:
    """The runs of a sweep that are at work, as one; None when there is no such run."""
    signs = signs_of(store, name)
    return signs.run if signs.runs else None
