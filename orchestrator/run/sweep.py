"""A sweep from its spec to finished lineages: resolve, plan, train, record, tabulate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from orchestrator.records.datasets import DatasetRecord, record_datasets
from orchestrator.records.failures import Failure, write_failures
from orchestrator.records.plugins import changed_default, changed_entries, record_plugins
from orchestrator.records.probes import write_probe
from orchestrator.records.provenance import add_provenance, git_sha
from orchestrator.records.published import record_published
from orchestrator.records.recording import record_sweep
from orchestrator.records.stops import forget_stops
from orchestrator.records.sweep import SweepRecord, write_sweep
from orchestrator.records.versions import changed_parts, record_versions
from orchestrator.results.tables import compact, recorded_seconds
from orchestrator.run.contents import dataset_lines
from orchestrator.run.ending import Ending
from orchestrator.run.estimates import Estimates, Expected, dataset_sizes
from orchestrator.run.finishing import call
from orchestrator.run.fitting import check_fit
from orchestrator.run.fusing import fusing_notices
from orchestrator.run.healing import set_damaged_aside
from orchestrator.run.interruption import interruptions_noted
from orchestrator.run.machines import Cluster, this_machine
from orchestrator.run.mps import mps
from orchestrator.run.outcome import Outcome
from orchestrator.run.packing import Packing, pack
from orchestrator.run.planning import (
    Plan,
    PlanError,
    ResolvedDataset,
    branch_points,
    commit_bytes,
    estimate_seconds,
    make_plan,
    sweep_lineages,
    training_group,
    wanted_snapshots,
)
from orchestrator.run.probing import probe_plan, probes_here
from orchestrator.run.progress import RunProgress
from orchestrator.run.replacing import leaving
from orchestrator.run.starting import cluster_starting
from orchestrator.run.wishes import Wishes, failures_of, ranks
from orchestrator.storage.collecting import wait_for_collection
from orchestrator.sweepfile.published import read_published
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.tracking.destination import Tracking, track
from orchestrator.tracking.mirroring import Sent, follow, send_rest
from orchestrator.tracking.service import TrackingError
from trainables.config import canonical_json
from trainables.data import DataRoots, Dataset, describe_dataset, identity, load_dataset
from trainables.data.roots import expanded
from trainables.lineage.identity import snapshot_key
from trainables.lineage.keys import Lineage
from trainables.store import Damaged, Store, StoreError, iteration_path, snapshot_path
from trainables.store.artifacts import WEIGHTS
from trainables.store.index import StoreIndex
from trainables.store.storage_format import collections, mark, require_ours, require_there

NO_WISHES = Wishes()


@dataclass(frozen=True)
class Cost:
    """What a run takes: wall-clock seconds, and `hours` of one `device`, "CPU" or "GPU"."""

    seconds: float
    device: str
    hours: float


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep with its plan, and what the plan is expected to take.

    `bytes` is what the commits to come will hold. `estimates` knows times. `notices` are what the
    user should know of it, and `leaving` is what would leave the stored sweep.
    """

    spec: SweepSpec
    datasets: tuple[ResolvedDataset, ...]
    plan: Plan
    bytes: int
    notices: tuple[str, ...] = ()
    estimates: Estimates = field(default_factory=Estimates)
    leaving: str | None = None

    @cached_property
    def record(self) -> SweepRecord:
        """What the storage keeps of the sweep."""
        return record_sweep(self.spec, self.plan.lineages)

    @property
    def dataset_lines(self) -> list[str]:
        """What there is to tell of the datasets."""
        return [line for found in self.datasets for line in dataset_lines(found)]

    @property
    def datasets_record(self) -> list[DatasetRecord]:
        """What the storage keeps of the datasets."""
        return [
            DatasetRecord(found.identity, getattr(found.config, "path", None), found.info)
            for found in self.datasets
        ]

    def seconds_on(self, concurrent: int) -> float | None:
        """Wall-clock seconds with `concurrent` lineages at a time; None when unknown."""
        times = {group: expected.seconds for group, expected in self.expected.items()}
        return estimate_seconds(self.plan, times, concurrent)

    @cached_property
    def expected(self) -> dict[str, Expected]:
        """What an iteration of each training group takes, of those that are known."""
        return self.estimates.of(self.plan)

    @property
    def cost(self) -> Cost | None:
        """What it would take on this machine; None when unknown, or nothing fits there."""
        one_by_one = self.seconds_on(1) if self.plan.tasks else None
        if one_by_one is None or not self.packed_here.slots:
            return None
        slots, here = self.packed_here.slots, this_machine()
        # What shares a GPU is slower than what was measured alone, by no one knows how much.
        gpu = slots[0].gpus > 0
        whole = gpu and any(found.alone for found in self.expected.values())
        seconds = self.seconds_on(min(len(slots), here.gpus) if whole else len(slots))
        assert seconds is not None
        cpus = self.spec.resources.cpus_per_lineage
        part = (1.0 if whole else slots[0].memory) if gpu else cpus
        return Cost(seconds, "GPU" if gpu else "CPU", one_by_one * part / 3600)

    @property
    def sources(self) -> list[str]:
        """What the times follow from."""
        return list(dict.fromkeys(found.source for found in self.expected.values()))

    def packed(self, cluster: Cluster) -> Packing:
        """How the lineages are laid on `cluster`."""
        tasks, resources = self.plan.tasks, self.spec.resources
        return pack(tasks, self.datasets, resources, cluster, self.estimates.probes)

    @cached_property
    def packed_here(self) -> Packing:
        """How they would be laid on this machine."""
        return self.packed(this_machine())


