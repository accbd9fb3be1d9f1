"""Trainings an hour by the number of networks that are one computation, all cores busy.

One process on each core trains networks with half of their weights pruned, clipped gradients and
an evaluation after each epoch: K = 1 as they are trained alone, K > 1 as one computation. All K, in
all precisions, take turns, several times, and the ratio is that of the medians of trainings an
hour to that of the first.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, get_args

import numpy as np
import torch
from pydantic import TypeAdapter

from trainables.data import Dataset, Split
from trainables.lineage.memory import keep_memory
from trainables.models import ModelConfig, Shape, build_model, prunable
from trainables.training.batches import DeviceData, Randomness
from trainables.training.precision import Precision, laid_out
from trainables.training.recipe import Recipe
from trainables.training.run import Training, train

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A network on random images of a dataset's size, and how long one training is."""

    name: str
    model: str
    shape: Shape
    examples: int
    batch_size: int
    epochs: int


CASES = (
    Case("mlp, digits, batch 32", "mlp", (1, 8, 8), 1437, 32, 5),
    Case("mlp, Fashion-MNIST, batch 250", "mlp", (1, 28, 28), 15_000, 250, 1),
    Case("lenet_300_100, batch 60", "lenet_300_100", (1, 28, 28), 6_000, 60, 1),
    Case("linear, Fashion-MNIST, batch 250", "linear", (1, 28, 28), 15_000, 250, 1),
    Case("resnet20, CIFAR, batch 128", "resnet20", (3, 32, 32), 256, 128, 1),
)


def data_of(case: Case) -> DeviceData:
    rng = np.random.default_rng(0)

    def split(count: int) -> Split:
        images = rng.integers(0, 256, (count, *case.shape), dtype=np.uint8)
        return Split(images, rng.integers(0, 10, count))

    channels = case.shape[0]
    train_, test = split(case.examples), split(case.examples // 6)
    mean, std = (0.3,) * channels, (0.3,) * channels
    return DeviceData.of(Dataset("random", train_, None, test, 10, mean, std), CPU)


def trainings(case: Case, data: DeviceData, precision: Precision, count: int) -> list[Training]:
    config: Any = TypeAdapter(ModelConfig).validate_python({"name": case.model})
    recipe = Recipe(
        epochs=case.epochs, batch_size=case.batch_size, clip_grad_norm=1.0, precision=precision
    )

    def training(seed: int) -> Training:
        model = laid_out(build_model(config, case.shape, 10, seed), precision, CPU)
        generator = torch.Generator().manual_seed(seed)
        masks = {
            name: torch.rand(weight.shape, generator=generator) < 0.5
            for name, weight in prunable(model).items()
        }
        return Training(model, masks, data, recipe, Randomness(seed, 1), architecture=config)

    return [training(seed) for seed in range(count)]


def worker(core: int, asked: Connection) -> None:
    """Trains what it is asked for, on one core, as a trial does, and answers with the seconds."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    keep_memory()
    kept: dict[Case, DeviceData] = {}
    for case, precision, count in iter(asked.recv, None):
        if case not in kept:
            kept[case] = data_of(case)
            train(trainings(case, kept[case], precision, max(count, 2)))
        runs = trainings(case, kept[case], precision, count)
        started = time.perf_counter()
        train(runs)
        asked.send(time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--precisions", choices=get_args(Precision), nargs="+", default=["float32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    pipes = []
    for core in cores:
        mine, its = context.Pipe()
        context.Process(target=worker, args=(core, its), daemon=True).start()
        pipes.append(mine)

    def seconds(case: Case, precision: Precision, count: int) -> float:
        for pipe in pipes:
            pipe.send((case, precision, count))
        return max(pipe.recv() for pipe in pipes)

    print(f"{len(cores)} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f} before")
    ways = [*itertools.product(options.precisions, options.sizes)]
    for case in CASES:
        if options.only not in case.name:
            continue
        seconds(case, *ways[0])
        measured: dict[tuple[Precision, int], list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way in ways:
                measured[way].append(3600 * len(cores) * way[1] / seconds(case, *way))
        medians = {way: statistics.median(rates) for way, rates in measured.items()}
        print(case.name)
        for (precision, count), rate in medians.items():
            ratio, what = rate / medians[ways[0]], f"{precision} K = {count:2}"
            print(f"  {what}: {rate:9,.0f} trainings an hour, {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
