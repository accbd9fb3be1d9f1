"""What W&B, offline, costs a lineage: side by side with none, in one process.

Turns of a lineage with W&B and one without alternate, after a first one that starts W&B's service.
A lineage is trained for real (SAP's mlp made small, digits); its mirror runs beside it as in a
trial, and is waited for at the end, which trials do not do before their process ends. CPU times are
of use on a machine that has other things to do as well.
"""

import tempfile
import time
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import psutil
import torch

from orchestrator.records.recording import record_sweep
from orchestrator.run.datasets import resolve_datasets
from orchestrator.run.planning import sweep_lineages
from orchestrator.sweepfile.spec import SweepSpec, WandbOptions
from orchestrator.tracking.destination import Tracking, track
from orchestrator.tracking.mirroring import follow
from trainables.data import data_roots, load_dataset
from trainables.lineage.bench import Bench
from trainables.lineage.keys import Lineage
from trainables.lineage.loop import run_lineage
from trainables.store import Store
from trainables.store.storage_format import mark
from trainables.training.batches import DeviceData

TURNS, ITERATIONS, EPOCHS = 9, 10, 5

Seconds: TypeAlias = tuple[float, float]


def main() -> None:
    torch.set_num_threads(1)
    spec = SweepSpec.model_validate(
        {
            "name": "tracking",
            "dataset": "digits",
            "model": {"name": "mlp", "hidden": [256, 128]},
            "train": {"epochs": EPOCHS},
            "prune": {"iterations": ITERATIONS},
            "methods": ["lottery_ticket"],
            "wandb": WandbOptions(mode="offline"),
        }
    )
    roots = data_roots(None, {})
    (lineage,) = sweep_lineages(spec, resolve_datasets(spec, roots))
    data = DeviceData.of(load_dataset(spec.dataset[0], roots), torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        tracking = track(record_sweep(spec, [lineage]), store, spec.wandb)
        assert tracking is not None

        def turn(number: int, tracked: bool) -> Seconds:
            place = f"{folder}/{number}-{tracked}"
            to = replace(tracking, storage=place) if tracked else None
            return measured(lineage, Bench(mark(Store(place)), data, torch.device("cpu")), to)

        turn(0, False)
        first = turn(0, True)
        turns = [(turn(n, True), turn(n, False)) for n in range(1, TURNS + 1)]
        places = [f"{folder}/{n}-False" for n in range(1, TURNS + 1)]
        short = replace(lineage, steps=lineage.steps[:1], keys=lineage.keys[:1])
        trunk = np.median([sent(tracking, short, place) for place in places], axis=0)
        alone = np.median([sent(tracking, lineage, place) for place in places], axis=0)
    tracked, plain = (np.median(each, axis=0) for each in zip(*turns, strict=True))
    more = tracked - plain
    print(f"a lineage of {ITERATIONS + 1} iterations of {EPOCHS} epochs, medians of {TURNS} turns")
    print("   wall ms    CPU ms")
    show("W&B disabled", plain)
    show("W&B offline, waiting for it at the end", tracked)
    print("{:10.3f}{:10.3f}  ratio".format(*(tracked / plain)))
    show("more for each lineage", more)
    show("more for the first lineage of a process", first - plain)
    show("sending a finished lineage alone, as wandb-sync does", alone)
    show("of which each iteration after the first", (alone - trunk) / ITERATIONS)


def show(what: str, seconds: Any) -> None:
    print("{:10.1f}{:10.1f}  {}".format(*(1000 * seconds), what))


def measured(lineage: Lineage, bench: Bench, tracking: Tracking | None) -> Seconds:
    """From the beginning of a lineage to the end of its mirror."""
    before = clocks()
    mirror = follow(tracking, lineage) if tracking else None
    for _ in run_lineage(lineage, bench):
        if mirror:
            mirror.committed()
    if mirror:
        mirror.close()
        mirror.wait()
    return since(before)


def sent(tracking: Tracking, lineage: Lineage, storage: str) -> Seconds:
    """Sending a stored lineage, with nothing else going on."""
    before = clocks()
    mirror = follow(replace(tracking, storage=storage), lineage)
    mirror.close()
    mirror.wait()
    assert Store(storage).names(f"{tracking.base}/sent"), "W&B has refused it"
    return since(before)


def clocks() -> Seconds:
    """Wall-clock seconds, and CPU seconds of this process and of W&B's service."""
    here = psutil.Process()
    spent = [each.cpu_times() for each in (here, *here.children(recursive=True))]
    return time.perf_counter(), sum(each.user + each.system for each in spent)


def since(before: Seconds) -> Seconds:
    wall, cpu = clocks()
    return wall - before[0], cpu - before[1]


if __name__ == "__main__":
    main()