@dataclass(frozen=True)
class RunSummary:
    """What a run did: its plan, its outcome, and the damage it set aside and trained again.

    `damage` was met only while the tables were made, and is left to the next run. `problem` is why
    the tables could not be written, None when they were. `wandb` is None when W&B is disabled or
    the run was interrupted.
    """

    planned: PlannedSweep
    outcome: Outcome
    healed: tuple[Damaged, ...]
    damage: tuple[Damaged, ...]
    problem: str | None
    wandb: Sent | None = None


def plan_sweep(
    spec: SweepSpec, store: Store, roots: DataRoots, wishes: Wishes = NO_WISHES
) -> PlannedSweep:
    """Plan `spec` against what `store` has; trains and writes nothing.

    Raises PlanError, WishError, DatasetNotFound, or StoreError.
    """
    require_ours(store)
    index = StoreIndex(store)
    datasets, plan = _plan(spec, index, roots, wishes)
    planned = _planned(spec, index, datasets, plan)
    return replace(
        planned,
        estimates=replace(
            planned.estimates,
            recorded=recorded_seconds(store, training_group) if plan.tasks else {},
            sizes=dataset_sizes(store, datasets),
        ),
        notices=(*planned.notices, *_not_there(planned, roots)),
    )


def _not_there(planned: PlannedSweep, roots: DataRoots) -> Iterator[str]:
    """What a run would miss: datasets of which all is known without their files."""
    wanted = {canonical_json(task.lineage.dataset) for task in planned.plan.tasks}
    for found in planned.datasets:
        if canonical_json(found.identity) in wanted and not found.config.is_there(roots):
            places = ", ".join(map(str, roots.candidates))
            yield (
                f"{found.config.name}: its files are not here, and `run` needs them: it looks in "
                f"{places}, tries to download what can be, and otherwise stops before it trains"
            )


def probe_sweep(
    spec: SweepSpec,
    store: Store,
    roots: DataRoots,
    wishes: Wishes = NO_WISHES,
    *,
    told: Callable[[str], None],
) -> PlannedSweep:
    """Plan `spec` as `plan_sweep` does, after training some steps of each kind of what it has to
    train, in this process; what they took is kept. `told` is what is being measured."""
    planned = plan_sweep(spec, store, roots, wishes)
    if not planned.plan.tasks:
        return planned
    store.require_writable()
    arrays = _load_datasets(planned, roots)
    store = mark(store)
    tasks, resources = planned.plan.tasks, spec.resources
    for probe in probe_plan(tasks, planned.datasets, resources, arrays, told):
        write_probe(store, probe)
    probes = probes_here(store, resources)
    return replace(planned, estimates=replace(planned.estimates, probes=probes))


