"""The queue: which lineage is trained next, again, or not at all. It knows nothing of Ray."""

import time
import traceback
from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias

from orchestrator.records.failures import Failure
from orchestrator.records.heartbeat import Sight, Use
from orchestrator.run.planning import Task
from orchestrator.run.ready import UNLIMITED, Attempt, Ready
from trainables.lineage.cause import Cause
from trainables.lineage.ending import End
from trainables.lineage.stored import FilesOf, missing_iterations
from trainables.store import Damaged, StoreError
from trainables.store.claims import EXPIRY_SECONDS

PATIENCE_SECONDS = EXPIRY_SECONDS + 30.0
"""How long a trial waits for an iteration that another run trains when there is other work, of
which no run is known to be at any. That a claim has expired is known only to a trial that has seen
it for as long."""


EXCUSED = 10
"""So often in a row, without a commit, a lineage's node may be lost, or unable to train it, before
that counts as its failure: it may be what ends its nodes."""


class Observer(Protocol):
    """Is told what happens in a run; it may fail, a lineage may not."""

    def started(self, lineage: str, attempt: int) -> None: ...

    def committed(self, lineage: str, result: dict[str, Any]) -> None: ...

    def measured(self, lineage: str, measure: str, iteration: int) -> None: ...

    def gave_way(self, lineage: str) -> None: ...

    def dropped(self, lineage: str) -> None: ...

    def ended(self, end: End) -> None:
        """Stop rules have ended a lineage, which has finished with that."""
        ...

    def finished(self, lineage: str) -> None: ...

    def failed(self, failure: Failure, retried: bool) -> None: ...

    def stopping(self) -> None: ...

    def leaving(self) -> None: ...

    def noticed(self, line: str) -> None: ...

    def has_room(self, trials: int) -> None: ...

    def sees(self, sight: Sight, at: Mapping[str, str]) -> None:
        """What there is of nodes and slots, every other second, and on which node lineages are."""
        ...

    def tell(self, notices: Iterable[str]) -> None:
        """What the user should know of the workers, often the same."""
        ...


Report: TypeAlias = dict[str, Any]
"""What a trial tells of one of its lineages: see `trainables.lineage.trainable`."""


class Allowed(Protocol):
    """Says how many iterations may be trained; see `orchestrator.run.allowance`."""

    def trained(self, result: Report, gpus: float) -> None: ...

    def left(self, begun: int = 0) -> int: ...


class Unlimited:
    """As many as there are."""

    def trained(self, result: Report, gpus: float) -> None: ...

    def left(self, begun: int = 0) -> int:
        return UNLIMITED


