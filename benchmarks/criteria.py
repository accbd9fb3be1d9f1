"""Time and memory of pruning at initialization and of reading images, as Markdown tables.

Criteria score ResNet-20 and VGG-19 (CIFAR-10's shape) once, in float64, SNIP, GraSP and NTK on
random examples in chunks as in a sweep, by default 256; on the CPU, or a CUDA device where there is
one. Each runs in a process of its own. Memory is the peak during the scoring above what was there
just before, the float64 network included there: the resident set on the CPU, the allocator's on
CUDA. CPU time is the process's, all threads together.

SynFlow's rounds on VGG-19, by default 100, selections included, are compared with an epoch of its
training, estimated as 391 (50,000 examples in batches of 128) times the median of 5 timed float32
steps. `--images` names a folder of Parquet files (`train-*.parquet`, `test-*.parquet`), which are
loaded as at the first and as at a later run. `--against` names a checkout of another version, which
is measured in turns with this one, and `--rows` what is measured.
"""

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from torch.nn import functional as F

from trainables.data import DataRoots, Dataset, DatasetConfig, Split, load_dataset
from trainables.models import ModelConfig, build_model, prunable
from trainables.plugins.entry import built_in
from trainables.pruning import MethodConfig, Network
from trainables.pruning.criterion import CRITERION, Criterion
from trainables.pruning.scoring import Scoring
from trainables.pruning.scoring_data import flow_input, scoring_batches
from trainables.sparsity.masks import dense_masks
from trainables.training.batches import DeviceData
from trainables.training.randomness import stream

MODELS = ["resnet20", "vgg19"]
EXAMPLES = int(os.environ.get("EXAMPLES", "256"))
ROUNDS = int(os.environ.get("ROUNDS", "100"))
STEPS = 391


def network(name: str, device: torch.device) -> torch.nn.Module:
    config = TypeAdapter(ModelConfig).validate_python({"name": name})
    return build_model(config, (3, 32, 32), 10, seed=0).to(device)


def cifar(device: torch.device) -> DeviceData:
    rng = np.random.default_rng(0)
    split = Split(
        rng.integers(0, 256, (EXAMPLES, 3, 32, 32), dtype=np.uint8),
        rng.integers(0, 10, EXAMPLES),
    )
    return DeviceData.of(Dataset("random", split, None, split, 10, (0.5,) * 3, (0.25,) * 3), device)


def criterion(name: str, model: str, device: torch.device) -> Callable[[], object]:
    """One scoring by the criterion `name`."""
    scored = copy.deepcopy(network(model, device)).double().eval()
    generator = stream(0, "benchmark")
    batches = (
        flow_input(cifar(device), "ones", generator)
        if name == "synflow"
        else scoring_batches(cifar(device), "real", EXAMPLES, generator)
    )
    scoring = Scoring(scored, dense_masks(prunable(scored)), batches, generator)
    chosen = built_in(CRITERION)[name](name=name)
    assert isinstance(chosen, Criterion)
    return lambda: chosen(scoring)


def synflow_rounds(model: str, device: torch.device) -> Callable[[], object]:
    config = TypeAdapter(MethodConfig).validate_python(
        {"name": "synflow", "density": 0.1, "rounds": ROUNDS}
    )
    net, data = network(model, device), cifar(device)
    found = Network(net, dense_masks(prunable(net)), data, seed=0, iteration=1)
    return lambda: config(found)


def training_step(model: str, device: torch.device) -> Callable[[], object]:
    net = network(model, device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    inputs = torch.randn(128, 3, 32, 32, device=device)
    labels = torch.randint(10, (128,), device=device)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimizer.step()

    return step


def loads(folder: str) -> dict[str, dict[str, float]]:
    """What it takes to load Parquet files that no run has read before, and again."""
    with tempfile.TemporaryDirectory() as scratch:
        config = TypeAdapter(DatasetConfig).validate_python({"name": "parquet", "path": folder})
        roots = DataRoots((Path(scratch),), Path(scratch))
        return {
            turn: timed(lambda: load_dataset(config, roots), torch.device("cpu"))
            for turn in ("first", "again")
        }


def measured(what: str, model: str, device: torch.device) -> dict[str, float]:
    """Seconds, CPU seconds and MiB of `what`: a criterion, "rounds" or "step"."""
    if what == "step":
        step = training_step(model, device)
        timed(step, device)
        found = [timed(step, device) for _ in range(5)]
        return {name: statistics.median(each[name] for each in found) for name in found[0]}
    rounds = what == "rounds"
    work = synflow_rounds(model, device) if rounds else criterion(what, model, device)
    if device.type == "cuda":
        # The first call also loads CUDA's libraries.
        work()
    before = memory(device)
    found = timed(work, device)
    return found | {"mib": (memory(device, peak=True) - before) / 2**20}


def timed(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started, used = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {"seconds": time.perf_counter() - started, "cpu": time.process_time() - used}


def memory(device: torch.device, *, peak: bool = False) -> int:
    """Bytes so far; for CUDA the peak since the last call without `peak`."""
    if device.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak:
        return torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def in_process(what: str, model: str, options: argparse.Namespace, source: str) -> dict:
    """Measured by this file with the packages in the folder `source`."""
    command = [sys.executable, __file__, "--device", options.device, "--only", what, model]
    command += ["--threads", str(options.threads)]
    environment = os.environ | {"PYTHONPATH": source}
    return json.loads(subprocess.run(
        command, check=True, stdout=subprocess.PIPE, env=environment
    ).stdout)  # fmt: skip


def main() -> None:
    here = str(Path(__file__).parents[1])
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", nargs="+", metavar="MODEL-WHAT", help="such as vgg19-grasp")
    parser.add_argument("--images", metavar="FOLDER")
    parser.add_argument("--against", metavar="CHECKOUT")
    parser.add_argument("--only", nargs=2, metavar=("WHAT", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        torch.set_num_threads(options.threads)
        what, model = options.only
        found = (
            loads(model) if what == "load" else measured(what, model, torch.device(options.device))
        )
        print(json.dumps(found))
        return
    versions = {"before": options.against, "now": here} if options.against else {"now": here}
    rows = options.rows or [
        *(f"{model}-{name}" for model in MODELS for name in built_in(CRITERION)),
        "vgg19-rounds",
        "vgg19-step",
    ]
    print(f"On {options.device}, {options.threads} threads:\n")
    print("| what | version | seconds | CPU seconds | peak MiB |\n|---|---|---:|---:|---:|")
    taken: dict[str, float] = {}
    for row in rows:
        model, _, what = row.partition("-")
        for version, source in versions.items():
            found = in_process(what, model, options, source)
            taken[row] = found["seconds"]
            _print(f"{model} {what}", version, found)
    for version, source in versions.items() if options.images else ():
        for turn, found in in_process("load", options.images, options, source).items():
            _print(f"{options.images}, {turn}", version, found)
    if {"vgg19-rounds", "vgg19-step"} <= taken.keys():
        share = taken["vgg19-rounds"] / (STEPS * taken["vgg19-step"])
        print(f"\nSynFlow's {ROUNDS} rounds take {share:.3f} of a training epoch.")


def _print(what: str, version: str, found: dict[str, float]) -> None:
    mib = f"{found['mib']:.0f}" if "mib" in found else ""
    print(
        f"| {what} | {version} | {found['seconds']:.2f} | {found['cpu']:.2f} | {mib} |", flush=True
    )


if __name__ == "__main__":
    main()
