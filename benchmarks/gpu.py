"""Training steps on a GPU, by each means there is: a table of steps a second.

First it checks that the means agree. Then it measures one network taken one operation after the
other, with CUDA graphs, in TF32 and bf16; several networks as one computation; several processes
that share the device, with and without CUDA's Multi-Process Service; and compiled steps. Images
are random, of the size and number of Fashion-MNIST's and CIFAR-10's, with half-dense masks,
clipping and, for CIFAR's, flips and crops. Every ratio is to one network, alone, one operation
after the other, in this run.

It ends with its table when `--minutes` are over, whatever is left. `--device cpu --tiny` goes the
same way in less than a minute, to see that it does.
"""

import _thread
import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, get_args

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from trainables.data import Dataset, Split
from trainables.models import ModelConfig, build_model, prunable
from trainables.training.batches import Batches, DeviceData, Randomness, batches_of
from trainables.training.execution import Execution
from trainables.training.precision import Precision, arithmetic, laid_out
from trainables.training.recipe import Recipe
from trainables.training.stepping import stepping
from trainables.training.steps import Totals

FASHION, CIFAR = (60_000, 1, 28), (50_000, 3, 32)
MODELS: dict[str, tuple[dict[str, Any], tuple[int, int, int], int]] = {
    "mlp": ({"name": "mlp", "hidden": [128, 256]}, FASHION, 250),
    "lenet_300_100": ({"name": "lenet_300_100"}, FASHION, 60),
    "resnet20": ({"name": "resnet20"}, CIFAR, 128),
    "vgg19": ({"name": "vgg19"}, CIFAR, 128),
}
"""The network, the images, and the batch."""
TINY = {
    "mlp": ({"name": "mlp", "hidden": [16]}, (205, 1, 28), 20),
    "cnn": ({"name": "cnn", "hidden": [4, 4]}, (205, 3, 8), 20),
}
PARTS = ("alone", "fused", "packed", "compiled")
FUSED = (2, 4, 8, 16, 32, 64)
PROCESSES = (1, 2, 4, 8)
LONGEST = 60
"""Seconds that a process may take to begin."""
EAGER, GRAPHS = Execution(graphs="off"), Execution(graphs="on")
COMPILED = Execution(compile=True, graphs="off")
TOO_LONG = 0.5
"""Seconds a step: twice the networks would only take longer."""


@dataclass(frozen=True)
class Case:
    """What is measured: `networks` of a model as one computation."""

    model: str
    networks: int = 1
    precision: Precision = "float32"
    execution: Execution = EAGER
    tiny: bool = False

    @property
    def made(self) -> tuple[dict[str, Any], tuple[int, int, int], int]:
        return (TINY if self.tiny else MODELS)[self.model]

    @property
    def how(self) -> str:
        means = [self.precision] if self.precision != "float32" else []
        means += ["graphs"] * (self.execution.graphs == "on") + [
            "compiled"
        ] * self.execution.compile
        return " + ".join(means) or "eager"

    @property
    def recipe(self) -> Recipe:
        _, (_, channels, _), batch = self.made
        augment = {"horizontal_flip": True, "crop_padding": 4} if channels == 3 else {}
        return Recipe.model_validate(
            {
                "batch_size": batch,
                "clip_grad_norm": 1.0,
                "augment": augment,
                "precision": self.precision,
            }
        )


@dataclass(frozen=True)
class Row:
    """What was measured: steps a second of each of `processes`, bytes at the peak in one."""

    case: Case
    steps: float = 0.0
    peak: int = 0
    processes: int = 1
    service: bool = False
    problem: str = ""

    @property
    def networks(self) -> float:
        """Steps of networks a second."""
        return self.steps * self.case.networks * self.processes


