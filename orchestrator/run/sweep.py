"""Running a sweep, from its spec to finished lineages: plan, train, record, tabulate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchestrator.errors import PlanError
from orchestrator.records.damage import noted_damage
from orchestrator.records.datasets import record_datasets
from orchestrator.records.ends import so_far
from orchestrator.records.failures import Failure, each_once, read_failures
from orchestrator.records.labels import lineage_labels
from orchestrator.records.plugins import record_plugins
from orchestrator.records.provenance import git_sha
from orchestrator.records.published import record_published
from orchestrator.records.runs import begin_run, end_run
from orchestrator.records.spending import Spent
from orchestrator.records.status import left_undone
from orchestrator.records.sweep import SweepRecord, write_sweep
from orchestrator.records.versions import record_versions
from orchestrator.results.compacting import compact
from orchestrator.run.allowance import Allowance
from orchestrator.run.datasets import ResolvedDataset, load_datasets
from orchestrator.run.dividing import begun_at, place_among_runs
from orchestrator.run.ending import Ending
from orchestrator.run.expiring import expire_claims
from orchestrator.run.finishing import call
from orchestrator.run.healing import set_damaged_aside
from orchestrator.run.interruption import interruptions_noted
from orchestrator.run.machines import Cluster
from orchestrator.run.mps import mps
from orchestrator.run.occupancy import Occupancy
from orchestrator.run.outcome import Outcome
from orchestrator.run.packing import Packing
from orchestrator.run.placing import WAIT_SECONDS
from orchestrator.run.planned_sweep import (
    PlannedSweep,
    measured_of,
    plan_again,
    plan_lineages,
    with_costs,
)
from orchestrator.run.planning import Plan, branch_points, make_plan, wanted_snapshots
from orchestrator.run.progress import RunProgress
from orchestrator.run.ranking import Rung, decide
from orchestrator.run.starting import cluster_starting
from orchestrator.run.wishes import NO_WISHES, Wishes, failures_of, ranks
from orchestrator.storage.collecting import wait_for_collection
from orchestrator.sweepfile.published import read_published
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.tracking.destination import Tracking, track
from orchestrator.tracking.mirroring import Sent, follow, send_rest
from orchestrator.tracking.service import TrackingError
from trainables.data import DataRoots, Dataset
from trainables.lineage.identity import snapshot_key, weights_key
from trainables.lineage.initial_weights import files_of, keep
from trainables.lineage.keys import Lineage
from trainables.lineage.stored import stored_parents
from trainables.store import Damaged, Store, StoreError, iteration_path, snapshot_path
from trainables.store.artifacts import WEIGHTS
from trainables.store.index import StoreIndex
from trainables.store.storage_format import collections, mark, require_ours, require_there


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
            return running.enter_context(cluster_starting(address, store, spec.resources))

        running.callback(progress.rest)
        with interruptions_noted():
            started = start() if plan.tasks and allowance.left() > 0 else None
            ready = _made_ready(
                spec, index, roots, datasets, plan, progress, command, collected, wishes
            )
        if ready.planned.plan.tasks and allowance.left() <= 0:
            outcome = Outcome((), interrupted=True, spent=True)
        elif ready.planned.plan.tasks:
            names = lineage_labels(ready.planned.record)
            with progress.running(ready.planned.plan, names):
                # Without a task at first, damage that was set aside has brought some.
                ending = Ending(progress.store, spec.name, progress.run, wishes.seconds)
                outcome = _train_in_stages(
                    ready, index, started or start(), progress, ending, allowance
                )
    planned, store = ready.planned, ready.store
    if planned.plan.tasks and not outcome.left:
        require_there(store)
        # Others may have committed as well.
        index = StoreIndex(store)
    record = so_far(store, planned.record)
    failures = _failures(planned, record, store, outcome, kept, wishes, index)
    outcome = replace(outcome, failures=failures)
    whole = not (outcome.failures or outcome.interrupted or planned.plan.left)
    if spec.store.keep_weights == "none" and whole:
        _drop_shared_weights(planned.plan.lineages, index)
    damage, problem = [], None
    try:
        end_run(store, spec.name)
        if not outcome.left:
            damage = compact(store, record, index.iterations)
    except (OSError, StoreError) as error:
        # What was trained is committed; tables can be made from it at any time.
        problem = str(error)
    shown = None
    if ready.tracking is not None and not outcome.interrupted:
        shown = send_rest(record, store, ready.tracking, index.iterations)
    spent = allowance.spent
    return RunSummary(planned, record, outcome, ready.healed, tuple(damage), problem, spent, shown)


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


@dataclass(frozen=True)
class _Ready:
    """A sweep with all that its training needs but a cluster; what is `skipped` of it nobody asked
    for."""

    planned: PlannedSweep
    store: Store
    arrays: Mapping[str, Dataset]
    tracking: Tracking | None
    healed: tuple[Damaged, ...]
    skipped: frozenset[str]


def _made_ready(
    spec: SweepSpec,
    index: StoreIndex,
    roots: DataRoots,
    datasets: tuple[ResolvedDataset, ...],
    plan: Plan,
    progress: RunProgress,
    command: Sequence[str],
    collected: str | None,
    wishes: Wishes,
) -> _Ready:
    """Check, heal and load what the plan needs, and begin the records."""
    store = index.store

    def planned_again() -> Plan:
        return plan_again(spec, index, plan.lineages, plan.leaving)

    planned = with_costs(spec, index, datasets, plan)
    if planned.leaving and not wishes.replace:
        raise PlanError(f"{planned.leaving}; give another name, or --replace", ("name",))
    tracking = _tracking(planned, store)
    _check_room(planned, store)
    store.remove_leftovers()
    expire_claims(store, planned.plan.to_train | planned.plan.to_measure, _every_key(plan))
    healed = set_damaged_aside(store, _to_check(plan, index))
    if healed:
        index.refresh()
        planned = replace(planned, plan=planned_again())
    if planned.plan.tasks and spec.name in store.names("sweeps"):
        # Data may take minutes: who looks, or asks it to stop, shall find a run in flight.
        progress.beat()
    arrays = load_datasets(planned.datasets, planned.plan.trained_on, roots)
    # What the run is for waits for a storage that is away; what shows it goes on without.
    progress.store = mark(store)
    store = replace(progress.store, patience_minutes=spec.store.patience_minutes)
    progress.tell(planned.notices, planned.dataset_lines)
    _write_records(planned, store, arrays)
    while wait_for_collection(store, collected):
        # It may have taken what was stored of the sweep, and `rm` its records too.
        collected = collections(store)
        index.refresh()
        planned = replace(planned, plan=planned_again())
        arrays = load_datasets(planned.datasets, planned.plan.trained_on, roots)
        _write_records(planned, store, arrays)
    ends = planned.plan.ends.values()
    begin_run(store, spec.name, command, progress.run, plan.left, ends)
    skipped = frozenset(wishes.unmet(spec, plan.lineages))
    return _Ready(planned, store, arrays, tracking, tuple(healed), skipped)


def _every_key(plan: Plan) -> Iterator[str]:
    for line in plan.lineages:
        yield from line.keys
        yield from (each.key for each in line.measurements)


def _to_check(plan: Plan, index: StoreIndex) -> list[str]:
    """The stored commits that the plan's training builds on, and those of the plan that are noted
    to be damaged, each once.

    In an object store, where reading all takes long, the latter alone: lineages check what they
    read."""
    local = index.store.local_root is not None
    lineages = [task.lineage for task in plan.tasks] if local else []
    parents = {key for line in lineages for key in stored_parents(line, index.files_of)}
    pairs = (each.pair or () for line in lineages for each in line.measurements)
    compared = {ticket.key for pair in pairs for ticket in pair}
    parents |= {key for key in compared if index.files_of(key) is not None}
    paths = [iteration_path(key) for key in sorted(parents)]
    paths += _stored_snapshots(lineages, index)
    if noted := noted_damage(index.store):
        every = {iteration_path(k) for k in _every_key(plan) if index.files_of(k) is not None}
        paths += sorted(noted & {*every, *_stored_snapshots(plan.lineages, index)})
    return list(dict.fromkeys(paths))


def _stored_snapshots(lineages: Sequence[Lineage], index: StoreIndex) -> list[str]:
    """Those that are stored of the weights that lineages rewind to, or start from."""
    wanted = wanted_snapshots(lineages) if lineages else {}
    keys = [snapshot_key(trunk, step) for trunk, steps in wanted.items() for step in sorted(steps)]
    keys += [weights_key(content) for content in files_of(lineages)]
    return [snapshot_path(key) for key in keys if key in index.snapshots]


def _train_in_stages(
    ready: _Ready,
    index: StoreIndex,
    started: Callable[[], Cluster],
    progress: RunProgress,
    ending: Ending,
    allowance: Allowance,
) -> Outcome:
    """Train up to each rung, at which it is decided who goes on, and then to the end."""
    with interruptions_noted():
        # Here, as a run with nothing to train has no use for it, and while Ray comes up.
        from orchestrator.run.tuning import train_plan

        cluster = started()
        if not ready.planned.packed(cluster).slots:
            cluster = _waited(ready.planned, cluster, progress)
    spec, plan, occupancy = ready.planned.spec, ready.planned.plan, Occupancy()
    failures: tuple[Failure, ...] = ()
    again = False
    while True:
        rung, outcome = plan.rung, Outcome((), interrupted=False)
        stage = plan if rung is None else _up_to(rung, plan, spec, index)
        if stage.tasks:
            staged = replace(ready, planned=replace(ready.planned, plan=stage))
            outcome = _train(train_plan, staged, cluster, progress, ending, allowance, occupancy)
        failures += outcome.failures
        is_over = rung is None and (again or not _compares(plan))
        if is_over or outcome.interrupted:
            return replace(outcome, failures=failures)
        index.refresh()
        given_up = plan.leaving | {failure.lineage for failure in failures}
        plan = plan_again(spec, index, plan.lineages, given_up)
        if rung is None:
            # Who compares tickets has set aside one of another lineage that is damaged, or it was
            # not there yet, and its lineage has failed since.
            again = True
            if not plan.tasks:
                return replace(outcome, failures=failures)
        elif plan.rung is not None and plan.rung.iteration == rung.iteration:
            # No other run has decided it meanwhile.
            absent = {*plan.rung.waits_for(index.files_of)} - (given_up - ready.skipped)
            if absent:
                progress.tell([_undecided(plan.rung, len(absent))])
                return replace(outcome, failures=failures)
            measured = measured_of(spec, index)
            progress.ranked(decide(plan.rung, ready.store, spec.name, measured).values())
            plan = plan_again(spec, index, plan.lineages, given_up)
        progress.goes_on(plan)


def _compares(plan: Plan) -> bool:
    return any(each.pair for line in plan.lineages for each in line.measurements)


def _up_to(rung: Rung, plan: Plan, spec: SweepSpec, index: StoreIndex) -> Plan:
    lineages = [rung.until(lineage) for lineage in plan.so_far]
    return make_plan(lineages, index.files_of, plan.leaving, ranks(spec, plan.lineages))


def _undecided(rung: Rung, absent: int) -> str:
    return (
        f"budget.rank: after iteration {rung.iteration} nothing is decided yet, as {absent} "
        f"{'lineage is' if absent == 1 else 'lineages are'} not there; a run that trains all goes "
        "on from there"
    )


def _train(
    train_plan: Callable[..., Outcome],
    ready: _Ready,
    cluster: Cluster,
    progress: RunProgress,
    ending: Ending,
    allowance: Allowance,
    occupancy: Occupancy,
) -> Outcome:
    spec, tracking = ready.planned.spec, ready.tracking

    packing = _checked(ready.planned.packed(cluster), spec, cluster)
    progress.on(cluster, packing)
    plan = ready.planned.plan
    place = place_among_runs(ready.store, spec.name, progress.run)
    return train_plan(
        replace(plan, tasks=begun_at(plan.tasks, place)),
        packing=packing,
        resources=spec.resources,
        keeping=spec.store,
        storage=ready.store.location,
        left_out=cluster.left_out,
        arrays=ready.arrays,
        observer=progress,
        git_sha=git_sha(),
        ending=ending,
        allowance=allowance,
        occupancy=occupancy,
        rank=ranks(spec, plan.lineages),
        mirrors=tracking and partial(follow, tracking),
    )


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


def _tracking(planned: PlannedSweep, store: Store) -> Tracking | None:
    try:
        return track(planned.record, store, planned.spec.wandb)
    except TrackingError as error:
        raise PlanError(str(error), ("wandb", "mode")) from error


def _waited(planned: PlannedSweep, cluster: Cluster, progress: RunProgress) -> Cluster:
    """The cluster when a lineage fits, as far as nodes may still come that one fits on."""
    from orchestrator.run.cluster import node_types, wait_for_room

    resources = planned.spec.resources
    gpus = 0.0 if resources.gpus_per_lineage == "auto" else float(resources.gpus_per_lineage)
    types = node_types()
    if (types and not planned.packed(types).slots) or (not types and cluster.cpus):
        return cluster
    asked = {"CPU": float(resources.cpus_per_lineage), "GPU": gpus}
    what = " and ".join(f"{amount:g} {name}" for name, amount in asked.items() if amount)
    minutes = f"{WAIT_SECONDS / 60:.0f} minutes"
    progress.noticed(f"waiting for a node with {what}, for up to {minutes}: the cluster has none")
    found = wait_for_room(lambda found: bool(planned.packed(found).slots), asked, WAIT_SECONDS)
    return replace(cluster, cpus=found.cpus, gpus=found.gpus, nodes=found.nodes)


def _checked(packing: Packing, spec: SweepSpec, cluster: Cluster) -> Packing:
    if not packing.slots:
        raise PlanError(
            f"no lineage fits: one needs {spec.resources.cpus_per_lineage} CPUs and "
            f"{spec.resources.gpus_per_lineage} GPUs, and the cluster has {cluster.cpus} CPUs and "
            f"{cluster.gpus} GPUs; ask for less",
            ("resources",),
        )
    return packing


def _check_room(planned: PlannedSweep, store: Store) -> None:
    free = store.free_bytes()
    if free is not None and planned.bytes > free:
        raise StoreError(
            f"storage {store.location} has {free / 1e9:.1f} GB free, and this sweep needs about "
            f"{planned.bytes / 1e9:.1f} GB; free some space, choose another --storage, or set "
            "store.keep_weights: last"
        )


def _write_records(planned: PlannedSweep, store: Store, arrays: Mapping[str, Dataset]) -> None:
    """Write down what the sweep is, which names what it is made of, and then the initial weights
    that it brings."""
    name, record = planned.spec.name, planned.record
    write_sweep(store, record)
    record_datasets(store, name, planned.datasets_record, arrays)
    record_plugins(store, name, planned.spec.configs)
    record_versions(store, name, planned.spec.configs)
    for file in files_of(task.lineage for task in planned.plan.tasks).values():
        keep(store, file)
    published = planned.spec.published
    record_published(store, record, read_published(Path(published)) if published else ())


def _drop_shared_weights(lineages: Sequence[Lineage], index: StoreIndex) -> None:
    for key in branch_points(lineages) | {lineage.trunk for lineage in lineages}:
        if WEIGHTS in (index.files_of(key) or ()):
            index.store.drop_file(iteration_path(key), WEIGHTS)
