"""What W&B, offline, costs a lineage: side by side with none, in one process.

Turns of a lineage with W&B and one without alternate, after a first one that starts W&B's service.
A lineage is trained for real (SAP's mlp made small, digits); its mirror runs beside it as in a
trial, and is waited for at the end, which trials leave to the next lineage.
"""

import statistics
import tempfile
import time
from dataclasses import replace

import torch

from orchestrator.mirroring import follow
from orchestrator.planning import sweep_lineages
from orchestrator.records import record_sweep
from orchestrator.spec import SweepSpec, WandbOptions
from orchestrator.sweep import resolve_datasets
from orchestrator.tracking import Tracking, track
from trainables.batches import DeviceData
from trainables.bench import Bench
from trainables.data import data_roots, load_dataset
from trainables.keys import Lineage
from trainables.lineage import run_lineage
from trainables.store import Store

TURNS, ITERATIONS, EPOCHS = 9, 10, 5


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

        def turn(number: int, tracked: bool) -> tuple[float, float]:
            place = f"{folder}/{number}-{tracked}"
            to = replace(tracking, storage=place) if tracked else None
            return measured(lineage, Bench(Store(place), data, torch.device("cpu")), to)

        first = turn(0, True)
        turn(0, False)
        turns = [(turn(n, True), turn(n, False)) for n in range(1, TURNS + 1)]
        alone = [mirrored(tracking, lineage, f"{folder}/{n}-False") for n in range(1, TURNS + 1)]
    median = statistics.median
    tracked = median(with_wandb[0] for with_wandb, _ in turns)
    untracked = median(without[0] for _, without in turns)
    waited = median(with_wandb[1] for with_wandb, _ in turns)
    sent = median(alone)
    print(f"{1000 * untracked:8.1f} ms  a lineage of {ITERATIONS + 1} iterations, W&B disabled")
    print(f"{1000 * tracked:8.1f} ms  the same, W&B offline, waiting for it at the end")
    print(f"{1000 * waited:8.1f} ms    of which waiting")
    print(f"{tracked / untracked:8.3f}     ratio; medians of {TURNS} turns")
    print(f"{1000 * (tracked - untracked):8.1f} ms  more for each lineage")
    print(f"{1000 * (tracked - untracked) / (ITERATIONS + 1):8.1f} ms  more for each iteration")
    print(f"{1000 * sent:8.1f} ms  sending a finished lineage alone (wandb-sync)")
    print(f"{1000 * (first[0] - untracked):8.1f} ms  more for the first lineage of a process")


def measured(lineage: Lineage, bench: Bench, tracking: Tracking | None) -> tuple[float, float]:
    """Seconds from the beginning of a lineage to the end of its mirror, and those of waiting."""
    started = time.perf_counter()
    mirror = follow(tracking, lineage) if tracking else None
    for _ in run_lineage(lineage, bench):
        if mirror:
            mirror.committed()
    trained = time.perf_counter()
    if mirror:
        mirror.close()
        mirror.wait()
    ended = time.perf_counter()
    return ended - started, ended - trained


def mirrored(tracking: Tracking, lineage: Lineage, storage: str) -> float:
    """Seconds that sending a stored lineage takes, with nothing else going on."""
    started = time.perf_counter()
    mirror = follow(replace(tracking, storage=storage), lineage)
    mirror.close()
    mirror.wait()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