class Bench:
    """Networks with half-dense masks, and what takes their steps."""

    def __init__(self, case: Case, data: DeviceData, device: torch.device) -> None:
        options, _, self.size = case.made
        self.config: Any = TypeAdapter(ModelConfig).validate_python(options)
        self.recipe = case.recipe
        self.examples = len(data.train)
        models = [
            build_model(self.config, data.shape, data.classes, seed)
            for seed in range(case.networks)
        ]
        models = [laid_out(model, self.recipe.precision, device) for model in models]
        self.masks = [
            {
                name: (torch.rand(weight.shape, generator=_generator(seed)) < 0.5).to(device)
                for name, weight in prunable(model).items()
            }
            for seed, model in enumerate(models)
        ]
        self.models = models
        self.batches: Batches = batches_of(
            data, self.recipe, [Randomness(seed, 0) for seed in range(case.networks)]
        )
        steps, self.take = stepping(
            models,
            self.masks,
            [{} for _ in models],
            self.config,
            self.recipe,
            data,
            self.batches.made,
            case.execution,
        )
        steps.at_rate(0.01)

    def losses(self, steps: int) -> Iterator[Tensor]:
        """The losses of as many steps, epoch after epoch, each with its batch's sums."""
        totals: Totals | None = None
        epoch = 0
        per_epoch = -(-self.examples // self.size)
        with arithmetic(self.recipe.precision):
            while steps > 0:
                for drawn in self.batches.drawn(epoch, range(min(per_epoch, steps))):
                    losses, correct = self.take(*drawn)
                    totals = totals or Totals.like(losses)
                    totals.add(losses, correct, len(drawn[0]))
                    yield losses
                steps -= per_epoch
                epoch += 1


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data_for(case: Case, device: torch.device, examples: int | None = None) -> DeviceData:
    """Random images of the size that the case has, and of its number if none is given."""
    _, (count, channels, size), _ = case.made
    count = examples or count
    rng = np.random.default_rng(0)

    def split(examples: int) -> Split:
        shape = (examples, channels, size, size)
        return Split(rng.integers(0, 256, shape, dtype=np.uint8), rng.integers(0, 10, examples))

    ones = (0.5,) * channels
    return DeviceData.of(Dataset("random", split(count), None, split(10), 10, ones, ones), device)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(case: Case, data: DeviceData, device: torch.device, seconds: float) -> Row:
    """The median over pieces of ten steps, after those that warm up."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    losses = Bench(case, data, device).losses(10**9)
    pieces: list[float] = []
    # A smaller last batch is compiled for itself.
    for _ in range(-(-len(data.train) // case.made[2]) + 2 if case.execution.compile else 8):
        next(losses)
    wait(device)
    until = time.perf_counter() + seconds
    while len(pieces) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        for _ in range(10):
            next(losses)
        wait(device)
        pieces.append((time.perf_counter() - started) / 10)
        if pieces[0] > TOO_LONG:
            break
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Row(case, 1 / median(pieces), peak)


# Whether the means agree


def checks(device: torch.device, tiny: bool) -> Iterator[tuple[str, bool]]:
    """What has to hold before numbers mean something, and whether it does."""
    for model in TINY if tiny else ("mlp", "resnet20"):
        case = Case(model, tiny=tiny)
        # The last batch of an epoch is a smaller one.
        data = data_for(case, device, 10 * case.recipe.batch_size + 7)
        steps = 12 if tiny else 50
        eager, graphs, bf16, tf32 = (
            _first_losses(each, data, device, steps)
            for each in (
                case,
                replace(case, execution=GRAPHS),
                replace(case, precision="bf16"),
                replace(case, precision="tf32"),
            )
        )
        yield f"{model}: losses with graphs are those without, bit by bit", graphs.equal(eager)
        yield f"{model}: losses in tf32 are near", _close(tf32[:10], eager[:10], 0.02)
        yield f"{model}: losses in bf16 are near", _close(bf16[:10], eager[:10], 0.05)
        for execution in (EAGER, GRAPHS):
            fused = replace(case, networks=3, execution=execution)
            found = _first_losses(fused, data, device, steps)[:, 0]
            yield f"{model}: {fused.how}, fused, are near those alone", _close(found, eager, 0.01)
        if device.type == "cuda" and data.shape[0] == 3:
            yield f"{model}: side by side, they are those alone, bit by bit", found.equal(eager)
        bench = Bench(replace(case, precision="bf16", networks=2), data, device)
        for _ in bench.losses(steps):
            pass
        zero = [
            (network.get_parameter(name)[~mask] == 0).all().item()
            for network, masks in zip(bench.models, bench.masks, strict=True)
            for name, mask in masks.items()
        ]
        yield f"{model}: pruned weights are zero", all(zero)


def _first_losses(case: Case, data: DeviceData, device: torch.device, steps: int) -> Tensor:
    return torch.stack([losses.clone() for losses in Bench(case, data, device).losses(steps)]).cpu()


def _close(found: Tensor, expected: Tensor, relative: float) -> bool:
    return bool(torch.allclose(found, expected, rtol=relative, atol=1e-3))


# Processes that share the device


class Worker:
    """A process of its own that measures what it is told, when it is told."""

    def __init__(self, options: argparse.Namespace, env: Mapping[str, str]) -> None:
        command = [sys.executable, __file__, "--worker", "--device", options.device]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**env}
        )

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        answers, _, _ = select.select([self._process.stdout], [], [], LONGEST)
        line = self._process.stdout.readline() if answers else ""
        if not line:
            raise RuntimeError("a process that measures has ended, or is stuck")
        return json.loads(line)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def work(device: torch.device) -> None:
    """Be a worker: make ready for each line, say so, and measure at the next one."""
    for line in sys.stdin:
        told = json.loads(line)
        try:
            execution = GRAPHS if told["graphs"] else EAGER
            case = Case(told["model"], 1, told["precision"], execution, told["tiny"])
            losses = Bench(case, data_for(case, device), device).losses(10**9)
            for _ in range(8):
                next(losses)
            wait(device)
            print(json.dumps("ready"), flush=True)
            sys.stdin.readline()
            started, steps = time.perf_counter(), 0
            while time.perf_counter() - started < told["seconds"]:
                for _ in range(5):
                    next(losses)
                wait(device)
                steps += 5
            peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
            print(json.dumps([steps / (time.perf_counter() - started), peak]), flush=True)
        except RuntimeError as error:
            print(json.dumps({"problem": _short(error)}), flush=True)


def packed(workers: Sequence[Worker], case: Case, seconds: float, service: bool) -> Row:
    """As many processes at the same time, each with a network."""
    order: dict[str, Any] = {"model": case.model, "tiny": case.tiny, "seconds": seconds}
    order |= {"graphs": case.execution == GRAPHS, "precision": case.precision}
    for worker in workers:
        worker.tell(json.dumps(order))
    ready = [worker.hear() for worker in workers]
    able = [worker for worker, said in zip(workers, ready, strict=True) if said == "ready"]
    for worker in able:
        worker.tell("")
    measured = [said for said in (worker.hear() for worker in able) if isinstance(said, list)]
    row = Row(case, processes=len(workers), service=service)
    if len(measured) < len(workers):
        return replace(row, problem="a process had no memory, or failed")
    steps, peaks = zip(*measured, strict=True)
    return replace(row, steps=sum(steps) / len(steps), peak=max(peaks))


@contextmanager
def multi_process_service() -> Iterator[dict[str, str]]:
    """What processes need in their environment to share the device through the service."""
    with tempfile.TemporaryDirectory() as folder:
        env = {
            **os.environ,
            "CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe",
            "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log",
        }
        os.mkdir(f"{folder}/pipe")
        os.mkdir(f"{folder}/log")
        subprocess.run(["nvidia-cuda-mps-control", "-d"], env=env, check=True, timeout=20)
        try:
            yield env
        finally:
            subprocess.run(
                ["nvidia-cuda-mps-control"], env=env, input="quit\n", text=True, timeout=30
            )


# The table


class Table:
    """The rows, and the time that is left for more."""

    def __init__(self, minutes: float) -> None:
        self.rows: list[Row] = []
        self.left_out = 0
        self._until = time.monotonic() + minutes * 60

    def has_time_for(self, seconds: float) -> bool:
        enough = time.monotonic() + seconds < self._until
        self.left_out += not enough
        return enough

    def add(self, row: Row) -> Row:
        self.rows.append(row)
        print(self._line(row), flush=True)
        return row

    def print(self) -> None:
        print()
        print(f"{'model':14} {'how':18} {'networks':>8} {'processes':>9} {'steps/s':>9} "
              f"{'networks·steps/s':>16} {'ratio':>6} {'peak MiB':>8}")  # fmt: skip
        for row in self.rows:
            print(self._line(row))
        if self.left_out:
            print(f"{self.left_out} left out, since the time was over")

    def _line(self, row: Row) -> str:
        case = row.case
        how = case.how + (" + MPS" if row.service else "")
        start = f"{case.model:14} {how:18} {case.networks:8} {row.processes:9} "
        if row.problem:
            return start + row.problem
        one = next((each.networks for each in self.rows if _is_reference(each, case)), None)
        ratio = f"{row.networks / one:6.2f}" if one else "     –"
        peak = f"{row.peak / 2**20:8.0f}" if row.peak else "       –"
        return start + f"{row.steps:9.1f} {row.networks:16.1f} {ratio} {peak}"


def _is_reference(row: Row, case: Case) -> bool:
    return row.case == Case(case.model, tiny=case.tiny) and row.processes == 1 and row.steps > 0


def _short(error: BaseException) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:90]


def measured(
    table: Table, case: Case, data: DeviceData, device: torch.device, seconds: float
) -> Row:
    try:
        return table.add(measure(case, data, device, seconds))
    except Exception as error:  # the others are measured all the same
        return table.add(Row(case, problem=_short(error)))


def run(options: argparse.Namespace, table: Table, device: torch.device) -> None:
    """Measure what was asked for, as long as there is time."""
    models = options.models or list(TINY if options.tiny else MODELS)
    cases = [Case(model, tiny=options.tiny) for model in models]
    seconds = options.seconds
    with_graphs = [EAGER] + [GRAPHS] * (device.type == "cuda")
    each: list[tuple[Case, DeviceData]] = [(case, data_for(case, device)) for case in cases]
    for case, data in each:  # the reference of all that follows
        if table.has_time_for(seconds + 5):
            measured(table, case, data, device, seconds)
    if "alone" in options.parts:
        for case, data in each:
            for precision in get_args(Precision):
                for execution in with_graphs:
                    one = replace(case, precision=precision, execution=execution)
                    if one != case and table.has_time_for(seconds + 5):
                        measured(table, one, data, device, seconds)
    if "fused" in options.parts:
        for case, data in each:
            fuse(options, table, device, replace(case, execution=with_graphs[-1]), data)
    if "packed" in options.parts:
        pack(options, table, device, cases)
    if "compiled" in options.parts:
        for case, data in each:
            if table.has_time_for(seconds + 60):
                one = replace(case, execution=COMPILED)
                measured(table, one, data, device, seconds)


def fuse(
    options: argparse.Namespace, table: Table, device: torch.device, case: Case, data: DeviceData
) -> None:
    precisions: tuple[Precision, ...] = ("bf16", "float32") if data.shape[0] == 3 else ("float32",)
    for precision in precisions:
        for networks in (2,) if options.tiny else FUSED:
            if not table.has_time_for(options.seconds + 5):
                return
            one = replace(case, networks=networks, precision=precision)
            row = measured(table, one, data, device, options.seconds)
            if row.problem or row.steps < 1 / TOO_LONG:
                break


def pack(
    options: argparse.Namespace, table: Table, device: torch.device, cases: Sequence[Case]
) -> None:
    with_graphs = [EAGER] + [GRAPHS] * (device.type == "cuda")
    counts = (2,) if options.tiny else PROCESSES
    for service in (False, True):
        if service and shutil.which("nvidia-cuda-mps-control") is None:
            print("no nvidia-cuda-mps-control here: processes share the device without it")
            return
        if not table.has_time_for(30):
            return
        try:
            with _workers(options, max(counts), service) as workers:
                for case in cases:
                    for execution in with_graphs:
                        for count in counts:
                            if table.has_time_for(options.seconds + 5 + count):
                                one = replace(case, execution=execution)
                                sharing = workers[:count]
                                table.add(packed(sharing, one, options.seconds, service))
        except Exception as error:  # what else is to be measured is
            print(f"processes {'with MPS' if service else ''}: {_short(error)}")


@contextmanager
def _workers(options: argparse.Namespace, count: int, service: bool) -> Iterator[list[Worker]]:
    if service:
        with multi_process_service() as env, _started(options, count, env) as workers:
            yield workers
        return
    with _started(options, count, os.environ) as workers:
        yield workers


@contextmanager
def _started(
    options: argparse.Namespace, count: int, env: Mapping[str, str]
) -> Iterator[list[Worker]]:
    workers = [Worker(options, env) for _ in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()


def main(arguments: Sequence[str] | None = None) -> int:
    """1 where the means do not agree, or nothing was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--models", nargs="*", choices=MODELS)
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measurement")
    parser.add_argument("--tiny", action="store_true", help="small networks, shortly")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    torch.set_num_threads(1)
    if options.worker:
        work(device)
        return 0
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu --tiny shows that this runs")
        return 2
    table = Table(options.minutes)
    if options.tiny:
        options.seconds = min(options.seconds, 0.05)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    agree = True
    over = threading.Timer(options.minutes * 60 + 10, _thread.interrupt_main)
    over.daemon = True
    over.start()
    try:
        for what, holds in checks(device, options.tiny):
            print(f"{'ok  ' if holds else 'NOT '} {what}", flush=True)
            agree = agree and holds
        run(options, table, device)
    except KeyboardInterrupt:
        print("ended, since the time was over")
    finally:
        over.cancel()
        table.print()
    if not agree:
        print("the means do not agree, see NOT above: numbers of speed mean nothing")
    return 0 if agree and table.rows else 1


if __name__ == "__main__":
    sys.exit(main())
