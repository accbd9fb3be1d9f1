"""Preparing a sweep to be trained: what it builds on is checked and healed, its data are loaded,
and its records begin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from orchestrator.errors import PlanError
from orchestrator.records.damage import noted_damage
from orchestrator.records.datasets import record_datasets
from orchestrator.records.plugins import record_plugins
from orchestrator.records.published import record_published
from orchestrator.records.runs import begin_run
from orchestrator.records.sweep import write_sweep
from orchestrator.records.versions import record_versions
from orchestrator.run.datasets import ResolvedDataset, load_datasets
from orchestrator.run.expiring import expire_claims
from orchestrator.run.healing import set_damaged_aside
from orchestrator.run.planned_sweep import PlannedSweep, plan_again, with_costs
from orchestrator.run.planning import Plan, wanted_snapshots
from orchestrator.run.progress import RunProgress
from orchestrator.run.wishes import Wishes
from orchestrator.storage.collecting import wait_for_collection
from orchestrator.sweepfile.published import read_published
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.tracking.destination import Tracking, track
from orchestrator.tracking.service import TrackingError
from trainables.data import DataRoots, Dataset
from trainables.lineage.identity import snapshot_key, weights_key
from trainables.lineage.initial_weights import files_of, keep
from trainables.lineage.keys import Lineage
from trainables.lineage.stored import stored_parents
from trainables.store import (
    Damaged,
    Store,
    StoreError,
    iteration_path,
    snapshot_path,
    sweep_path,
)
from trainables.store.index import StoreIndex
from trainables.store.storage_format import collections, mark


@dataclass(frozen=True)
class Prepared:
    """A sweep with all that its training needs but a cluster; what is `skipped` of it nobody asked
    for."""

    planned: PlannedSweep
    store: Store
    arrays: Mapping[str, Dataset]
    tracking: Tracking | None
    healed: tuple[Damaged, ...]
    skipped: frozenset[str]


def prepare(
    spec: SweepSpec,
    index: StoreIndex,
    roots: DataRoots,
    datasets: tuple[ResolvedDataset, ...],
    plan: Plan,
    progress: RunProgress,
    command: Sequence[str],
    collected: str | None,
    wishes: Wishes,
) -> Prepared:
    """Check, heal and load what the plan needs, and begin the records."""
    store = index.store

    def planned_again() -> Plan:
        return plan_again(spec, index, plan.lineages, plan.leaving)

    planned = with_costs(spec, index, datasets, plan)
    if planned.leaving and not wishes.replace:
        raise PlanError(f"{planned.leaving}; give another name, or --replace", ("name",))
    folder = store.local_root and store.local_root / sweep_path(spec.name)
    if folder and folder.is_file():
        raise PlanError(
            f"{folder} is a file, and the sweep's records are to be in a folder there; move it "
            "away, or give another name", ("name",),
        )  # fmt: skip
    tracking = _tracking(planned, store)
    _check_room(planned, store)
    store.remove_leftovers()
    expire_claims(store, planned.plan.to_train | planned.plan.to_measure, _committed_keys(plan))
    healed = set_damaged_aside(store, to_check(plan, index))
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
    write_records(planned, store, arrays)
    while wait_for_collection(store, collected):
        # It may have taken what was stored of the sweep, and `rm` its records too.
        collected = collections(store)
        index.refresh()
        planned = replace(planned, plan=planned_again())
        arrays = load_datasets(planned.datasets, planned.plan.trained_on, roots)
        write_records(planned, store, arrays)
    ends = planned.plan.ends.values()
    begin_run(store, spec.name, command, progress.run, plan.left, ends)
    skipped = frozenset(wishes.unmet(spec, plan.lineages))
    return Prepared(planned, store, arrays, tracking, tuple(healed), skipped)


def to_check(plan: Plan, index: StoreIndex) -> list[str]:
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
        every = {iteration_path(k) for k in _committed_keys(plan) if index.files_of(k) is not None}
        paths += sorted(noted & {*every, *_stored_snapshots(plan.lineages, index)})
    return list(dict.fromkeys(paths))


def _committed_keys(plan: Plan) -> Iterator[str]:
    return chain.from_iterable(line.committed_keys for line in plan.lineages)


def _stored_snapshots(lineages: Sequence[Lineage], index: StoreIndex) -> list[str]:
    """Those that are stored of the weights that lineages rewind to, or start from."""
    wanted = wanted_snapshots(lineages) if lineages else {}
    keys = [snapshot_key(trunk, step) for trunk, steps in wanted.items() for step in sorted(steps)]
    keys += [weights_key(content) for content in files_of(lineages)]
    return [snapshot_path(key) for key in keys if key in index.snapshots]


def _tracking(planned: PlannedSweep, store: Store) -> Tracking | None:
    try:
        return track(planned.record, store, planned.spec.wandb)
    except TrackingError as error:
        raise PlanError(str(error), ("wandb", "mode")) from error


def _check_room(planned: PlannedSweep, store: Store) -> None:
    free = store.free_bytes()
    if free is not None and planned.bytes > free:
        raise StoreError(
            f"storage {store.location} has {free / 1e9:.1f} GB free, and this sweep needs about "
            f"{planned.bytes / 1e9:.1f} GB; free some space, choose another --storage, or set "
            "store.keep_weights: last"
        )


def write_records(planned: PlannedSweep, store: Store, arrays: Mapping[str, Dataset]) -> None:
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