def _plan(
    spec: SweepSpec, index: StoreIndex, roots: DataRoots, wishes: Wishes
) -> tuple[tuple[ResolvedDataset, ...], Plan]:
    _refuse_changed_defaults(spec, index.store)
    datasets = resolve_datasets(spec, roots)
    lineages = sweep_lineages(spec, datasets)
    leaving = wishes.unmet(spec, lineages) | wishes.given_up(index.store, spec.name)
    return datasets, make_plan(lineages, index.files_of, leaving, ranks(spec, lineages))


def _planned(
    spec: SweepSpec, index: StoreIndex, datasets: tuple[ResolvedDataset, ...], plan: Plan
) -> PlannedSweep:
    """The plan with what it is expected to take, for which models are built."""
    size = commit_bytes(plan, datasets, spec.store.keep_weights, spec.model)
    if plan.tasks:
        # Of models that can be built: that they can, the size has shown.
        check_fit(spec, datasets)
    gone = leaving(index.store, record_sweep(spec, plan.lineages), index.iterations)
    return PlannedSweep(
        spec=spec,
        datasets=datasets,
        plan=plan,
        bytes=size,
        estimates=Estimates(probes=probes_here(index.store, spec.resources) if plan.tasks else ()),
        notices=(
            *_notices(spec, index.store),
            *fusing_notices(plan.tasks, datasets, spec.resources),
            *_left(plan),
            *([gone] if gone else []),
        ),
        leaving=gone,
    )


