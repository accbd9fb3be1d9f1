"""What a sweep costs beside its training: its start, each trial, each iteration; and memory.

Sweeps of the smallest network that differ in the number of lineages and of iterations: what more
of them take follows from the differences. CPU seconds are those of all processes, Ray's included;
they are the ones to compare where others use the machine too. Memory is that of a worker while it
trains one lineage of each network: what is its own (USS), and the column `peak_memory_bytes`.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
SWEEP = {
    "name": "overheads",
    "dataset": {"name": "digits", "subset": 50},
    "model": {"name": "mlp", "hidden": [8]},
    "train": {"epochs": 1, "batch_size": 50},
    "methods": ["lottery_ticket"],
    "wandb": {"mode": "disabled"},
}
FEW, MANY = 2, 22
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp"},
    "resnet20": {"name": "resnet20"},
    "resnet18": {"name": "resnet18"},
    "vgg19": {"name": "vgg19"},
}
IMAGES = (3, 32)
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Took:
    """Seconds of a whole run: on the clock, of CPUs, and those in which it trained or pruned."""

    wall: float
    cpu: float
    trained: float
    pruned: float


def took(lineages: int, iterations: int) -> Took:
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        sweep = SWEEP | {"seeds": [*range(lineages)], "prune": {"iterations": iterations}}
        (at / "s.yaml").write_text(json.dumps(sweep))
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([COMMAND, "run", "s.yaml"], cwd=at, check=True, capture_output=True)
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        rows = table(at, "overheads")
        trained, pruned = (sum(row[n] for row in rows) for n in ("train_seconds", "prune_seconds"))
        return Took(wall, cpu, trained, pruned)


def table(at: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(at / f"prunesweep-store/tables/iterations-{name}.parquet").to_pylist()


def overheads() -> None:
    small = took(FEW, 1)
    wide, long = took(MANY, 1), took(FEW, MANY - 1)
    # A lineage more is a trial more, and as many iterations as it has.
    iterations = (MANY - 2) * FEW
    per_iteration = (long.cpu - small.cpu) / iterations
    per_trial = (wide.cpu - small.cpu) / (MANY - FEW) - 2 * per_iteration
    inside = (long.trained + long.pruned - small.trained - small.pruned) / iterations
    start = small.cpu - FEW * per_trial - 2 * FEW * per_iteration
    print(f"{'start and end of a run':40} {start:8.2f} CPU s")
    print(f"{'each trial beside its iterations':40} {1000 * per_trial:8.0f} CPU ms")
    print(f"{'each iteration':40} {1000 * per_iteration:8.0f} CPU ms")
    print(f"{'  of which training and pruning':40} {1000 * inside:8.0f} ms")
    print(f"{'the smallest run, on the clock':40} {small.wall:8.2f} s")


def memory(name: str) -> tuple[int, int]:
    """The largest USS of a worker, and the largest `peak_memory_bytes` of its rows."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        write_images(at)
        sweep = SWEEP | {
            "name": "memory",
            "dataset": {"name": "saved_dataset", "path": "images"},
            "model": NETWORKS[name],
            "train": {"epochs": 1, "batch_size": 128},
            "prune": {"iterations": 1},
            "resources": {"max_concurrent": 1},
        }
        (at / "s.yaml").write_text(json.dumps(sweep))
        run = psutil.Popen([COMMAND, "run", "s.yaml"], cwd=at, stdout=subprocess.DEVNULL)
        largest = [0]
        watching = threading.Thread(target=watch, args=(run, largest))
        watching.start()
        assert run.wait() == 0
        watching.join()
        return largest[0], max(row["peak_memory_bytes"] for row in table(at, "memory"))


def watch(run: psutil.Popen, largest: list[int]) -> None:
    while run.poll() is None:
        for process in [*run.children(recursive=True)]:
            try:
                if "LineageTrainable" in " ".join(process.cmdline()):
                    largest[0] = max(largest[0], process.memory_full_info().uss)
            except psutil.Error:
                continue
        time.sleep(LOOK_SECONDS)


def write_images(at: Path) -> None:
    import numpy as np
    from datasets import Dataset, DatasetDict, Features, Image, Value

    rng = np.random.default_rng(0)

    def split(count: int) -> Dataset:
        channels, side = IMAGES
        images = [*rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8)]
        labels = [k % 10 for k in range(count)]
        features = Features({"image": Image(), "label": Value("int64")})
        return Dataset.from_dict({"image": images, "label": labels}, features=features)

    DatasetDict({"train": split(256), "test": split(20)}).save_to_disk(str(at / "images"))


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    overheads()
    print(f"{'a worker with':15} {'its own memory':>15} {'peak_memory_bytes':>18}")
    for name in NETWORKS:
        own, peak = memory(name)
        print(f"{name:15} {own / 2**20:11.0f} MiB {peak / 2**20:14.0f} MiB")


if __name__ == "__main__":
    main()