@dataclass(eq=False)
class Queue:
    """Hands out the tasks whose shared iterations are committed, and again those that failed.

    They go to trials, named by the caller, who tells what became of them; there is room for
    `trials` at a time. `files_of` is `make_plan`'s, but looks into the store when it is asked.
    `largest` says of which kinds several lineages share a trial, and how many, `urgency` has the
    most urgent from 0, by their ids, and `allowance` says how many iterations may be trained.
    """

    tasks: tuple[Task, ...]
    files_of: FilesOf
    gpus: float
    retries: int
    observer: Observer
    trials: int = 1
    largest: Mapping[Hashable, int] = field(default_factory=dict)
    urgency: Mapping[str, int] = field(default_factory=dict)
    allowance: Allowed = field(default_factory=Unlimited)
    failures: list[Failure] = field(default_factory=list)
    stopping: bool = False
    leaving: bool = False

    def __post_init__(self) -> None:
        self._ready = Ready(self.largest, self.urgency)
        self._waiting: dict[str, list[Task]] = {}
        for task in self.tasks:
            if task.after is None:
                self._ready.add(self._first(task))
            else:
                self._waiting.setdefault(task.after, []).append(task)
        self._running: dict[str, dict[str, Attempt]] = {}
        self._elsewhere: deque[Attempt] = deque()
        self._claimed: dict[str, set[str]] = {}
        self._waiting_since: dict[str, float] = {}
        self._stopped: list[Task] = []
        self._committed: set[str] = set()
        self._dropped: set[str] = set()

    @property
    def unfinished(self) -> bool:
        """Whether a task was left that neither ended nor failed."""
        return bool(
            self._running or self._ready or self._elsewhere or self._waiting or self._stopped
        )

    @property
    def exhausted(self) -> bool:
        """Whether nothing will be handed out any more, whatever becomes of what runs."""
        if self.stopping or not (self._running or self._ready or self._elsewhere or self._waiting):
            return True
        return not self._running and self.allowance.left() <= 0

    @property
    def spent(self) -> bool:
        """Whether what is left has no more allowance."""
        return not self.stopping and self.unfinished and self.allowance.left() <= 0

    @property
    def lacks(self) -> Use:
        """What a slot waits for that has no trial."""
        if self.exhausted or self.spent:
            return "nothing"
        if self._ready:
            return "starting"
        if self._elsewhere:
            return "claimed"
        return "shared" if self._waiting else "nothing"

    def stop(self) -> None:
        """Hand out nothing more; what runs ends after the iteration it is at."""
        self.stopping = True
        self._tell("stopping")

    def leave(self) -> None:
        """Hand out nothing more; what runs is to be left where it is."""
        if not self.leaving:
            self.stopping = self.leaving = True
            self._tell("leaving")

    def drop(self, lineages: Collection[str]) -> None:
        """Train these no further than the iteration that they are at."""
        lineages = set(lineages) - self._dropped
        self._dropped |= lineages
        waiting = [task for tasks in self._waiting.values() for task in tasks]
        self._waiting = {}
        for task in waiting:
            if task.lineage.id in lineages:
                self._stop_task(task)
            else:
                self._waiting.setdefault(task.after or "", []).append(task)
        elsewhere = [each for each in self._elsewhere if each.task.lineage.id in lineages]
        for attempt in elsewhere:
            self._elsewhere.remove(attempt)
        for attempt in (*self._ready.remove(lineages), *elsewhere):
            self._stop_task(attempt.task)
        for task in self._stopped:
            self._release_waiting(task)

    def hand_out(self, trial: str) -> tuple[Attempt, ...]:
        """What `trial` is to do; nothing when there is nothing for it now."""
        if self.stopping:
            return ()
        if not (self._running or self._ready or self._elsewhere):
            # Nobody is left to commit what these wait for.
            for tasks in self._waiting.values():
                self._make_ready(tasks)
            self._waiting = {}
        most = self.allowance.left(self._in_flight())
        if most <= 0:
            return ()
        if self._ready:
            bundle = self._ready.take(self.trials - len(self._running), most)
        elif self._elsewhere:
            bundle = (self._elsewhere.popleft(),)
        else:
            return ()
        self._running[trial] = {attempt.task.lineage.id: attempt for attempt in bundle}
        for attempt in bundle:
            self._tell("started", attempt.task.lineage.id, attempt.number)
        return bundle

    def reported(self, trial: str, reports: Mapping[str, Report]) -> bool:
        """What became of the lineages of `trial`, each by its id; whether it is to end now, and
        leave its place to others."""
        for lineage, report in reports.items():
            self._reported(trial, lineage, report)
        self._claimed[trial] = {
            lineage for lineage, report in reports.items() if report.get("claimed_elsewhere")
        }
        return self.stopping or self._gives_way(trial) or self._exceeds(trial)

    def ended(self, trial: str) -> None:
        """`trial` has ended by itself, or because it was to."""
        self._waiting_since.pop(trial, None)
        claimed = self._claimed.pop(trial, set())
        for lineage, attempt in self._running.pop(trial).items():
            if self.stopping:
                self._stopped.append(attempt.task)
                continue
            if lineage in self._dropped:
                self._stop_task(attempt.task)
                self._release_waiting(attempt.task)
                continue
            if lineage in claimed:
                self._elsewhere.append(attempt)
            else:
                self._ready.add(attempt)
            self._tell("gave_way", lineage)

    def failed(self, trial: str, cause: Cause, stuck: Collection[str] = ()) -> None:
        """A trial, or its worker, failed as a whole: hand its tasks out again, or give them up and
        what depends on them. One that was told to go has only ended.

        Of several lineages it was that one which was `stuck`; where nobody knows which, each goes
        on alone.
        """
        if cause.interrupted or self.leaving:
            self.ended(trial)
            return
        self._waiting_since.pop(trial, None)
        self._claimed.pop(trial, None)
        attempts = self._running.pop(trial)
        at_fault = attempts if len(attempts) == 1 else stuck if len(stuck) == 1 else ()
        for lineage, attempt in attempts.items():
            if lineage in at_fault:
                self._failed(attempt, cause)
            elif at_fault:
                self._tell("gave_way", lineage)
                self._ready_again(attempt.next)
            else:
                self._again(replace(attempt, suspect=True), cause)

    def excused(self, trial: str, cause: Cause, unfit: str | None = None) -> None:
        """A trial failed because its node was lost, or is `unfit` for any: hand its tasks out
        again, and blame none before that has happened often."""
        self._waiting_since.pop(trial, None)
        self._claimed.pop(trial, None)
        for lineage, attempt in self._running.pop(trial).items():
            if attempt.excused >= EXCUSED:
                self._failed(attempt, cause)
                continue
            self._tell("gave_way", lineage)
            avoided = attempt.avoided | ({unfit} if unfit else set())
            again = replace(attempt.next, excused=attempt.excused + 1, avoided=avoided)
            self._look(attempt.task)
            self._ready_again(again)

    def _in_flight(self, *without: str) -> int:
        return sum(len(each) for trial, each in self._running.items() if trial not in without)

    def _exceeds(self, trial: str) -> bool:
        """Whether another iteration of all lineages of `trial` is more than there is left."""
        return self.allowance.left(self._in_flight(trial)) < len(self._running[trial])

    def lineages_of(self, trial: str) -> Collection[str]:
        """Those that `trial` is at."""
        return self._running.get(trial, {}).keys()

    def notice(self, line: str) -> None:
        """Say what befell the run."""
        self._tell("noticed", line)

    def see(self, sight: Sight, at: Mapping[str, str]) -> None:
        """Show what there is of nodes and slots."""
        self._tell("sees", sight, at)

    def has_room(self, trials: int) -> None:
        """There is room for so many from now on."""
        self.trials = max(1, trials)
        self._tell("has_room", trials)

    def _release_waiting(self, task: Task) -> None:
        """Nobody else is to train what a task that is over was to; claims keep it from being
        trained twice."""
        for key in task.lineage.keys:
            self._make_ready(self._waiting.pop(key, ()))

    def _stop_task(self, task: Task) -> None:
        self._stopped.append(task)
        self._tell("dropped", task.lineage.id)

    def _first(self, task: Task) -> Attempt:
        return Attempt(task, 1, self.gpus)

    def _make_ready(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            self._ready.add(self._first(task))

    def _reported(self, trial: str, id: str, report: Report) -> None:
        attempts = self._running[trial]
        attempt = attempts[id]
        lineage = attempt.task.lineage
        if report.get("notices"):
            self._tell("tell", report["notices"])
        if "key" in report or "measured" in report:
            attempts[id] = attempt = replace(attempt, suspect=False, excused=0, avoided=frozenset())
        if "key" in report:
            self._tell("committed", id, report)
            self.allowance.trained(report, attempt.gpus)
            # A lineage gets there only when all before is stored, whoever trained it.
            self._release(lineage.keys[: lineage.keys.index(report["key"]) + 1])
        if "measured" in report:
            self._tell("measured", id, report["measured"], report["iteration"])
        if report.get("complete"):
            del attempts[id]
            if "end" in report:
                # What others share with it behind its end, they train themselves.
                self._tell("ended", report["end"])
                self._release_waiting(attempt.task)
            else:
                self._release(lineage.keys)
            self._tell("finished", id)
        elif report.get("claimed_elsewhere"):
            self._heed_others(lineage.keys)
        elif "failed" in report:
            del attempts[id]
            cause = report["failed"]
            fused = report["fused"]
            if cause.out_of_memory and fused > 1:
                # It was too much for all of them together: no failure of one.
                self._again(replace(attempt, together=max(1, fused // 2)), cause)
            else:
                self._failed(attempt, cause)

    def _gives_way(self, trial: str) -> bool:
        attempts, claimed = self._running[trial], self._claimed[trial]
        if not attempts:
            return False
        if not self._dropped.isdisjoint(attempts):
            return True
        if len(claimed) < len(attempts):
            self._waiting_since.pop(trial, None)
            any_ = next(each for id, each in attempts.items() if id not in claimed)
            free = self.trials - len(self._running) + 1
            busy = len(attempts) - len(claimed)
            return self._ready.bundle_size(any_, busy, free) > len(attempts)
        since = self._waiting_since.setdefault(trial, time.monotonic())
        impatient = time.monotonic() - since > PATIENCE_SECONDS
        return bool(self._ready or (impatient and self._elsewhere))

    def _failed(self, attempt: Attempt, cause: Cause) -> None:
        """Hand the task out again, or give it up and what depends on it."""
        if not cause.hopeless and attempt.failures < self.retries:
            gpus = attempt.gpus
            if cause.out_of_memory:
                gpus = max(gpus, min(1.0, gpus * 2))
            self._again(replace(attempt, failures=attempt.failures + 1, gpus=gpus), cause)
            return
        missing = self._look(attempt.task)
        failure = _failure(attempt, missing, cause)
        self._tell("failed", failure, False)
        self.failures.append(failure)
        self._fail_dependents(attempt.task, missing, failure)

    def _again(self, attempt: Attempt, cause: Cause) -> None:
        self._tell("failed", _failure(attempt, self._look(attempt.task), cause), True)
        self._ready_again(attempt.next)

    def _ready_again(self, attempt: Attempt) -> None:
        if attempt.task.lineage.id in self._dropped:
            self._stop_task(attempt.task)
            self._release_waiting(attempt.task)
        else:
            self._ready.add(attempt)

    def _release(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._committed.add(key)
            self._make_ready(self._waiting.pop(key, ()))

    def _heed_others(self, keys: Iterable[str]) -> None:
        """Release what waits for those of `keys` that another run has committed: a trial that waits
        for that run does not get there to tell."""
        waited_for = [key for key in keys if key in self._waiting]
        with suppress(StoreError, Damaged, OSError):
            self._release([key for key in waited_for if self.files_of(key) is not None])

    def _look(self, task: Task) -> list[int]:
        """The indexes of the steps that `task` leaves to be trained; what waits for others is
        released.

        The store knows of commits whose news never came: of a worker that died right after, or of
        another run. What was told stays so, even if the store cannot be read or is gone.
        """
        lineage = task.lineage
        missing = list(range(len(lineage.keys)))
        with suppress(StoreError, Damaged, OSError):
            missing = missing_iterations(lineage, self.files_of)
        missing = [t for t in missing if t >= task.first and lineage.keys[t] not in self._committed]
        self._release(key for t, key in enumerate(lineage.keys) if t not in missing)
        return missing

    def _fail_dependents(self, task: Task, missing: list[int], cause: Failure) -> None:
        """Give up what waits for the `missing` steps of `task`, and what waits for that."""
        dependents = [
            dependent for t in missing for dependent in self._waiting.pop(task.lineage.keys[t], ())
        ]
        for dependent in dependents:
            text = (
                f"iteration {cause.iteration}, which it shares with {cause.lineage}, failed there:"
                f"\n{cause.traceback}"
            )
            failure = replace(cause, lineage=dependent.lineage.id, attempt=0, traceback=text)
            self.failures.append(failure)
            self._tell("failed", failure, False)
            if not self._waiting.keys().isdisjoint(dependent.lineage.keys):
                self._fail_dependents(dependent, self._look(dependent), cause)

    def _tell(self, event: str, *arguments: Any) -> None:
        try:
            getattr(self.observer, event)(*arguments)
        except Exception:  # a broken view must not end the sweep
            with suppress(OSError):  # nor a terminal that is gone
                traceback.print_exc()


def _failure(attempt: Attempt, missing: list[int], cause: Cause) -> Failure:
    lineage = attempt.task.lineage
    reached = lineage.steps[missing[0] if missing else -1].iteration
    return Failure(lineage.id, reached, attempt.number, cause.text, cause.diverged)
