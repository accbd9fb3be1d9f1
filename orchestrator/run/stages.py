"""Training in stages: up to each rung, at which it is decided who goes on, and then to the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from orchestrator.errors import PlanError
from orchestrator.records.failures import Failure
from orchestrator.records.provenance import git_sha
from orchestrator.run.allowance import Allowance
from orchestrator.run.dividing import begun_at, place_among_runs
from orchestrator.run.ending import Ending
from orchestrator.run.interruption import interruptions_noted
from orchestrator.run.machines import Cluster
from orchestrator.run.occupancy import Occupancy
from orchestrator.run.outcome import Outcome
from orchestrator.run.packing import Packing
from orchestrator.run.placing import WAIT_SECONDS
from orchestrator.run.planned_sweep import PlannedSweep, measured_of, plan_again
from orchestrator.run.planning import Plan, make_plan
from orchestrator.run.preparing import Prepared
from orchestrator.run.progress import RunProgress
from orchestrator.run.ranking import Rung, decide
from orchestrator.run.wishes import urgencies
from orchestrator.storage.naming import weights_kept
from orchestrator.sweepfile.spec import SweepSpec
from orchestrator.tracking.mirroring import follow
from trainables.store import Store
from trainables.store.index import StoreIndex


def train_in_stages(
    prepared: Prepared,
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
        if not prepared.planned.packed(cluster).slots:
            cluster = _waited(prepared.planned, cluster, progress)
    spec, plan, occupancy = prepared.planned.spec, prepared.planned.plan, Occupancy()
    failures: tuple[Failure, ...] = ()
    again = False
    while True:
        rung, outcome = plan.rung, Outcome((), interrupted=False)
        stage = plan if rung is None else _up_to(rung, plan, spec, index)
        if stage.tasks:
            staged = replace(prepared, planned=replace(prepared.planned, plan=stage))
            outcome = _train(train_plan, staged, cluster, progress, ending, allowance, occupancy)
        failures += outcome.failures
        is_over = rung is None and (again or not _compares(plan))
        if is_over or outcome.interrupted:
            return replace(outcome, failures=failures)
        index.refresh()
        given_up = plan.leaving | {failure.lineage for failure in failures}
        plan = plan_again(spec, index, plan.lineages, given_up)
        # What a stop rule ends at the rung itself had come to the end of its stage.
        progress.ranked(plan.ends.values())
        if rung is None:
            # Who compares tickets has set aside one of another lineage that is damaged, or it was
            # not there yet, and its lineage has failed since.
            again = True
            if not plan.tasks:
                return replace(outcome, failures=failures)
        elif plan.rung is not None and plan.rung.iteration == rung.iteration:
            # No other run has decided it meanwhile.
            absent = {*plan.rung.waits_for(index.files_of)} - (given_up - prepared.skipped)
            if absent:
                progress.tell([_undecided(plan.rung, len(absent))])
                return replace(outcome, failures=failures)
            measured = measured_of(spec, index)
            progress.ranked(decide(plan.rung, prepared.store, spec.name, measured).values())
            plan = plan_again(spec, index, plan.lineages, given_up)
        progress.goes_on(plan)


def _compares(plan: Plan) -> bool:
    return any(each.pair for line in plan.lineages for each in line.measurements)


def _up_to(rung: Rung, plan: Plan, spec: SweepSpec, index: StoreIndex) -> Plan:
    lineages = [rung.until(lineage) for lineage in plan.so_far]
    return make_plan(lineages, index.files_of, plan.leaving, urgencies(spec, plan.lineages))


def _undecided(rung: Rung, absent: int) -> str:
    return (
        f"budget.rank: after iteration {rung.iteration} nothing is decided yet, as {absent} "
        f"{'lineage is' if absent == 1 else 'lineages are'} not there; a run that trains all goes "
        "on from there"
    )


def _train(
    train_plan: Callable[..., Outcome],
    prepared: Prepared,
    cluster: Cluster,
    progress: RunProgress,
    ending: Ending,
    allowance: Allowance,
    occupancy: Occupancy,
) -> Outcome:
    spec, tracking = prepared.planned.spec, prepared.tracking

    packing = _checked(prepared.planned.packed(cluster), spec, cluster)
    progress.on(cluster, packing)
    plan = prepared.planned.plan
    place = place_among_runs(prepared.store, spec.name, progress.run)
    return train_plan(
        replace(plan, tasks=begun_at(plan.tasks, place)),
        packing=packing,
        resources=spec.resources,
        keeping=spec.store,
        storage=prepared.store.location,
        left_out=cluster.left_out,
        arrays=prepared.arrays,
        observer=progress,
        git_sha=git_sha(),
        ending=ending,
        allowance=allowance,
        occupancy=occupancy,
        urgency=urgencies(spec, plan.lineages),
        kept=kept_by_others(spec, prepared.store),
        mirrors=tracking and partial(follow, tracking),
    )


def kept_by_others(spec: SweepSpec, store: Store) -> frozenset[str]:
    """The iterations whose weights are not the sweep's to drop, where it drops any."""
    return frozenset() if spec.store.keep_weights == "all" else weights_kept(store, spec.name)


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
