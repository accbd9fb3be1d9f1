"""Scheduling: the plan's lineages as Ray Tune trials."""

import math
import re
import shutil
import signal
import tempfile
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.tune import Callback, CheckpointConfig, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from orchestrator.records.failures import Failure
from orchestrator.run.cluster import Cluster
from orchestrator.run.planning import Plan, Task, branch_points, wanted_snapshots
from orchestrator.sweepfile.spec import Resources, StoreOptions
from trainables.data import Dataset
from trainables.lineage.keys import Lineage
from trainables.lineage.mirror import Mirrors
from trainables.lineage.trainable import LineageTrainable, Work, timeout_report
from trainables.store import Store
from trainables.store.claims import EXPIRY_SECONDS

ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

PATIENCE_SECONDS = EXPIRY_SECONDS + 30.0
"""How long a trial waits for an iteration that another run trains when there is other work, of
which no run is known to be at any. That a claim has expired is known only to a trial that has seen
it for as long."""

HOPELESS = ("run.Diverged:", "store.StoreGone:")
"""What another attempt would meet again: a run's numbers follow from its seed, and a storage that
is gone does not come back by itself."""

AUTO_GPUS = 0.25
"""`gpus_per_lineage: auto`: four small networks share a GPU."""


class Observer(Protocol):
    """Is told what happens in a run; it may fail, a lineage may not."""

    def started(self, lineage: str, attempt: int) -> None: ...

    def committed(self, lineage: str, result: dict[str, Any]) -> None: ...

    def gave_way(self, lineage: str) -> None: ...

    def finished(self, lineage: str) -> None: ...

    def failed(self, failure: Failure, retried: bool) -> None: ...

    def stopping(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its failures, and whether it was interrupted."""

    failures: tuple[Failure, ...]
    interrupted: bool


@dataclass(eq=False)
class _Lineages(Searcher):
    """Hands Tune the tasks whose shared iterations are committed, and hands back the failed ones.

    Tune calls `suggest` for a new trial: None means not now.
    """

    tasks: tuple[Task, ...]
    gpus: float
    retries: int
    observer: Observer
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._committed: set[str] = set()
        self._ready = deque((task, 1, self.gpus) for task in self.tasks if task.after is None)
        self._waiting = [task for task in self.tasks if task.after is not None]
        self._running: dict[str, tuple[Task, int, float]] = {}
        self._elsewhere: deque[tuple[Task, int, float]] = deque()
        self._waiting_since: dict[str, float] = {}
        self.at_work: set[str] = set()
        self.stopping = False
        self._stopped: list[Task] = []

    @property
    def unfinished(self) -> bool:
        return bool(
            self._running or self._ready or self._elsewhere or self._waiting or self._stopped
        )

    def stop(self) -> None:
        """Hand out nothing more; what runs ends after the iteration it is at."""
        self.stopping = True
        self._tell("stopping")

    def suggest(self, trial_id: str) -> Any:
        if self.stopping:
            return Searcher.FINISHED
        if not (self._running or self._ready or self._elsewhere):
            # Nobody is left to commit what these wait for.
            self._ready.extend((task, 1, self.gpus) for task in self._waiting)
            self._waiting = []
        queue = self._ready or self._elsewhere
        if queue:
            task, attempt, gpus = self._running[trial_id] = queue.popleft()
            self._tell("started", task.lineage.id, attempt)
            return {"lineage": task.lineage.id, "attempt": attempt, "gpus": gpus}
        return None if self._running else Searcher.FINISHED

    def gives_way(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial whose next iteration another run trains leaves its place to others."""
        if not result.get("claimed_elsewhere"):
            self._waiting_since.pop(trial_id, None)
            return False
        since = self._waiting_since.setdefault(trial_id, time.monotonic())
        impatient = time.monotonic() - since > PATIENCE_SECONDS
        return bool(self._ready or (impatient and self._elsewhere))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "key" in result:
            self._tell("committed", self._running[trial_id][0].lineage.id, result)
            self._release(result["key"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if error:
            return  # trial_failed follows, with the reason
        # A trial's last result comes here only.
        self.on_trial_result(trial_id, result or {})
        self._waiting_since.pop(trial_id, None)
        task, attempt, gpus = self._running.pop(trial_id)
        result = result or {}
        if result.get("complete"):
            self._tell("finished", task.lineage.id)
        elif result.get("claimed_elsewhere") and not self.stopping:
            self._elsewhere.append((task, attempt, gpus))
            self._tell("gave_way", task.lineage.id)
        else:
            self._stopped.append(task)

    def trial_failed(self, trial_id: str, text: str) -> None:
        """Hand the task of a failed trial out again, or give it up and what depends on it."""
        task, attempt, gpus = self._running.pop(trial_id)
        failure = Failure(task.lineage.id, self._reached(task), attempt, text)
        retried = attempt <= self.retries and not any(error in text for error in HOPELESS)
        self._tell("failed", failure, retried)
        if retried:
            out_of_memory = "OutOfMemoryError" in text
            self._ready.append(
                (task, attempt + 1, max(gpus, min(1.0, gpus * 2)) if out_of_memory else gpus)
            )
            return
        self.failures.append(failure)
        self._fail_dependents(set(task.lineage.keys), failure)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles the searcher for a restore that never happens.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """The store has all there is to know."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a run always starts a fresh Tuner")

    def _release(self, key: str) -> None:
        self._committed.add(key)
        released = [task for task in self._waiting if task.after == key]
        self._waiting = [task for task in self._waiting if task.after != key]
        self._ready.extend((task, 1, self.gpus) for task in released)

    def _reached(self, task: Task) -> int:
        lineage = task.lineage
        return next(
            (
                step.iteration
                for step, key in list(zip(lineage.steps, lineage.keys, strict=True))[task.first :]
                if key not in self._committed
            ),
            lineage.steps[-1].iteration,
        )

    def _fail_dependents(self, keys: set[str], cause: Failure) -> None:
        """Give up what waits for `keys`, and what waits for that."""
        lost = keys - self._committed
        dependents = [task for task in self._waiting if task.after in lost]
        self._waiting = [task for task in self._waiting if task.after not in lost]
        for task in dependents:
            text = (
                f"iteration {cause.iteration}, which it shares with {cause.lineage}, failed there:"
                f"\n{cause.traceback}"
            )
            failure = Failure(task.lineage.id, cause.iteration, 0, text)
            self.failures.append(failure)
            self._tell("failed", failure, False)
            self._fail_dependents(set(task.lineage.keys), cause)

    def _tell(self, event: str, *arguments: Any) -> None:
        try:
            getattr(self.observer, event)(*arguments)
        except Exception:  # a broken view must not end the sweep
            with suppress(OSError):  # nor a terminal that is gone
                traceback.print_exc()


@dataclass
class _Trials(Callback):
    """Brings to the searcher what Tune does not tell it: who is at work, and why a trial failed."""

    lineages: _Lineages
    work: Work

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.lineages.at_work.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.lineages.at_work.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.lineages.at_work.discard(trial.trial_id)
        try:
            text = ANSI_COLOUR.sub("", Path(trial.error_file).read_text())
        except OSError:
            text = "stopped without an error message"
        text = self._timeout(trial.config) or text
        self.lineages.trial_failed(trial.trial_id, text)

    def _timeout(self, config: dict[str, Any]) -> str | None:
        store = Store(self.work.storage)
        path = timeout_report(self.work.run, config["lineage"], config["attempt"])
        with suppress(OSError):
            where = store.peek(path)
            if where is not None:
                store.delete_file(path)
                return (
                    f"{where.decode()}the iteration took longer than resources.timeout_minutes: "
                    f"{self.work.timeout_minutes:g}, and its worker was ended where it was"
                )
        return None


@dataclass
class _Stop(Stopper):
    """Ends trials at their next result once the run is being stopped, or when they give way."""

    lineages: _Lineages

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.lineages.gives_way(trial_id, result) or self.lineages.stopping

    def stop_all(self) -> bool:
        # Trials that never got their resources have no next result.
        return self.lineages.stopping and not self.lineages.at_work


def gpus_per_lineage(resources: Resources, cluster: Cluster) -> float:
    """The share of a GPU that one lineage asks for; 0 runs on the CPU."""
    if resources.gpus_per_lineage != "auto":
        return float(resources.gpus_per_lineage)
    if cluster.gpus == 0:
        return 0.0
    # More lineages than the CPUs can feed would only wait for each other.
    fed = max(1, cluster.cpus // (resources.cpus_per_lineage * cluster.gpus))
    return max(AUTO_GPUS, 1 / fed)


def concurrency(resources: Resources, cluster: Cluster) -> int:
    """How many lineages run at a time; each has to fit on one node."""
    gpus = gpus_per_lineage(resources, cluster)
    nodes = cluster.nodes or ((cluster.cpus, cluster.gpus),)
    slots = sum(_slots(resources.cpus_per_lineage, gpus, *node) for node in nodes)
    return min(slots, resources.max_concurrent or slots)


def _slots(cpus: int, gpus: float, node_cpus: int, node_gpus: int) -> int:
    slots = node_cpus // cpus
    if gpus == 0:
        return slots
    # The small number makes up for fractions such as 1/3 that floats fall short of.
    on_gpus = math.floor(1 / gpus + 1e-9) * node_gpus if gpus <= 1 else int(node_gpus // gpus)
    return min(slots, on_gpus)


def train_plan(
    plan: Plan,
    *,
    cluster: Cluster,
    resources: Resources,
    store_options: StoreOptions,
    storage: str,
    load: Callable[[Lineage], tuple[str, Dataset]],
    observer: Observer,
    git_sha: str | None,
    mirrors: Mirrors | None = None,
) -> Outcome:
    """Run the plan's tasks as trials of a fresh Tuner, inside `ray_cluster`.

    `load(lineage)` gives the canonical identity of a lineage's dataset and its arrays; each
    dataset is decoded once, here, and shared with the workers. SIGINT and SIGTERM stop the run
    between iterations; what is committed stays.
    """
    gpus = gpus_per_lineage(resources, cluster)
    lineages = {task.lineage.id: task.lineage for task in plan.tasks}
    work = Work(
        lineages=lineages,
        datasets=_shared_datasets(lineages, load),
        snapshots=wanted_snapshots(plan.lineages),
        branch_points=branch_points(plan.lineages),
        storage=storage,
        keeping=store_options,
        cpus=resources.cpus_per_lineage,
        git_sha=git_sha,
        run=uuid.uuid4().hex,
        timeout_minutes=resources.timeout_minutes,
        mirrors=mirrors,
    )
    searcher = _Lineages(plan.tasks, gpus, resources.retries, observer)
    scratch = tempfile.mkdtemp(prefix="prunesweep-tune-")
    try:
        with _stopped_by_signals(searcher), _keys_kept():
            _tuner(work, searcher, resources, concurrency(resources, cluster), scratch).fit()
        return Outcome(tuple(searcher.failures), interrupted=searcher.unfinished)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _tuner(
    work: Work, searcher: _Lineages, resources: Resources, concurrent: int, scratch: str
) -> Tuner:
    def request(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        gpus = {"GPU": config["gpus"]} if config["gpus"] else {}
        return tune.PlacementGroupFactory([{"CPU": resources.cpus_per_lineage, **gpus}])

    trainable = tune.with_parameters(LineageTrainable, work=work)
    return Tuner(
        tune.with_resources(trainable, request),
        tune_config=TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name="run",
            storage_path=scratch,
            verbose=0,
            callbacks=[_Trials(searcher, work)],
            stop=_Stop(searcher),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def _shared_datasets(
    lineages: Mapping[str, Lineage], load: Callable[[Lineage], tuple[str, Dataset]]
) -> dict[str, ray.ObjectRef]:
    references: dict[str, ray.ObjectRef] = {}
    seen: set[int] = set()
    for lineage in lineages.values():
        if id(lineage.dataset) not in seen:
            seen.add(id(lineage.dataset))
            identity, dataset = load(lineage)
            references[identity] = ray.put(dataset)
    return references


@contextmanager
def _keys_kept() -> Iterator[None]:
    """Keep Tune from handing AWS keys on to its workers: Ray writes what is handed on so into its
    logs, on every node. Workers have the environment of their node."""
    before = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {n for n in before if not n.startswith("AWS_")}
    try:
        yield
    finally:
        class_cache.ENV_VARS_TO_PROPAGATE = before


@contextmanager
def _stopped_by_signals(lineages: _Lineages) -> Iterator[None]:
    """The first SIGINT or SIGTERM lets iterations in flight end; the second stops at once."""

    def stop(number: int, frame: Any) -> None:
        if lineages.stopping:
            raise KeyboardInterrupt
        lineages.stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
