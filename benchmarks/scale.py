"""What a sweep of very many lineages costs beside their training, and whether it grows with them.

`scale.py scheduler` runs the command itself on the smallest network that there is, whose training
is a few milliseconds: planning, Ray, claims, commits and tables are what they are in any sweep. It
prints a Markdown table: by then so many lineages were done; what an iteration took of each slot's
time since the line before, the training itself left out; of the driver's processor time; and the
driver's memory. 10,000 lineages of three iterations take an hour on two cores that do nothing else;
`--lineages` and `--iterations` make it less.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

MARKS = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
RUN = [sys.executable, "-c", "from orchestrator.commands.cli import main; main()", "run"]


@dataclass(frozen=True)
class Seen:
    """The driver when so many lineages were done, and as many iterations: seconds on the clock, in
    training and of the driver's processor time, and bytes of its memory."""

    lineages: int
    iterations: int
    clock: float
    training: float
    processor: float
    memory: int


def sweep(lineages: int, iterations: int, slots: int) -> dict[str, object]:
    return {
        "name": "scale",
        "dataset": {"name": "digits", "subset": 50},
        "model": {"name": "mlp", "hidden": [1]},
        "seeds": list(range(lineages)),
        "train": {"epochs": 1, "batch_size": 50},
        "prune": {"iterations": iterations - 1},
        "methods": ["one_shot"],
        "resources": {"max_concurrent": slots, "gpus_per_lineage": 0},
        "wandb": {"mode": "disabled"},
    }


def followed(driver: psutil.Popen, last: int) -> Iterator[Seen]:
    """The driver at the first iteration, at each mark, and when nothing is left to train."""
    assert driver.stderr
    lineages = iterations = 0
    training, marks = 0.0, set(MARKS)
    for line in driver.stderr:
        _, found, told = line.partition(" iteration ")
        if not found or "/" not in told:
            print(line, end="", file=sys.stderr)
            continue
        iterations += 1
        training += float(line.rpartition("(")[2].partition(" s)")[0])
        done = told.startswith(f"{last}/")
        lineages += done
        if iterations == 1 or (done and lineages in marks):
            yield seen(driver, lineages, iterations, training)


def seen(driver: psutil.Popen, lineages: int, iterations: int, training: float) -> Seen:
    with driver.oneshot():
        times, memory = driver.cpu_times(), driver.memory_info().rss
    return Seen(
        lineages, iterations, time.perf_counter(), training, times.user + times.system, memory
    )


def scheduler(lineages: int, iterations: int, slots: int) -> None:
    print("| lineages done | ms of a slot for each iteration | of them the driver's processor "
          "| driver's memory, MB |\n|---|---|---|---|")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scale.yaml"
        file.write_text(json.dumps(sweep(lineages, iterations, slots)))
        began = time.perf_counter()
        with psutil.Popen(
            [*RUN, str(file)], cwd=folder, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        ) as driver:  # fmt: skip
            first = before = None
            for now in followed(driver, iterations - 1):
                if before is None:
                    first = now
                else:
                    count = now.iterations - before.iterations
                    busy = (now.clock - before.clock) * slots - (now.training - before.training)
                    processor = now.processor - before.processor
                    print(f"| {now.lineages:,} | {busy / count * 1e3:.0f} "
                          f"| {processor / count * 1e3:.1f} | {now.memory / 1e6:.0f} |",
                          flush=True)  # fmt: skip
                before = now
        ended = time.perf_counter()
        if driver.returncode or before is None or first is None:
            sys.exit(f"the run ended with {driver.returncode}")
    whole = (before.clock - first.clock) / (before.iterations - first.iterations)
    print(f"\n{slots} at a time; {first.clock - began:.0f} s to the first iteration, "
          f"{before.clock - first.clock:.0f} s to the last mark ({whole * 1e3:.0f} ms for each "
          f"iteration), {ended - before.clock:.0f} s after it")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=["scheduler"])
    parser.add_argument("--lineages", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--slots", type=int, default=2)
    options = parser.parse_args()
    scheduler(options.lineages, options.iterations, options.slots)


if __name__ == "__main__":
    main()
