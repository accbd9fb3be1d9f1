"""Tuning: the queue's lineages as Ray Tune trials."""

import pickle
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError, RayTaskError
from ray.tune import CheckpointConfig, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from orchestrator.run.allowance import Allowance
from orchestrator.run.capacity import Room
from orchestrator.run.cluster import nodes
from orchestrator.run.ending import Ending
from orchestrator.run.interruption import stopped_by_signals
from orchestrator.run.nodes import Nodes
from orchestrator.run.occupancy import Occupancy
from orchestrator.run.outcome import Outcome
from orchestrator.run.packing import Packing
from orchestrator.run.placing import Placing
from orchestrator.run.planning import Plan, branch_points, wanted_snapshots
from orchestrator.run.queue import Observer, Queue
from orchestrator.run.ray_internals import (
    actor_of,
    draining_nodes,
    forget_ended,
    node_of,
    plain_workers,
    saved_once,
    signals_kept,
    uncounted,
    without_worker,
)
from orchestrator.sweepfile.resources import Resources
from trainables.data import Dataset
from trainables.lineage.cause import Cause
from trainables.lineage.keeping import StoreOptions
from trainables.lineage.keys import Lineage
from trainables.lineage.mirror import Mirrors
from trainables.lineage.notice import EVERY_NODE, tell
from trainables.lineage.stored import stored_files
from trainables.lineage.trainable import LineageTrainable, Work, timeout_report
from trainables.plugins.loading import Luggage, plugged_in
from trainables.plugins.source import Plugin
from trainables.store import Store, StoreError

DRAINING_SECONDS = 5.0
"""Between two looks at which nodes are about to go."""

