"""Packing: how the lineages of a plan are laid on the devices of a cluster, and why so."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from orchestrator.records.probes import Probe
from orchestrator.run.capacity import AUTO_LARGEST, Slot, idle, on_gpus, slots
from orchestrator.run.datasets import ResolvedDataset
from orchestrator.run.estimates import work
from orchestrator.run.fusing import largest_bundles
from orchestrator.run.machines import Cluster
from orchestrator.run.planning import Task
from orchestrator.run.ready import kind_of
from orchestrator.sweepfile.resources import Resources

CONTEXT_BYTES = 600_000_000
"""About what a process takes of a GPU's memory before it allocates anything."""


@dataclass(frozen=True)
class Packing:
    """The `slots` for trials; `bundles` says how many lineages of a kind share one, see `Ready`.

    `line` tells people of it, `notices` what is left idle. `lay` gives the slots on the nodes that
    there are later: on the same kind of device, in the same shares.
    """

    slots: tuple[Slot, ...]
    bundles: Mapping[Hashable, int]
    line: str
    notices: tuple[str, ...] = ()
    lay: Callable[[Cluster], tuple[Slot, ...]] = lambda cluster: ()


def pack(
    tasks: Sequence[Task],
    datasets: Sequence[ResolvedDataset],
    resources: Resources,
    cluster: Cluster,
    probes: Sequence[Probe] = (),
) -> Packing:
    """Lay `tasks` on `cluster`. `probes` are of its GPUs, if there are any."""
    gpu = on_gpus(resources, cluster)
    probes = [probe for probe in probes if probe.memory_bytes is not None] if gpu else []
    measured = {kind: fastest for kind, of_it in _by_kind(tasks, probes).items()
                if (fastest := _fastest(of_it))}  # fmt: skip
    bundles = largest_bundles(tasks, datasets, resources, gpu)
    if resources.fuse == "auto":
        bundles |= {kind: measured[kind].fused for kind in bundles if kind in measured}
    largest = min((_side_by_side(probe) for probe in measured.values()), default=AUTO_LARGEST)

    def lay(cluster: Cluster, height: int | None = None) -> tuple[Slot, ...]:
        trials = _trials(tasks, bundles, cluster, gpu)
        return slots(resources, cluster, trials, largest, height)

    found = lay(cluster)
    line = _told(found, bundles, resources, bool(measured))
    notices = tuple(idle(resources, cluster))
    if resources.gpus_per_lineage == "auto" and not gpu:
        # Rows of a run are of one kind of device, whatever joins.
        resources = resources.model_copy(update={"gpus_per_lineage": 0.0})
    height = round(1 / found[0].memory) if gpu and found else None
    return Packing(found, bundles, line, notices, partial(lay, height=height))


def _trials(
    tasks: Sequence[Task], bundles: Mapping[Hashable, int], cluster: Cluster, gpu: bool
) -> int:
    """How many trials there are to run at once: on GPUs, whose lineages are better trained as one
    computation than side by side, as few as fill them."""
    if not (gpu and bundles):
        return len(tasks)
    counts = Counter(map(kind_of, tasks))
    bundled = sum(-(-count // bundles.get(kind, 1)) for kind, count in counts.items())
    return max(bundled, min(len(tasks), cluster.gpus))


def _by_kind(tasks: Iterable[Task], probes: Sequence[Probe]) -> dict[Hashable, list[Probe]]:
    lineages = {kind_of(task): task.lineage for task in tasks} if probes else {}
    works = {kind: work(lineage.config()) for kind, lineage in lineages.items()}
    return {kind: [p for p in probes if p.work == of_it] for kind, of_it in works.items()}


def _fastest(probes: Iterable[Probe]) -> Probe | None:
    return min(probes, key=lambda probe: probe.step_seconds, default=None)


def _side_by_side(probe: Probe) -> int:
    """How many trials such as `probe` fit into the memory of one GPU."""
    assert probe.memory_bytes is not None
    fit = probe.memory_bytes // (probe.peak_memory_bytes + CONTEXT_BYTES)
    return max(1, min(AUTO_LARGEST, fit))


def _told(
    found: Sequence[Slot], bundles: Mapping[Hashable, int], resources: Resources, measured: bool
) -> str:
    if not found:
        return "no lineage fits"
    trials = f"{len(found)} {'trial' if len(found) == 1 else 'trials'} at a time"
    where = f"{resources.cpus_per_lineage} CPU each"
    if found[0].gpus:
        where += f" and up to {found[0].memory:.2g} of a GPU's memory"
    together = max(bundles.values(), default=1)
    fused = f", up to {together} lineages in each as one computation" if together > 1 else ""
    why = ", as probes have measured" if measured else ""
    return f"{trials}, {where}{fused}{why}"
