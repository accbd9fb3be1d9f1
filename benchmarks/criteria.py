"""Time and memory of pruning at initialization, as a Markdown table.

Criteria score ResNet-20 and VGG-19 (CIFAR-10's shape) once, in float64, SNIP and GraSP on 256
random examples in chunks as in a sweep; 2 threads, or a CUDA device where there is one. Each runs
in a process of its own. Memory is the peak during the scoring above what was there just before,
the float64 network included there: the resident set on the CPU, the allocator's on CUDA.

SynFlow's 100 rounds on VGG-19, selections included, are compared with an epoch of its training,
estimated as 391 (50,000 examples in batches of 128) times the median of 5 timed float32 steps.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from pydantic import TypeAdapter
from torch.nn import functional as F

from trainables.data import Dataset, Split
from trainables.measures.masks import dense_masks
from trainables.models import ModelConfig, build_model, prunable
from trainables.plugins.entry import built_in
from trainables.pruning import MethodConfig, Network
from trainables.pruning.criterion import CRITERION, Criterion
from trainables.pruning.scoring import Scoring
from trainables.pruning.scoring_data import flow_input, scoring_batches
from trainables.training.batches import DeviceData
from trainables.training.randomness import stream

MODELS = ["resnet20", "vgg19"]
EXAMPLES = 256
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
    config = TypeAdapter(MethodConfig).validate_python({"name": "synflow", "density": 0.1})
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


def measured(what: str, model: str, device: torch.device) -> dict[str, float]:
    """Seconds and MiB of `what`: a criterion, "rounds" or "step"."""
    if what == "step":
        step = training_step(model, device)
        timed(step, device)
        return {"seconds": statistics.median(timed(step, device) for _ in range(5)), "mib": 0.0}
    rounds = what == "rounds"
    work = synflow_rounds(model, device) if rounds else criterion(what, model, device)
    if device.type == "cuda":
        # The first call also loads CUDA's libraries.
        work()
    before = memory(device)
    seconds = timed(work, device)
    return {"seconds": seconds, "mib": (memory(device, peak=True) - before) / 2**20}


def timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def memory(device: torch.device, *, peak: bool = False) -> int:
    """Bytes so far; for CUDA the peak since the last call without `peak`."""
    if device.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak:
        return torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def in_process(what: str, model: str, device: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--device", device, "--only", what, model]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs=2, metavar=("WHAT", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        torch.set_num_threads(2)
        what, model = options.only
        print(json.dumps(measured(what, model, torch.device(options.device))))
        return
    print(
        f"On {options.device}:\n\n| model | criterion | seconds | peak MiB |\n|---|---|---:|---:|"
    )
    for model in MODELS:
        for name in built_in(CRITERION):
            row = in_process(name, model, options.device)
            print(f"| {model} | {name} | {row['seconds']:.2f} | {row['mib']:.0f} |", flush=True)
    rounds = in_process("rounds", "vgg19", options.device)
    step = in_process("step", "vgg19", options.device)
    epoch = STEPS * step["seconds"]
    print(f"| vgg19 | synflow, 100 rounds | {rounds['seconds']:.2f} | {rounds['mib']:.0f} |")
    print(f"| vgg19 | a training epoch (estimated) | {epoch:.2f} | |")
    print(f"\nSynFlow's 100 rounds take {rounds['seconds'] / epoch:.3f} of a training epoch.")


if __name__ == "__main__":
    main()
