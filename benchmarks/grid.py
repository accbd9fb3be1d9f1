"""A whole sweep against the bare loops that it needs, and against the field's habit.

The sweep is SAP's Figure 2 on Fashion-MNIST in short: its mlp, one-shot, lottery ticket and SAP
with (p, q) = (0.5, 1) and (1, 2), four seeds, three iterations, three epochs, batch 250. It is run
by `prunesweep run`, from the command to its tables, as it is and with fused lineages; and of the
core-seconds of its processes, what is neither training nor evaluation. What a pruned network takes
to be evaluated is measured by itself.

*Bare loops*: its trainings, each once (trunks are shared), as a bare PyTorch loop over resident
tensors with one thread, as many at a time as there are cores; no process start, no pruning, no
measures but a test evaluation each epoch.

*The habit*: one process for each experiment, which trains every iteration from a torchvision
DataLoader with per-sample transforms; one epoch of as many processes at a time as there are cores
is measured, and multiplied by the epochs of all experiments.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from training import bare_epoch, fashion_mnist

from orchestrator.results.opening import open_results
from trainables.data import Dataset
from trainables.models.perceptrons import mlp
from trainables.training.batches import DeviceData
from trainables.training.evaluation import evaluate

LOOK_SECONDS = 0.1
SEEDS, ITERATIONS, EPOCHS = 4, 3, 3
METHODS: list[Any] = [
    "one_shot",
    "lottery_ticket",
    {"name": "sap", "p": 0.5, "q": 1.0},
    {"name": "sap", "p": 1.0, "q": 2.0},
]
TRAININGS = SEEDS * (1 + len(METHODS) * ITERATIONS)
EXPERIMENT_EPOCHS = SEEDS * len(METHODS) * (ITERATIONS + 1) * EPOCHS
SWEEP = {
    "name": "grid",
    "dataset": "fashion_mnist",
    "model": "mlp",
    "seeds": list(range(SEEDS)),
    "train": {"epochs": EPOCHS, "batch_size": 250, "clip_grad_norm": 1.0},
    "prune": {"iterations": ITERATIONS},
    "methods": METHODS,
    "wandb": {"mode": "disabled"},
}


@dataclass(frozen=True)
class Swept:
    """Seconds of the command on the clock, everything included; from the first training on, of all
    its processes' cores; and of those the ones in trainings and evaluations."""

    clock: float
    cores: float
    trained: float

    @property
    def beside(self) -> float:
        return 1 - self.trained / self.cores


def swept(fuse: int | str, precision: str) -> Swept:
    with tempfile.TemporaryDirectory() as folder:
        file, store = Path(folder) / "grid.yaml", Path(folder) / "store"
        train = SWEEP["train"] | {"precision": precision}
        file.write_text(json.dumps(SWEEP | {"train": train, "resources": {"fuse": fuse}}))
        command = [Path(sys.executable).with_name("prunesweep"), "run", file, "--storage", store]
        started = time.perf_counter()
        with psutil.Popen(command, stdout=subprocess.DEVNULL) as driver:
            used = core_seconds(driver)
        clock = time.perf_counter() - started
        if driver.returncode:
            sys.exit(f"the run ended with {driver.returncode}")
        rows = open_results(store, "grid").iterations.to_pylist()
    # A network has its share of the seconds of those that were trained as one computation.
    first = min(
        row["finished_at"].timestamp() - row["train_seconds"] * row["fused"] for row in rows
    )
    rows = list({row["key"]: row for row in rows}.values())
    trained = sum(row["train_seconds"] for row in rows)
    evaluated = sum(row["pruned_test_loss"] is not None for row in rows) * evaluation_seconds()
    before = max(seconds for at, seconds in used.items() if at <= first)
    return Swept(clock, max(used.values()) - before, trained + evaluated)


@cache
def evaluation_seconds() -> float:
    """Of one network on the test set, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    test, model = DeviceData.of(data(), torch.device("cpu")).test, mlp((1, 28, 28), 10)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        evaluate(model, test)
        taken.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return statistics.median(taken)


def core_seconds(driver: psutil.Process) -> dict[float, float]:
    """What a process and all below it have taken of the cores until it ends, by the time."""
    taken: dict[tuple[int, float], float] = {}
    used: dict[float, float] = {}
    while driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
        for process in (driver, *driver.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                taken[process.pid, process.create_time()] = times.user + times.system
        used[time.time()] = sum(taken.values())
        time.sleep(LOOK_SECONDS)
    return used


@cache
def data() -> Dataset:
    return fashion_mnist()


def train_bare(epochs: int) -> float:
    """The seconds of the loops alone."""
    torch.set_num_threads(1)
    return sum(bare_epoch(data(), torch.device("cpu")) for _ in range(epochs))


def loop_seconds(processes: int) -> float:
    """The bare loops of all trainings, `processes` at a time."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return sum(pool.map(train_bare, [EPOCHS] * TRAININGS, chunksize=1)) / processes


class PerSample(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """Images that are made tensors and normalized one at a time."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        from torchvision import transforms

        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image: Any = self.transform(Image.fromarray(self.images[index, 0]))
        return image, int(self.labels[index])


def habit_epoch(_: int) -> float:
    from trainables.torchvision_import import import_torchvision

    import_torchvision()
    torch.set_num_threads(1)
    split = fashion_mnist().train
    loader = torch.utils.data.DataLoader(PerSample(split.images, split.labels), 250, shuffle=True)
    model = mlp((1, 28, 28), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    started = time.perf_counter()
    for images, labels in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return time.perf_counter() - started


def habit_seconds(processes: int) -> float:
    """What all experiments take, `processes` at a time."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        epoch = max(pool.map(habit_epoch, range(processes), chunksize=1))
    return epoch * EXPERIMENT_EPOCHS / processes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fuse", type=int, default=8)
    parser.add_argument("--precision", default="float32", help="of the sweep, not of the loops")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    print(f"{TRAININGS} trainings of {EPOCHS} epochs on {cores} cores, torch {torch.__version__}")
    for _ in range(options.rounds):
        print(f"load before: {os.getloadavg()[0]:.1f}")
        loops = loop_seconds(cores)
        alone, fused = (swept(fuse, options.precision) for fuse in ("off", options.fuse))
        habit = habit_seconds(cores)
        print(f"bare loops {loops:.1f} s")
        for name, sweep in (("sweep", alone), (f"sweep, fuse: {options.fuse}", fused)):
            seconds = sweep.clock
            ratios = f"{seconds / loops:.2f} of the loops, {habit / seconds:.1f} times the habit"
            beside = f"{sweep.beside:.1%} of its {sweep.cores:.1f} core-seconds beside training"
            print(f"{name} {seconds:.1f} s, {ratios}; {beside}")
        print(f"the habit {habit:.1f} s", flush=True)


if __name__ == "__main__":
    main()
