"""The queue: which lineage is trained next, again, or not at all. It knows nothing of Ray."""

import time
import traceback
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.records.failures import Failure
from orchestrator.run.planning import Task
from trainables.errors import Hopeless
from trainables.lazy_torch import torch
from trainables.lineage.stored import FilesOf, missing_iterations
from trainables.store import Damaged, StoreError
from trainables.store.claims import EXPIRY_SECONDS

PATIENCE_SECONDS = EXPIRY_SECONDS + 30.0
"""How long a trial waits for an iteration that another run trains when there is other work, of
which no run is known to be at any. That a claim has expired is known only to a trial that has seen
it for as long."""


class Observer(Protocol):
    """Is told what happens in a run; it may fail, a lineage may not."""

    def started(self, lineage: str, attempt: int) -> None: ...

    def committed(self, lineage: str, result: dict[str, Any]) -> None: ...

    def gave_way(self, lineage: str) -> None: ...

    def finished(self, lineage: str) -> None: ...

    def failed(self, failure: Failure, retried: bool) -> None: ...

    def stopping(self) -> None: ...


@dataclass(frozen=True)
class Attempt:
    """The `number`th attempt at a task, from 1, on a share of a GPU; 0 is the CPU."""

    task: Task
    number: int
    gpus: float

    def next(self, error: BaseException | None) -> "Attempt":
        """The one after this, which ended with `error`: what ran out of memory gets more."""
        more = self.gpus
        if isinstance(error, torch.OutOfMemoryError):
            more = max(self.gpus, min(1.0, self.gpus * 2))
        return Attempt(self.task, self.number + 1, more)


@dataclass(eq=False)
class Queue:
    """Hands out the tasks whose shared iterations are committed, and again those that failed.

    Each goes to a trial, named by the caller, who tells what became of it. `files_of` is
    `make_plan`'s, but looks into the store when it is asked.
    """

    tasks: tuple[Task, ...]
    files_of: FilesOf
    gpus: float
    retries: int
    observer: Observer
    failures: list[Failure] = field(default_factory=list)
    stopping: bool = False

    def __post_init__(self) -> None:
        self._ready = deque(self._first(task) for task in self.tasks if task.after is None)
        self._waiting = [task for task in self.tasks if task.after is not None]
        self._running: dict[str, Attempt] = {}
        self._elsewhere: deque[Attempt] = deque()
        self._waiting_since: dict[str, float] = {}
        self._stopped: list[Task] = []
        self._committed: set[str] = set()

    @property
    def unfinished(self) -> bool:
        """Whether a task was left that neither ended nor failed."""
        return bool(
            self._running or self._ready or self._elsewhere or self._waiting or self._stopped
        )

    @property
    def exhausted(self) -> bool:
        """Whether nothing will be handed out any more, whatever becomes of what runs."""
        return self.stopping or not (
            self._running or self._ready or self._elsewhere or self._waiting
        )

    def stop(self) -> None:
        """Hand out nothing more; what runs ends after the iteration it is at."""
        self.stopping = True
        self._tell("stopping")

    def hand_out(self, trial: str) -> Attempt | None:
        """What `trial` is to do; None when there is nothing for it now."""
        if self.stopping:
            return None
        if not (self._running or self._ready or self._elsewhere):
            # Nobody is left to commit what these wait for.
            self._ready.extend(self._first(task) for task in self._waiting)
            self._waiting = []
        queue = self._ready or self._elsewhere
        if not queue:
            return None
        attempt = self._running[trial] = queue.popleft()
        self._tell("started", attempt.task.lineage.id, attempt.number)
        return attempt

    def gives_way(self, trial: str, result: dict[str, Any]) -> bool:
        """Whether a trial whose next iteration another run trains leaves its place to others."""
        if not result.get("claimed_elsewhere"):
            self._waiting_since.pop(trial, None)
            return False
        since = self._waiting_since.setdefault(trial, time.monotonic())
        impatient = time.monotonic() - since > PATIENCE_SECONDS
        return bool(self._ready or (impatient and self._elsewhere))

    def reported(self, trial: str, result: dict[str, Any]) -> None:
        """`trial` goes on, having committed the iteration with `key`, if there is one."""
        if "key" in result:
            lineage = self._running[trial].task.lineage
            self._tell("committed", lineage.id, result)
            # A lineage gets there only when all before is stored, whoever trained it.
            self._release(lineage.keys[: lineage.keys.index(result["key"]) + 1])

    def ended(self, trial: str, result: dict[str, Any]) -> None:
        """`trial` ended by itself, or because it was to; `result` is its last."""
        self.reported(trial, result)
        self._waiting_since.pop(trial, None)
        attempt = self._running.pop(trial)
        lineage = attempt.task.lineage
        if result.get("complete"):
            self._release(lineage.keys)
            self._tell("finished", lineage.id)
        elif result.get("claimed_elsewhere") and not self.stopping:
            self._elsewhere.append(attempt)
            self._tell("gave_way", lineage.id)
        else:
            self._stopped.append(attempt.task)

    def failed(self, trial: str, text: str, error: BaseException | None) -> None:
        """Hand the task of a failed trial out again, or give it up and what depends on it.

        `text` says why; `error` is what was raised in the trial, where that is known.
        """
        self._waiting_since.pop(trial, None)
        attempt = self._running.pop(trial)
        task = attempt.task
        missing = self._look(task)
        failure = Failure(task.lineage.id, _reached(task, missing), attempt.number, text)
        retried = attempt.number <= self.retries and not isinstance(error, Hopeless)
        self._tell("failed", failure, retried)
        if retried:
            self._ready.append(attempt.next(error))
        else:
            self.failures.append(failure)
            self._fail_dependents(task, missing, failure)

    def _first(self, task: Task) -> Attempt:
        return Attempt(task, 1, self.gpus)

    def _release(self, keys: Iterable[str]) -> None:
        self._committed.update(keys)
        released = [task for task in self._waiting if task.after in self._committed]
        self._waiting = [task for task in self._waiting if task.after not in self._committed]
        self._ready.extend(self._first(task) for task in released)

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
        lost = {task.lineage.keys[t] for t in missing}
        dependents = [waiting for waiting in self._waiting if waiting.after in lost]
        self._waiting = [waiting for waiting in self._waiting if waiting.after not in lost]
        waited_for = {waiting.after for waiting in self._waiting}
        for dependent in dependents:
            text = (
                f"iteration {cause.iteration}, which it shares with {cause.lineage}, failed there:"
                f"\n{cause.traceback}"
            )
            failure = Failure(dependent.lineage.id, cause.iteration, 0, text)
            self.failures.append(failure)
            self._tell("failed", failure, False)
            if waited_for.intersection(dependent.lineage.keys):
                self._fail_dependents(dependent, self._look(dependent), cause)

    def _tell(self, event: str, *arguments: Any) -> None:
        try:
            getattr(self.observer, event)(*arguments)
        except Exception:  # a broken view must not end the sweep
            with suppress(OSError):  # nor a terminal that is gone
                traceback.print_exc()


def _reached(task: Task, missing: list[int]) -> int:
    steps = task.lineage.steps
    return steps[missing[0]].iteration if missing else steps[-1].iteration