def _left(plan: Plan) -> Iterator[str]:
    if plan.left:
        count = len(plan.left)
        yield (
            f"{count} {'lineage is' if count == 1 else 'lineages are'} not complete and not "
            "trained: they are skipped, or have diverged in an earlier run (--retry failed trains "
            "those again)"
        )


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
    builds on are checked first, and damaged ones are set aside and trained again. Raises PlanError,
    DatasetNotFound or StoreError before anything is written.
    """
    require_ours(store)
    collected = collections(store)
    index = StoreIndex(store)
    datasets, plan = _plan(spec, index, roots, wishes)
    # Of lineages that this run leaves as they are, what is known of their failures stays.
    kept = progress.given_up = failures_of(store, spec.name, plan.left)
    store.require_writable()
    outcome = Outcome(failures=(), interrupted=False)
    with ExitStack() as running:

        def start() -> Callable[[], Cluster]:
            # Ray's processes have the environment that MPS's clients need.
            told = running.enter_context(_mps(spec, address))
            progress.tell([told] if told else [])
            return running.enter_context(cluster_starting(address, store, spec.resources))

        with interruptions_noted():
            started = start() if plan.tasks else None
            ready = _made_ready(
                spec, index, roots, datasets, plan, progress, command, collected, wishes
            )
        if ready.planned.plan.tasks:
            with progress.running(ready.planned.plan):
                # Without a task at first, damage that was set aside has brought some.
                outcome = _train(ready, started or start(), progress, wishes)
    planned, store = ready.planned, ready.store
    if planned.plan.tasks:
        require_there(store)
        # Others may have committed as well.
        index.refresh()
    whole = not (outcome.failures or outcome.interrupted or planned.plan.left)
    if spec.store.keep_weights == "none" and whole:
        _drop_shared_weights(planned.plan.lineages, index)
    try:
        write_failures(store, spec.name, (*kept, *outcome.failures))
        damage, problem = compact(store, planned.record, index.iterations), None
    except (OSError, StoreError) as error:
        # What was trained is committed; tables can be made from it at any time.
        damage, problem = [], str(error)
    skipped = wishes.unmet(spec, planned.plan.lineages)
    given_up = (failure for failure in kept if failure.lineage not in skipped)
    outcome = replace(outcome, failures=(*given_up, *outcome.failures))
    shown = None
    if ready.tracking is not None and not outcome.interrupted:
        shown = send_rest(planned.record, store, ready.tracking, index.iterations)
    if spec.on_finish is not None:
        state = "failed" if damage or problem else outcome.state
        told = call(spec.on_finish, spec.name, store.location, state)
        progress.tell([told] if told else [])
    return RunSummary(planned, outcome, ready.healed, tuple(damage), problem, shown)


@dataclass(frozen=True)
class _Ready:
    """A sweep with all that its training needs but a cluster."""

    planned: PlannedSweep
    store: Store
    arrays: Mapping[str, Dataset]
    tracking: Tracking | None
    healed: tuple[Damaged, ...]


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
    store, rank = index.store, ranks(spec, plan.lineages)

    def planned_again() -> Plan:
        return make_plan(plan.lineages, index.files_of, plan.leaving, rank)

    planned = _planned(spec, index, datasets, plan)
    if planned.leaving and not wishes.replace:
        raise PlanError(f"{planned.leaving}; give another name, or --replace", ("name",))
    tracking = _tracking(planned, store)
    _check_room(planned, store)
    store.remove_leftovers()
    healed = set_damaged_aside(store, _stored_commits(plan, index))
    if healed:
        index.refresh()
        planned = replace(
            planned, plan=make_plan(plan.lineages, index.files_of, plan.leaving, rank)
        )
    forget_stops(store, spec.name)
    arrays = _load_datasets(planned, roots)
    store = progress.store = mark(store)
    progress.tell(planned.notices, planned.dataset_lines)
    _write_records(planned, store, arrays, progress.given_up)
    while wait_for_collection(store, collected):
        # It may have taken what was stored of the sweep, and `rm` its records too.
        collected = collections(store)
        index.refresh()
        planned = replace(
            planned, plan=make_plan(plan.lineages, index.files_of, plan.leaving, rank)
        )
        arrays = _load_datasets(planned, roots)
        _write_records(planned, store, arrays, progress.given_up)
    add_provenance(store, spec.name, command)
    return _Ready(planned, store, arrays, tracking, tuple(healed))


def _notices(spec: SweepSpec, store: Store) -> Iterator[str]:
    """What the user should know of the plan."""
    if spec.data_root is not None and not expanded(spec.data_root).is_absolute():
        yield (
            f"data_root: {spec.data_root} is the one in the current folder, as there is none beside"
            " the sweep file, where its paths begin; write it from there, or as an absolute path"
        )
    for entry in changed_entries(store, spec.name, spec.configs):
        yield (
            f"{entry.where()}: the code of {entry.kind.name} {entry.entry_name} has changed since "
            f"{spec.name} was last run: what is made with it is trained anew, and what is stored "
            "stays under its old keys (a plug-in that says a __version__ from the start keeps its "
            "keys until that is raised)"
        )
    if changed := changed_parts(store, spec.name, spec.configs):
        yield (
            f"the code of {', '.join(changed)} has another version than when {spec.name} was last "
            "run: what is made with it is trained anew, and what is stored stays under its old keys"
        )


def _refuse_changed_defaults(spec: SweepSpec, store: Store) -> None:
    found = changed_default(store, spec.configs)
    if found is not None:
        entry, option, before = found
        raise PlanError(
            f"{entry.where()}: the default of {option} is another than in a stored sweep, where it "
            f"was {before}, and the plug-in says the same version, {entry.plugged_code}; raise its "
            "__version__, or give the default back",
            ("plugins",),
        )


def resolve_datasets(spec: SweepSpec, roots: DataRoots) -> tuple[ResolvedDataset, ...]:
    """What is known of each dataset of the sweep; raises PlanError or DatasetNotFound."""
    resolved = []
    for number, config in enumerate(spec.dataset):
        with _dataset_mistakes(number):
            info = describe_dataset(config, roots)
        resolved.append(ResolvedDataset(config, info, identity(config, info)))
    return tuple(resolved)


def _stored_commits(plan: Plan, index: StoreIndex) -> list[str]:
    """The stored iterations and snapshots of the plan, each once."""
    keys = dict.fromkeys(key for lineage in plan.lineages for key in lineage.keys)
    snapshots = [
        snapshot_path(snapshot_key(trunk, step))
        for trunk, steps in wanted_snapshots(plan.lineages).items()
        for step in sorted(steps)
    ]

    def is_there(key: str) -> bool:  # what is left out of the plan may not be
        return index.files_of(key) is not None

    return [
        *(iteration_path(key) for key in keys if key not in plan.to_train and is_there(key)),
        *(path for path in snapshots if path.rpartition("/")[2] in index.snapshots),
    ]


def _train(
    ready: _Ready, started: Callable[[], Cluster], progress: RunProgress, wishes: Wishes
) -> Outcome:
    with interruptions_noted():
        # Here, as a run with nothing to train has no use for it, and while Ray comes up.
        from orchestrator.run.tuning import train_plan

        cluster = started()
    spec, tracking = ready.planned.spec, ready.tracking

    def load(lineage: Lineage) -> tuple[str, Dataset]:
        key = canonical_json(lineage.dataset)
        return key, ready.arrays[key]

    packing = _checked(ready.planned.packed(cluster), spec, cluster)
    progress.on(cluster, packing)
    return train_plan(
        ready.planned.plan,
        packing=packing,
        resources=spec.resources,
        keeping=spec.store,
        storage=ready.store.location,
        left_out=cluster.left_out,
        load=load,
        observer=progress,
        git_sha=git_sha(),
        ending=Ending(ready.store, spec.name, wishes.seconds),
        rank=ranks(spec, ready.planned.plan.lineages),
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


def _checked(packing: Packing, spec: SweepSpec, cluster: Cluster) -> Packing:
    if not packing.slots:
        raise PlanError(
            f"no lineage fits: one needs {spec.resources.cpus_per_lineage} CPUs and "
            f"{spec.resources.gpus_per_lineage} GPUs, and the cluster has {cluster.cpus} CPUs and "
            f"{cluster.gpus} GPUs; ask for less",
            ("resources",),
        )
    return packing


def _load_datasets(planned: PlannedSweep, roots: DataRoots) -> dict[str, Dataset]:
    """The datasets that the plan trains on, by their identity as JSON."""
    wanted = {canonical_json(task.lineage.dataset) for task in planned.plan.tasks}
    arrays: dict[str, Dataset] = {}
    for number, found in enumerate(planned.datasets):
        key = canonical_json(found.identity)
        if key in wanted and key not in arrays:
            with _dataset_mistakes(number):
                arrays[key] = load_dataset(found.config, roots)
                _require_unchanged(found, roots)
    return arrays


def _require_unchanged(found: ResolvedDataset, roots: DataRoots) -> None:
    """Raise ValueError when files are others than those that the keys are made with."""
    before = found.info.fingerprint
    if found.config.described is None or before is None:
        return
    if describe_dataset(found.config, roots).fingerprint != before:
        raise ValueError("its files changed while they were read; run again when all are there")


@contextmanager
def _dataset_mistakes(number: int) -> Iterator[None]:
    """Makes files or options that do not fit the sweep's dataset `number` a PlanError."""
    try:
        yield
    except ValueError as error:
        raise PlanError(str(error), ("dataset", number)) from error