NODE_ID = "ray.io/node-id"
"""The label of a node that Ray gives it."""

ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class _NeverRestored:
    """Tune pickles all it is given, for a restore that never happens."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass(eq=False)
class _Search(_NeverRestored, Searcher):
    """The queue as Tune asks it: `suggest` is for a new trial, and None means not now."""

    queue: Queue
    placing: Placing

    def __post_init__(self) -> None:
        super().__init__()

    def suggest(self, trial_id: str) -> Any:
        self.placing.look()
        bundle = () if self.placing.room.full else self.queue.hand_out(trial_id)
        if not bundle:
            return Searcher.FINISHED if self.queue.exhausted else None
        attempts = {attempt.task.lineage.id: attempt.number for attempt in bundle}
        place, not_on = self.placing.place(trial_id, bundle)
        slot = place.for_more(bundle[0].gpus)
        return {
            "attempts": attempts,
            "gpus": slot.gpus,
            "memory": slot.memory,
            # A client of MPS that dies takes others with it, or lets them wait for ever.
            "mps": max(attempts.values()) == 1,
            "not_on": sorted(not_on),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """_Stop has seen it before."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.placing.room.leave(trial_id)
        if not error:  # else _Trials follows, with the reason
            self.queue.ended(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """The store has all there is to know."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a run always starts a fresh Tuner")


class _Forgetful(_NeverRestored, FIFOScheduler):
    """First in, first out, but that who waits for a worker to start goes on doing so as long as
    others can have those that are free; what is out is forgotten."""

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        forget_ended(tune_controller)
        return without_worker(tune_controller) or super().choose_trial_to_run(tune_controller)


@dataclass
class _Trials(_NeverRestored, TrialProgressCallback):
    """Knows which trials have their resources and where, and why one failed.

    Tune adds one of its kind where there is none, which keeps every trial to the end for lines that
    are never printed.
    """

    placing: Placing
    work: Work
    _nodes: dict[str, str | None] = field(default_factory=dict)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.placing.started(trial.trial_id, self._node_of(actor_of(trial)))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """_Stop has seen it before."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.placing.ended(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        try:
            text = ANSI_COLOUR.sub("", Path(trial.error_file).read_text(errors="replace"))
        except OSError:
            text = "stopped without an error message"
        error = raised(trial.pickled_error_file)
        cause, node = Cause.of(text, error), None
        if isinstance(error, RayActorError):
            # What is raised when an actor begins Ray tells as the actor's death.
            unfit = error.actor_init_failed
            cause, node = replace(cause, unfit=unfit, died=not unfit), self._node_of(error.actor_id)
        stuck = dict(self._stuck(trial.config["attempts"]))
        for where in stuck.values():
            cause = Cause(
                f"{where}the iteration took longer than resources.timeout_minutes: "
                f"{self.work.timeout_minutes:g}, and its worker was ended where it was"
            )
        self.placing.failed(trial.trial_id, cause, stuck, node)

    def _node_of(self, actor: str | None) -> str | None:
        """Workers do not move."""
        if actor is not None and self._nodes.get(actor) is None:
            self._nodes[actor] = node_of(actor)
        return self._nodes.get(actor or "")

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
class _Notices:
    """Tells workers to go: all, when the run is to leave, and those of nodes that are about to."""

    queue: Queue
    work: Work
    _told: frozenset[str] = frozenset()
    _looked: float = 0.0

    def heed(self) -> None:
        """Tell who is to go by now; called often."""
        nodes = self._told
        if self.queue.leaving:
            nodes = frozenset({EVERY_NODE})
        elif time.monotonic() - self._looked >= DRAINING_SECONDS:
            self._looked = time.monotonic()
            nodes |= {*draining_nodes()}
        if nodes != self._told:
            with suppress(OSError, StoreError):
                tell(self._store, self.work.notice, nodes)
                self._told = nodes

    def forget(self) -> None:
        if self._told:
            with suppress(OSError, StoreError):
                self._store.delete_file(self.work.notice)

    @property
    def _store(self) -> Store:
        return Store(self.work.storage, existing=True)


@dataclass
class _Stop(_NeverRestored, Stopper):
    """Tells the queue what a trial reports, before anything else sees it flattened, and ends trials
    as it says."""

    queue: Queue
    placing: Placing
    ending: Ending
    notices: _Notices

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.placing.reported(trial_id, result)
        return self.queue.reported(trial_id, result["reports"])

    def stop_all(self) -> bool:
        self.ending.heed(self.queue)
        self.notices.heed()
        self.placing.look()
        # Trials that never got their resources have no next result.
        return self.queue.stopping and not self.placing.anyone


def train_plan(
    plan: Plan,
    *,
    packing: Packing,
    resources: Resources,
    keeping: StoreOptions,
    storage: str,
    left_out: Collection[str],
    arrays: Mapping[str, Dataset],
    observer: Observer,
    git_sha: str | None,
    ending: Ending,
    allowance: Allowance,
    occupancy: Occupancy,
    urgency: Mapping[str, int] = MappingProxyType({}),
    kept: frozenset[str] = frozenset(),
    mirrors: Mirrors | None = None,
) -> Outcome:
    """Run the plan's tasks as trials of a fresh Tuner, inside `ray_cluster`.

    `arrays` are the datasets by their identity as JSON, which are shared with the workers.
    `packing` has at least one slot, and the nodes whose ids are `left_out` none; `occupancy` counts
    on what the slots' time goes, `urgency` has the most urgent lineages from 0, by their ids, and
    the iterations `kept` are those whose weights are not this sweep's to drop.
    SIGINT, `ending` and a spent `allowance` stop the run between iterations, what tells it to go
    between steps, whose state is kept; what is committed stays.
    """
    lineages = {task.lineage.id: task.lineage for task in plan.tasks}
    work = Work(
        luggage=Luggage(_plugins(lineages)),
        lineages=lineages,
        datasets={identity: ray.put(dataset) for identity, dataset in arrays.items()},
        snapshots=wanted_snapshots(plan.lineages),
        branch_points=branch_points(plan.lineages) | kept,
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
        urgency,
        allowance,
    )
    there, room = Nodes(nodes, frozenset(left_out)), Room(packing.slots)
    placing = Placing(queue, there, room, packing.lay, occupancy)
    scratch = tempfile.mkdtemp(prefix="prunesweep-tune-")
    notices = _Notices(queue, work)
    stopped = stopped_by_signals(queue.stop, queue.leave, lambda: queue.stopping)
    try:
        with stopped, signals_kept(), plain_workers(), uncounted(), saved_once():
            trainable = tune.with_parameters(LineageTrainable, work=work)
            _tuner(trainable, work, placing, ending, notices, scratch).fit()
        left = queue.leaving and queue.unfinished
        return Outcome(tuple(queue.failures), queue.unfinished, left, queue.spent)
    finally:
        placing.close()
        notices.forget()
        shutil.rmtree(scratch, ignore_errors=True)


def _plugins(lineages: Mapping[str, Lineage]) -> tuple[Plugin, ...]:
    """The plug-ins that the lineages are made with."""
    configs = {id(each): each for line in lineages.values() for each in line.configs}
    return tuple(dict.fromkeys(entry.plugin for entry in plugged_in(configs.values())))


def _tuner(
    trainable: Any, work: Work, placing: Placing, ending: Ending, notices: _Notices, scratch: str
) -> Tuner:
    return Tuner(
        tune.with_resources(trainable, partial(_request, work.cpus)),
        tune_config=TuneConfig(
            search_alg=_Search(placing.queue, placing),
            scheduler=_Forgetful(),
            num_samples=-1,
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name="run",
            storage_path=scratch,
            verbose=0,
            callbacks=[_Trials(placing, work)],
            stop=_Stop(placing.queue, placing, ending, notices),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def _request(cpus: int, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial asks Ray for."""
    gpus = {"GPU": config["gpus"]} if config["gpus"] else {}
    # Either strategy is the same for one bundle; but Tune hands a worker on only to who asks for
    # the same, and one that has begun with MPS cannot go on without.
    strategy = "PACK" if config["mps"] else "SPREAD"
    elsewhere: dict[str, Any] = {}
    if config["not_on"]:
        elsewhere["bundle_label_selector"] = [{NODE_ID: f"!in({','.join(config['not_on'])})"}]
    return tune.PlacementGroupFactory([{"CPU": cpus, **gpus}], strategy=strategy, **elsewhere)
