"""Mirroring: a sweep's lineages shown in Weights & Biases, while they run and afterwards.

In every process one thread does all that has to do with W&B, in order. A trial only tells it that
there are new commits, so W&B can neither fail a lineage nor hold it up.
"""

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import takewhile

from orchestrator.records.sweep import LineageRecord, SweepRecord
from orchestrator.tracking.destination import (
    Destination,
    Tracking,
    overridden,
    recorded_options,
    track,
)
from orchestrator.tracking.lineage_run import FINISH_SECONDS, INIT_SECONDS, LineageRun
from orchestrator.tracking.service import TrackingError, end_service, leave_service
from trainables.lineage.keys import Lineage
from trainables.lineage.mirror import Mirror
from trainables.store import Damaged, Store, StoreError
from trainables.store.storage_format import mark

WAIT_SECONDS = 10.0
"""What the last W&B runs of a process may hold up its end."""
RUN_SECONDS = 30.0
"""What `prunesweep run` spends at its end on lineages that W&B has not seen yet."""
OFFLINE_ATTEMPTS = 4
"""The first ones may still meet the service that was waiting for a server."""


def follow(tracking: Tracking, lineage: Lineage) -> Mirror:
    """Begin the W&B run of a lineage, inside its trial."""
    on_data = {step.iteration for step in lineage.own_steps if step.inputs == "real"}
    keys = lineage.own_keys
    return _TrialMirror(
        LineageRun(tracking, lineage.id, lineage.config(), keys, on_data, falls_back=True)
    )


class _Line:
    """The one thread of a process that talks to W&B."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="wandb-mirror", daemon=True).start()

    def put(self, task: Callable[[], None]) -> None:
        self._tasks.put(task)

    def wait(self, seconds: float) -> bool:
        """Wait until all that was put so far is done; whether it is."""
        done = threading.Event()
        self.put(done.set)
        return done.wait(seconds)

    def _work(self) -> None:
        while True:
            with suppress(BaseException):  # W&B may even call sys.exit
                self._tasks.get()()


@cache
def _line() -> _Line:
    return _Line()


class _TrialMirror:
    """A lineage's W&B run, as its trial sees it: no call raises, none but `wait` takes time."""

    def __init__(self, run: LineageRun) -> None:
        self._run = run
        self._tell(run.open)
        self._tell(run.fill)

    def committed(self) -> None:
        self._tell(self._run.fill)

    def ended(self, key: str) -> None:
        self._tell(partial(self._run.end, key))

    def close(self) -> None:
        self._tell(self._run.close)

    def wait(self) -> None:
        with suppress(Exception):
            _line().wait(WAIT_SECONDS)

    def _tell(self, task: Callable[[], None]) -> None:
        with suppress(Exception):
            _line().put(partial(self._run.attempt, task))


@dataclass(frozen=True)
class Sent:
    """What became of a sweep's lineages: those sent now, those that W&B had already, and those
    with commits that it still lacks. `problem` says why."""

    to: Destination
    folder: str
    sent: int
    unchanged: int
    left: int
    problem: str | None


