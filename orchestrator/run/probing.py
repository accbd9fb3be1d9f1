"""Probing: a few training steps of everything that a plan has to train, on the device here."""

from __future__ import annotations

import platform
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from orchestrator.records.probes import Probe, read_probes
from orchestrator.run.datasets import ResolvedDataset
from orchestrator.run.estimates import work
from orchestrator.run.fusing import AUTO_LARGEST, largest_bundles
from orchestrator.run.planning import Task
from orchestrator.run.ready import kind_of
from orchestrator.sweepfile.resources import Resources
from trainables.config import canonical_json
from trainables.data import Dataset
from trainables.lazy_torch import torch
from trainables.store import Store
from trainables.training.batches import DeviceData
from trainables.training.timing import Timing

WORTHWHILE = 0.95
"""More networks at once are tried for as long as each gets that much faster."""


def device_here(resources: Resources) -> torch.device:
    """The device that a run with `resources` trains on here."""
    gpu = torch.cuda.device_count() > 0 and resources.gpus_per_lineage != 0
    return torch.device("cuda" if gpu else "cpu")


def device_name(device: torch.device, cpus: int) -> str:
    """The GPU's name; of a CPU its architecture and how many a lineage has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpus} CPU ({platform.machine()})"


def probes_here(store: Store, resources: Resources) -> list[Probe]:
    """The probes of this machine's device that are of use with `resources`."""
    device, host = device_here(resources), socket.gethostname()
    largest = resources.fuse if isinstance(resources.fuse, int) else 1
    if resources.fuse == "auto" and device.type == "cuda":
        largest = AUTO_LARGEST

    def of_device(probe: Probe) -> bool:
        # To ask for a GPU's name takes some of its memory for as long as this process lives.
        if device.type == "cuda":
            return probe.memory_bytes is not None
        return probe.device == device_name(device, resources.cpus_per_lineage)

    return [
        probe
        for probe in read_probes(store)
        if probe.host == host and probe.fused <= largest and of_device(probe)
    ]


def probe_plan(
    tasks: Sequence[Task],
    datasets: Sequence[ResolvedDataset],
    resources: Resources,
    arrays: Mapping[str, Dataset],
    told: Callable[[str], None] = lambda line: None,
) -> Iterator[Probe]:
    """Measure each kind of training once; alone, and together where `fuse` may do so.

    `arrays` are the datasets by their identity as JSON. `told` is what is being measured.
    """
    # Here, as it imports torch, and a plan that measures nothing may do without.
    from trainables.training.measuring import measure

    device = device_here(resources)
    threads = torch.get_num_threads()
    torch.set_num_threads(resources.cpus_per_lineage)
    try:
        bundles = largest_bundles(tasks, datasets, resources, device.type == "cuda")
        kinds = {canonical_json(work(t.lineage.config())): t for t in tasks}
        for task in kinds.values():
            lineage = task.lineage
            cell = lineage.cell
            data = DeviceData.of(arrays[canonical_json(lineage.dataset)], device)
            largest = bundles.get(kind_of(task), 1)

            timed = partial(measure, cell.model, data, cell.train, resources.execution)
            name = f"{cell.model.name} on {cell.dataset.name}"
            told(f"measuring {name}")
            try:
                for fused, timing in _timings(timed, resources, largest):
                    yield _probe(work(lineage.config()), device, resources, fused, timing)
            except torch.OutOfMemoryError:
                told(f"the GPU's memory is too small for {name}")
    finally:
        torch.set_num_threads(threads)


def _timings(
    timed: Callable[[int], Timing], resources: Resources, largest: int
) -> Iterator[tuple[int, Timing]]:
    """Of one network, and of those numbers of them that are worth knowing."""
    alone = timed(1)
    yield 1, alone
    if largest == 1:
        return
    if resources.fuse != "auto":
        yield largest, timed(largest)
        return
    fused, before = 2, alone
    while fused <= AUTO_LARGEST:
        timing = timed(fused)
        yield fused, timing
        if timing.step_seconds > WORTHWHILE * before.step_seconds:
            return
        fused, before = 2 * fused, timing


def _probe(
    of_it: dict[str, Any], device: torch.device, resources: Resources, fused: int, timing: Timing
) -> Probe:
    memory = None
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    return Probe(
        work=of_it,
        fused=fused,
        device=device_name(device, resources.cpus_per_lineage),
        host=socket.gethostname(),
        torch=torch.__version__,
        step_seconds=timing.step_seconds,
        evaluation_seconds=timing.evaluation_seconds,
        peak_memory_bytes=timing.peak_memory_bytes,
        memory_bytes=memory,
        measured_at=datetime.now(UTC).isoformat(),
    )
