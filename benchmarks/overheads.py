"""What a sweep costs beside its training: its start, each trial, each iteration; and memory.

Sweeps of the smallest network that differ in the number of lineages and of iterations, one trial
at a time: what more of them take follows from the differences, on the clock of an idle machine.
Memory is that of a worker while it trains one lineage of each network: what is its own (USS), and
the column `peak_memory_bytes`.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from PIL import Image

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
SWEEP = {
    "name": "overheads",
    "dataset": {"name": "digits", "subset": 50},
    "model": {"name": "mlp", "hidden": [8]},
    "train": {"epochs": 1, "batch_size": 50},
    "methods": ["lottery_ticket"],
    "resources": {"max_concurrent": 1},
    "wandb": {"mode": "disabled"},
}
FEW, MANY = 2, 22
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp"},
    "resnet20": {"name": "resnet20"},
    "resnet18": {"name": "resnet18"},
    "vgg19": {"name": "vgg19"},
}
SIDE = 32
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Took:
    """Seconds of a whole run, and those in which it trained or pruned."""

    whole: float
    inside: float


def took(lineages: int, iterations: int) -> Took:
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        sweep = SWEEP | {"seeds": [*range(lineages)], "prune": {"iterations": iterations}}
        (at / "s.yaml").write_text(json.dumps(sweep))
        started = time.perf_counter()
        subprocess.run([COMMAND, "run", "s.yaml"], cwd=at, check=True, capture_output=True)
        whole = time.perf_counter() - started
        rows = table(at, "overheads")
        return Took(whole, sum(row["train_seconds"] + row["prune_seconds"] for row in rows))


def table(at: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(at / f"prunesweep-store/tables/iterations-{name}.parquet").to_pylist()


def overheads() -> None:
    small, wide, long = took(FEW, 1), took(MANY, 1), took(FEW, MANY - 1)
    # A lineage more is a trial more, and as many iterations as it has.
    iterations = (MANY - 2) * FEW
    per_iteration = (long.whole - small.whole) / iterations
    per_trial = (wide.whole - small.whole) / (MANY - FEW) - 2 * per_iteration
    inside = (long.inside - small.inside) / iterations
    start = small.whole - FEW * per_trial - 2 * FEW * per_iteration
    print(f"{'start and end of a run':40} {start:8.2f} s")
    print(f"{'each trial beside its iterations':40} {1000 * per_trial:8.0f} ms")
    print(f"{'each iteration':40} {1000 * per_iteration:8.0f} ms")
    print(f"{'  of which training and pruning':40} {1000 * inside:8.0f} ms")


def memory(name: str) -> tuple[int, int]:
    """The largest USS of a worker, and the largest `peak_memory_bytes` of its rows."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        write_images(at)
        sweep = SWEEP | {
            "name": "memory",
            "dataset": {"name": "image_folder", "path": "images"},
            "model": NETWORKS[name],
            "train": {"epochs": 1, "batch_size": 128},
            "prune": {"iterations": 1},
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
    rng = np.random.default_rng(0)
    for split, count in (("train", 256), ("test", 20)):
        for number in range(count):
            folder = at / "images" / split / str(number % 10)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    overheads()
    print(f"{'a worker with':15} {'its own memory':>15} {'peak_memory_bytes':>18}")
    for name in NETWORKS:
        own, peak = memory(name)
        print(f"{name:15} {own / 2**20:11.0f} MiB {peak / 2**20:14.0f} MiB")


if __name__ == "__main__":
    main()