def send_sweep(
    record: SweepRecord,
    store: Store,
    tracking: Tracking,
    committed: Collection[str],
    *,
    seconds: float | None = None,
    again: bool = False,
    problem: str | None = None,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Sent:
    """Fill the W&B runs of all lineages that have commits from the store; `committed` are the keys
    of its iterations.

    Lineages that are marked as sent are left alone, unless `again`. After `seconds`, and after the
    first problem, such as one that is known already, the rest is left. Calls `told(done, of)` after
    every lineage. Raises StoreError.
    """
    lines = _reached(record, committed)
    waiting = [line for line, _ in lines] if again else _unsent(lines, store, tracking)
    deadline = time.monotonic() + (float("inf") if seconds is None else seconds)
    sent = 0
    with _service_in_use():
        for done, line in enumerate(waiting, 1):
            left = deadline - time.monotonic()
            if problem is not None or left <= 0:
                break
            run = LineageRun(
                tracking, line.id, line.config, line.keys, line.on_data, falls_back=False
            )
            for task in (run.open, run.close):
                _line().put(partial(run.attempt, task))
            if not _line().wait(min(left, INIT_SECONDS + 2 * FINISH_SECONDS)):
                problem = "it takes too long" if seconds is None else None
                break
            problem = run.problem
            sent += problem is None and not run.busy
            told(done, len(waiting))
    return Sent(
        tracking.to,
        str(tracking.folder("x").parent),
        sent,
        len(lines) - len(waiting),
        len(waiting) - sent,
        problem,
    )


@contextmanager
def _service_in_use() -> Iterator[None]:
    """Ends W&B's service afterwards, which at the end of the process would be waited for without a
    limit."""
    try:
        yield
    except BaseException:
        leave_service()
        raise
    _line().put(end_service)
    if not _line().wait(WAIT_SECONDS):
        leave_service()


def sync(
    record: SweepRecord,
    store: Store,
    *,
    project: str | None,
    entity: str | None,
    mode: str | None,
    again: bool,
    told: Callable[[int, int], None],
) -> Sent:
    """Fill the W&B project of a sweep, or another one, from the store; what is None is as the sweep
    was last run. Raises TrackingError or StoreError."""
    options = recorded_options(record)
    if options.mode == "disabled":
        options = options.model_copy(update={"mode": None})
    store = mark(store)
    tracking = track(record, store, overridden(options, project=project, entity=entity, mode=mode))
    if tracking is None:
        raise TrackingError("WANDB_MODE disables W&B; give --mode offline or --mode online")
    committed = store.committed("iterations")
    return send_sweep(record, store, tracking, committed, again=again, told=told)


def send_rest(
    record: SweepRecord, store: Store, tracking: Tracking, committed: Collection[str]
) -> Sent:
    """What `prunesweep run` does about lineages that its trials have not sent, for a limited time.

    What a server cannot be told is kept offline. Nothing that W&B or the storage may have against
    it is an error of the run.
    """
    try:
        if tracking.to.mode == "offline":
            return send_sweep(record, store, tracking, committed, seconds=RUN_SECONDS)
        problem = _problem_of_trials(record, store, tracking)
        sent = send_sweep(record, store, tracking, committed, seconds=RUN_SECONDS, problem=problem)
        if sent.problem is not None:
            unsent = _unsent(_reached(record, committed), store, tracking)
            rest = replace(record, lineages=tuple(unsent))
            for _ in range(OFFLINE_ATTEMPTS):
                kept = send_sweep(rest, store, tracking.offline(), committed, seconds=RUN_SECONDS)
                if kept.left == 0:
                    break
        return sent
    except (OSError, StoreError, Damaged) as error:
        lineages = len(record.lineages)
        return Sent(tracking.to, str(tracking.folder("x").parent), 0, 0, lineages, str(error))


def _reached(record: SweepRecord, committed: Collection[str]) -> list[tuple[LineageRecord, str]]:
    """The lineages that have commits, each with the last one before the first that is missing."""
    reached = [[*takewhile(committed.__contains__, line.keys)] for line in record.lineages]
    return [(line, keys[-1]) for line, keys in zip(record.lineages, reached, strict=True) if keys]


def _unsent(
    lines: Sequence[tuple[LineageRecord, str]], store: Store, tracking: Tracking
) -> list[LineageRecord]:
    """The lineages that are not marked as sent as far as they have come."""
    marks = set(store.names(f"{tracking.base}/sent"))
    return [line for line, key in lines if tracking.mark(line.id, key) not in marks]


def _problem_of_trials(record: SweepRecord, store: Store, tracking: Tracking) -> str | None:
    """What this run's trials ran into, so that it need not be run into once more."""
    noted = set(store.names(f"{tracking.base}/problems"))
    for line in record.lineages:
        if f"{line.id}.json" in noted:
            note = store.read_json(tracking.problem_path(line.id)) or {}
            if note.get("run") == tracking.run:
                return note["problem"]
    return None