def _check_room(planned: PlannedSweep, store: Store) -> None:
    free = store.free_bytes()
    if free is not None and planned.bytes > free:
        raise StoreError(
            f"storage {store.location} has {free / 1e9:.1f} GB free, and this sweep needs about "
            f"{planned.bytes / 1e9:.1f} GB; free some space, choose another --storage, or set "
            "store.keep_weights: last"
        )


def _write_records(
    planned: PlannedSweep,
    store: Store,
    arrays: Mapping[str, Dataset],
    kept: Sequence[Failure],
) -> None:
    """Write down what the sweep is, which names what it is made of."""
    name, record = planned.spec.name, planned.record
    write_sweep(store, record)
    record_datasets(store, name, planned.datasets_record, arrays)
    record_plugins(store, name, planned.spec.configs)
    record_versions(store, name, planned.spec.configs)
    published = planned.spec.published
    record_published(store, record, read_published(Path(published)) if published else ())
    write_failures(store, name, kept)


def _drop_shared_weights(lineages: Sequence[Lineage], index: StoreIndex) -> None:
    for key in branch_points(lineages) | {lineage.trunk for lineage in lineages}:
        if WEIGHTS in (index.files_of(key) or ()):
            index.store.drop_file(iteration_path(key), WEIGHTS)
