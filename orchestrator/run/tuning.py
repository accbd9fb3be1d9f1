"""Tuning: the queue's lineages as Ray Tune trials."""

import pickle
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune import Callback, CheckpointConfig, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.search import Searcher

from orchestrator.run.capacity import Room
from orchestrator.run.ending import Ending
from orchestrator.run.interruption import stopped_by_signals
from orchestrator.run.outcome import Outcome
from orchestrator.run.packing import Packing
from orchestrator.run.planning import Plan, branch_points, wanted_snapshots
from orchestrator.run.queue import Observer, Queue
from orchestrator.run.ray_internals import keys_kept, uncounted
from orchestrator.sweepfile.spec import Resources
from trainables.data import Dataset
from trainables.lineage.cause import Cause
from trainables.lineage.keeping import StoreOptions
from trainables.lineage.keys import Lineage
from trainables.lineage.mirror import Mirrors
from trainables.lineage.stored import stored_files
from trainables.lineage.trainable import LineageTrainable, Work, timeout_report
from trainables.plugins.loading import Luggage, plugged_in
from trainables.plugins.source import Plugin
from trainables.store import Store

ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class _NeverRestored:
    """Tune pickles all it is given, for a restore that never happens."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass(eq=False)
class _Search(_NeverRestored, Searcher):
    """The queue as Tune asks it: `suggest` is for a new trial, and None means not now."""

    queue: Queue
    room: Room

    def __post_init__(self) -> None:
        super().__init__()

    def suggest(self, trial_id: str) -> Any:
        bundle = self.queue.hand_out(trial_id)
        if not bundle:
            return Searcher.FINISHED if self.queue.exhausted else None
        attempts = {attempt.task.lineage.id: attempt.number for attempt in bundle}
        slot = self.room.take(trial_id).for_more(bundle[0].gpus)
        return {
            "attempts": attempts,
            "gpus": slot.gpus,
            "memory": slot.memory,
            # A client of MPS that dies takes others with it, or lets them wait for ever.
            "mps": max(attempts.values()) == 1,
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """_Stop has seen it before."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.room.leave(trial_id)
        if not error:  # else _Trials follows, with the reason
            self.queue.ended(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """The store has all there is to know."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a run always starts a fresh Tuner")


@dataclass
class _Trials(_NeverRestored, Callback):
    """Knows which trials have their resources, and tells the queue why one failed."""

    queue: Queue
    work: Work
    at_work: set[str] = field(default_factory=set)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.at_work.add(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.at_work.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.at_work.discard(trial.trial_id)
        try:
            text = ANSI_COLOUR.sub("", Path(trial.error_file).read_text(errors="replace"))
        except OSError:
            text = "stopped without an error message"
        cause = Cause.of(text, raised(trial.pickled_error_file))
        stuck = dict(self._stuck(trial.config["attempts"]))
        for where in stuck.values():
            cause = Cause(
                f"{where}the iteration took longer than resources.timeout_minutes: "
                f"{self.work.timeout_minutes:g}, and its worker was ended where it was"
            )
        self.queue.failed(trial.trial_id, cause, stuck)

    def _stuck(self, attempts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """The lineages that took too long, each with where."""
        store = Store(self.work.storage)
        for lineage, attempt in attempts.items():
            path = timeout_report(self.work.run, lineage, attempt)
            with suppress(OSError):
                where = store.peek(path)
                if where is not None:
                    store.delete_file(path)
                    yield lineage, where.decode()


def raised(file: str | None) -> BaseException | None:
    """What was raised in a trial, or happened to its worker, from the file that Tune keeps it in;
    None when that is not there or cannot be read."""
    if file is None:
        return None
    try:
        error = pickle.loads(Path(file).read_bytes())
    except Exception:  # an exception's class may do anything when it is made anew
        return None
    return error.cause if isinstance(error, RayTaskError) else error


@dataclass
class _Stop(_NeverRestored, Stopper):
    """Tells the queue what a trial reports, before anything else sees it flattened, and ends trials
    as it says."""

    queue: Queue
    trials: _Trials
    ending: Ending

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self.queue.reported(trial_id, result["reports"])

    def stop_all(self) -> bool:
        self.ending.heed(self.queue)
        # Trials that never got their resources have no next result.
        return self.queue.stopping and not self.trials.at_work


def train_plan(
    plan: Plan,
    *,
    packing: Packing,
    resources: Resources,
    keeping: StoreOptions,
    storage: str,
    left_out: Collection[str],
    load: Callable[[Lineage], tuple[str, Dataset]],
    observer: Observer,
    git_sha: str | None,
    ending: Ending,
    rank: Mapping[str, int] = MappingProxyType({}),
    mirrors: Mirrors | None = None,
) -> Outcome:
    """Run the plan's tasks as trials of a fresh Tuner, inside `ray_cluster`.

    `load(lineage)` gives the canonical identity of a lineage's dataset and its arrays; each
    dataset is decoded once, here, and shared with the workers. `packing` has at least one slot, and
    the nodes whose ids are `left_out` none; `rank` is how urgent a lineage is, by its id. SIGINT,
    SIGTERM and `ending` stop the run between iterations; what is committed stays.
    """
    lineages = {task.lineage.id: task.lineage for task in plan.tasks}
    work = Work(
        luggage=Luggage(_plugins(lineages)),
        lineages=lineages,
        datasets=_shared_datasets(lineages, load),
        snapshots=wanted_snapshots(plan.lineages),
        branch_points=branch_points(plan.lineages),
        storage=storage,
        keeping=keeping,
        cpus=resources.cpus_per_lineage,
        git_sha=git_sha,
        run=uuid.uuid4().hex,
        timeout_minutes=resources.timeout_minutes,
        mirrors=mirrors,
        execution=resources.execution,
        pin_cores=resources.pin_cores,
    )
    queue = Queue(
        plan.tasks,
        stored_files(Store(storage)),
        packing.slots[0].memory,
        resources.retries,
        observer,
        len(packing.slots),
        packing.bundles,
        rank,
    )
    scratch = tempfile.mkdtemp(prefix="prunesweep-tune-")
    try:
        with stopped_by_signals(queue.stop, lambda: queue.stopping), keys_kept(), uncounted():
            trainable = tune.with_parameters(LineageTrainable, work=work)
            room = Room(packing.slots, left_out)
            _tuner(trainable, work, queue, ending, room, scratch).fit()
        return Outcome(tuple(queue.failures), interrupted=queue.unfinished)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _plugins(lineages: Mapping[str, Lineage]) -> tuple[Plugin, ...]:
    """The plug-ins that the lineages are made with."""
    configs = {id(each): each for line in lineages.values() for each in line.cell.configs}
    return tuple(dict.fromkeys(entry.plugin for entry in plugged_in(configs.values())))


def _tuner(
    trainable: Any, work: Work, queue: Queue, ending: Ending, room: Room, scratch: str
) -> Tuner:
    trials = _Trials(queue, work)
    return Tuner(
        tune.with_resources(trainable, partial(_request, work.cpus, room.left_out)),
        tune_config=TuneConfig(
            search_alg=_Search(queue, room),
            num_samples=-1,
            max_concurrent_trials=len(room.slots),
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name="run",
            storage_path=scratch,
            verbose=0,
            callbacks=[trials],
            stop=_Stop(queue, trials, ending),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def _request(
    cpus: int, left_out: Collection[str], config: Mapping[str, Any]
) -> tune.PlacementGroupFactory:
    """What a trial asks Ray for, on any node that is not `left_out`."""
    gpus = {"GPU": config["gpus"]} if config["gpus"] else {}
    # Either strategy is the same for one bundle; but Tune hands a worker on only to who asks for
    # the same, and one that has begun with MPS cannot go on without.
    strategy = "PACK" if config["mps"] else "SPREAD"
    bundles = [{"CPU": cpus, **gpus}]
    if not left_out:
        return tune.PlacementGroupFactory(bundles, strategy=strategy)
    elsewhere = {"ray.io/node-id": f"!in({','.join(sorted(left_out))})"}
    return tune.PlacementGroupFactory(bundles, strategy=strategy, bundle_label_selector=[elsewhere])


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
