"""Running a sweep, from its spec to finished lineages: plan, train, record, tabulate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from orchestrator.records.ends import so_far
from orchestrator.records.failures import Failure, each_once, read_failures
from orchestrator.records.labels import lineage_labels
from orchestrator.records.runs import end_run
from orchestrator.records.spending import Spent
from orchestrator.records.status import left_undone
from orchestrator.records.sweep import SweepRecord
from orchestrator.results.compacting import compact
from orchestrator.run.allowance import Allowance
from orchestrator.run.ending import Ending
from orchestrator.run.finishing import call
from orchestrator.run.interruption import interruptions_noted
from orchestrator.run.machines import Cluster
from orchestrator.run.mps import mps
from orchestrator.run.outcome import Outcome
from orchestrator.run.planned_sweep import PlannedSweep, plan_lineages
from orchestrator.run.planning import branch_points
from orchestrator.run.preparing import prepare
from orchestrator.run.progress import RunProgress
from orchestrator.run.stages import kept_by_others, train_in_stages
from orchestrator.run.starting import cluster_starting
from orchestrator.run.wishes import NO_WISHES, Wishes, failures_of
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.tracking.mirroring import Sent, send_rest
from trainables.data import DataRoots
from trainables.store import Damaged, Store, StoreError, iteration_path
from trainables.store.artifacts import WEIGHTS
from trainables.store.index import StoreIndex
from trainables.store.storage_format import collections, require_ours, require_there


@dataclass(frozen=True)
class RunSummary:
    """What a run did: its plan, its outcome, and the damage it set aside and trained again. The
    `record` is of the sweep as it has come to be, with each lineage up to where it ends.

    `damage` was met only while the tables were made, and is left to the next run. `problem` is why
    the tables could not be written, None when they were, or there was no time. `spent` is what all
    runs of a sweep with a budget have. `wandb` is None when W&B is disabled or the run was
    interrupted.
    """

    planned: PlannedSweep
    record: SweepRecord
    outcome: Outcome
    healed: tuple[Damaged, ...]
    damage: tuple[Damaged, ...]
    problem: str | None
    spent: Spent
    wandb: Sent | None = None


def run_sweep(
    spec: SweepSpec,
    store: Store,
    roots: DataRoots,
    progress: RunProgress,
    *,
    address: str | None,
    command: Sequence[str],
    wishes: Wishes = NO_WISHES,
) -> RunSummary:
    """Train what the store lacks of `spec` and rebuild its tables.

    What is in the stored sweep of its name leaves that only when it is to be replaced. Commits it
    builds on, and those that somebody has met damaged, are checked first; what is damaged is set
    aside and trained again. Raises PlanError, DatasetNotFound or StoreError before anything is
    written.
    """
    try:
        summary = _run(spec, store, roots, progress, address, command, wishes)
    except KeyboardInterrupt:
        _finish(spec, store, progress, "interrupted")
        raise
    except Exception:
        if progress.has_begun:
            _finish(spec, store, progress, "failed")
        raise
    state = "failed" if summary.damage or summary.problem else summary.outcome.state
    _finish(spec, store, progress, state)
    return summary


def _finish(spec: SweepSpec, store: Store, progress: RunProgress, state: str) -> None:
    if spec.on_finish is not None:
        told = call(spec.on_finish, spec.name, store.location, state)
        progress.tell([told] if told else [])


def _run(
    spec: SweepSpec,
    store: Store,
    roots: DataRoots,
    progress: RunProgress,
    address: str | None,
    command: Sequence[str],
    wishes: Wishes,
) -> RunSummary:
    require_ours(store)
    collected = collections(store)
    index = StoreIndex(store)
    datasets, plan = plan_lineages(spec, index, roots, wishes)
    # Of lineages that this run leaves as they are, what is known of their failures stays.
    kept = progress.given_up = failures_of(store, spec.name, plan.left)
    store.require_writable()
    outcome = Outcome(failures=(), interrupted=False)
    allowance = Allowance(store, spec.name, progress.run, spec.budget)
    with ExitStack() as running:

        def start() -> Callable[[], Cluster]:
            # Ray's processes have the environment that MPS's clients need.
            told = running.enter_context(_mps(spec, address))
            progress.tell([told] if told else [])
            starting = cluster_starting(address, store, spec.resources, len(plan.tasks))
            return running.enter_context(starting)

        running.callback(progress.rest)
        with interruptions_noted():
            started = start() if plan.tasks and allowance.left() > 0 else None
            prepared = prepare(
                spec, index, roots, datasets, plan, progress, command, collected, wishes
            )
        if prepared.planned.plan.tasks and allowance.left() <= 0:
            outcome = Outcome((), interrupted=True, spent=True)
        elif prepared.planned.plan.tasks:
            names = lineage_labels(prepared.planned.record)
            with progress.running(prepared.planned.plan, names):
                # Without a task at first, damage that was set aside has brought some.
                ending = Ending(progress.store, spec.name, progress.run, wishes.seconds)
                outcome = train_in_stages(
                    prepared, index, started or start(), progress, ending, allowance
                )
    planned, store = prepared.planned, prepared.store
    if planned.plan.tasks and not outcome.left:
        require_there(store)
        # Others may have committed as well.
        index = StoreIndex(store)
    record = so_far(store, planned.record)
    failures = _failures(planned, record, store, outcome, kept, wishes, index)
    outcome = replace(outcome, failures=failures)
    whole = not (outcome.failures or outcome.interrupted or planned.plan.left)
    if spec.store.keep_weights == "none" and whole:
        _drop_shared_weights(planned, index)
    damage, problem = [], None
    try:
        end_run(store, spec.name)
        if not outcome.left:
            damage = compact(store, record, index.iterations)
    except (OSError, StoreError) as error:
        # What was trained is committed; tables can be made from it at any time.
        problem = str(error)
    shown = None
    if prepared.tracking is not None and not outcome.interrupted:
        shown = send_rest(record, store, prepared.tracking, index.iterations)
    spent = allowance.spent
    return RunSummary(
        planned, record, outcome, prepared.healed, tuple(damage), problem, spent, shown
    )


def _failures(
    planned: PlannedSweep,
    record: SweepRecord,
    store: Store,
    outcome: Outcome,
    kept: Sequence[Failure],
    wishes: Wishes,
    index: StoreIndex,
) -> tuple[Failure, ...]:
    """The lineages among those asked for that nobody has completed and some run has failed at."""
    try:
        known = read_failures(store, planned.spec.name)
    except (OSError, StoreError, Damaged):
        known = []
    asked = {line.id for line in planned.plan.lineages}
    asked -= wishes.unmet(planned.spec, planned.plan.lineages)
    told = each_once([kept, outcome.failures, known])
    undone = left_undone(record, told, index.iterations)
    return tuple(failure for failure in undone if failure.lineage in asked)


@contextmanager
def _mps(spec: SweepSpec, address: str | None) -> Iterator[str | None]:
    """What to tell of MPS when it was asked for and cannot be had."""
    wanted = spec.resources.mps == "auto" and spec.resources.gpus_per_lineage != 0
    with mps(wanted and address is None) as problem:
        if wanted and address is not None:
            problem = (
                "resources.mps: a run starts the daemon on its own machine only; on the nodes of a "
                "cluster, start it before Ray"
            )
        yield problem


def _drop_shared_weights(planned: PlannedSweep, index: StoreIndex) -> None:
    lineages = planned.plan.lineages
    shared = branch_points(lineages) | {lineage.trunk for lineage in lineages}
    for key in shared - kept_by_others(planned.spec, index.store):
        if WEIGHTS in (index.files_of(key) or ()):
            index.store.drop_file(iteration_path(key), WEIGHTS)
