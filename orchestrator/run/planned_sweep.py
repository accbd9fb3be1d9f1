"""A sweep that is planned: what it would train, share and reuse, and what that would take."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from orchestrator.errors import PlanError
from orchestrator.records.datasets import DatasetRecord
from orchestrator.records.ends import until_ends
from orchestrator.records.plugins import changed_default, changed_entries
from orchestrator.records.probes import write_probe
from orchestrator.records.recording import record_sweep
from orchestrator.records.spending import Spent, read_spending
from orchestrator.records.sweep import SweepRecord
from orchestrator.records.versions import changed_parts
from orchestrator.results.compacting import rows_by_key
from orchestrator.results.tables import recorded_seconds
from orchestrator.run.contents import dataset_lines
from orchestrator.run.datasets import ResolvedDataset, load_datasets, resolve_datasets
from orchestrator.run.estimates import (
    Estimates,
    Expected,
    dataset_sizes,
    estimate_seconds,
    training_group,
)
from orchestrator.run.fitting import check_fit
from orchestrator.run.fusing import fusing_notices
from orchestrator.run.machines import Cluster, this_machine
from orchestrator.run.packing import Packing, pack
from orchestrator.run.planning import Plan, make_plan, sweep_lineages
from orchestrator.run.probing import probe_plan, probes_here
from orchestrator.run.ranking import ranked
from orchestrator.run.replacing import leaving
from orchestrator.run.sizes import commit_bytes
from orchestrator.run.wishes import NO_WISHES, Wishes, urgencies
from orchestrator.sweepfile.spec import SweepSpec
from trainables.config import canonical_json
from trainables.data import DataRoots
from trainables.data.roots import expanded
from trainables.lineage.ending import Measured, ends_of
from trainables.lineage.keys import Lineage
from trainables.pruning.stopping import STOP
from trainables.store import Store
from trainables.store.index import StoreIndex
from trainables.store.storage_format import mark, require_ours


@dataclass(frozen=True)
class Cost:
    """What a run takes: wall-clock seconds, and `hours` of one `device`, "CPU" or "GPU"."""

    seconds: float
    device: str
    hours: float


@dataclass(frozen=True)
class PlannedSweep:
    """A sweep with its plan, and what the plan is expected to take.

    `record` is what the storage keeps of the sweep: its lineages at their longest.
    `bytes` is what the commits to come will hold, `spent` what runs have of a budget. `estimates`
    knows times. `notices` are what the user should know of it, and `leaving` is what would leave
    the stored sweep.
    """

    spec: SweepSpec
    datasets: tuple[ResolvedDataset, ...]
    plan: Plan
    record: SweepRecord
    bytes: int
    notices: tuple[str, ...] = ()
    estimates: Estimates = field(default_factory=Estimates)
    leaving: str | None = None
    spent: Spent = field(default_factory=Spent)

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


def plan_sweep(
    spec: SweepSpec, store: Store, roots: DataRoots, wishes: Wishes = NO_WISHES
) -> PlannedSweep:
    """Plan `spec` against what `store` has; trains and writes nothing.

    Raises PlanError, WishError, DatasetNotFound, or StoreError.
    """
    require_ours(store)
    index = StoreIndex(store)
    datasets, plan = plan_lineages(spec, index, roots, wishes)
    planned = with_costs(spec, index, datasets, plan)
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
    wanted = {key for task in planned.plan.tasks for key in task.lineage.trained_on}
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
    arrays = load_datasets(planned.datasets, planned.plan.trained_on, roots)
    store = mark(store)
    tasks, resources = planned.plan.tasks, spec.resources
    for probe in probe_plan(tasks, planned.datasets, resources, arrays, told):
        write_probe(store, probe)
    probes = probes_here(store, resources)
    return replace(planned, estimates=replace(planned.estimates, probes=probes))


def plan_lineages(
    spec: SweepSpec, index: StoreIndex, roots: DataRoots, wishes: Wishes
) -> tuple[tuple[ResolvedDataset, ...], Plan]:
    """The datasets, and what there is to train of the lineages; raises as `plan_sweep` does."""
    _refuse_changed_defaults(spec, index.store)
    datasets = resolve_datasets(spec, roots)
    lineages = sweep_lineages(spec, datasets)
    leaving = wishes.unmet(spec, lineages) | wishes.given_up(index.store, spec.name)
    return datasets, plan_again(spec, index, lineages, leaving)


def plan_again(
    spec: SweepSpec, index: StoreIndex, lineages: Sequence[Lineage], leaving: Collection[str]
) -> Plan:
    """What there is to train of the `lineages`, but of those `leaving`, by what is committed."""
    rank, store = spec.budget and spec.budget.rank, index.store
    ends = ends_of(lineages, measured_of(spec, index))
    ends, rung = ranked(rank, lineages, ends, store, spec.name)
    return make_plan(lineages, index.files_of, leaving, urgencies(spec, lineages), ends, rung)


def measured_of(spec: SweepSpec, index: StoreIndex) -> Measured:
    """What was measured of the iterations of a sweep, from its tables where they have it."""
    ends = any(prune.stop for prune in spec.prune) or (spec.budget and spec.budget.rank)
    known = rows_by_key(index.store, spec.name) if ends else {}
    return Measured(index.store, index.files_of, known)


def with_costs(
    spec: SweepSpec, index: StoreIndex, datasets: tuple[ResolvedDataset, ...], plan: Plan
) -> PlannedSweep:
    """The plan with what it is expected to take, for which models are built."""
    size = commit_bytes(plan, datasets, spec.store.keep_weights, spec.model)
    if plan.tasks:
        # Of models that can be built: that they can, the size has shown.
        check_fit(spec, datasets)
    record = record_sweep(spec, plan.lineages)
    gone = leaving(index.store, until_ends(record, plan.ends), index.iterations)
    return PlannedSweep(
        spec=spec,
        datasets=datasets,
        plan=plan,
        record=record,
        bytes=size,
        estimates=Estimates(probes=probes_here(index.store, spec.resources) if plan.tasks else ()),
        notices=(
            *_notices(spec, index.store),
            *fusing_notices(plan.tasks, datasets, spec.resources),
            *_left(plan),
            *([gone] if gone else []),
        ),
        leaving=gone,
        spent=sum(read_spending(index.store, spec.name).values(), Spent()),
    )


def _left(plan: Plan) -> Iterator[str]:
    if plan.alone:
        yield (
            f"not made are {len(plan.alone)} of the measurements that compare two tickets: one is "
            "neither stored nor trained, since its lineage has ended before, is skipped, or has "
            "diverged"
        )
    if plan.left:
        count = len(plan.left)
        yield (
            f"{count} {'lineage is' if count == 1 else 'lineages are'} not complete and not "
            "trained: they are skipped, or have diverged in an earlier run (--retry failed trains "
            "those again)"
        )


def _notices(spec: SweepSpec, store: Store) -> Iterator[str]:
    """What the user should know of the plan."""
    if spec.data_root is not None and not expanded(spec.data_root).is_absolute():
        yield (
            f"data_root: {spec.data_root} is the one in the current folder, as there is none beside"
            " the sweep file, where its paths begin; write it from there, or as an absolute path"
        )
    for entry in changed_entries(store, spec.name, spec.configs):
        changed = f"{entry.where()}: the code of {entry.kind.name} {entry.entry_name} has changed"
        if entry.kind is STOP:
            yield f"{changed} since {spec.name} was last run: lineages end where it says now"
            continue
        yield (
            f"{changed} since {spec.name} was last run: what is made with it is trained anew, and "
            "what is stored stays under its old keys (a plug-in that says a __version__ from the "
            "start keeps its keys until that is raised)"
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
