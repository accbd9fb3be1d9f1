"""How long commands take to start: those that train nothing, and a `run` until it trains.

CPU seconds are those of all processes, Ray's included; they are the ones to compare where others
use the machine too. A run is watched from outside: its parts show in what it leaves behind.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import psutil

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
SWEEP = {
    "name": "start",
    "dataset": "digits",
    "model": {"name": "mlp", "hidden": [32]},
    "train": {"epochs": 2, "batch_size": 50},
    "prune": {"iterations": 2},
    "methods": ["one_shot"],
    "resources": {"max_concurrent": 1},
    "wandb": {"mode": "disabled"},
}
TURNS = 3
LOOK_SECONDS = 0.01

TRAINING_NOTHING = (
    ("--version",),
    ("--help",),
    ("list", "methods"),
    ("status", "start"),
    ("results", "start"),
    ("results", "start", "--sql", "SELECT count(*) FROM layers"),
    ("verify",),
    ("plan", "start.yaml"),
    ("run", "start.yaml"),
)
"""Asked of a storage that has all of the sweep."""


def main() -> None:
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        (at / "start.yaml").write_text(json.dumps(SWEEP))
        _print_run(_watched(at))
        for command in TRAINING_NOTHING:
            turns = [_alone(at, command) for _ in range(TURNS)]
            cpu, wall = min(turns)
            print(f"{cpu:6.2f} {wall:6.2f}  {' '.join(command)}")
    print(f"load {os.getloadavg()[0]:.1f}")


def _alone(at: Path, command: tuple[str, ...]) -> tuple[float, float]:
    """CPU and wall-clock seconds of a command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([COMMAND, *command], cwd=at, check=True, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


class Watch:
    """A run as its processes and its storage show it."""

    def __init__(self, at: Path) -> None:
        self.storage = at / "prunesweep-store"
        self.started = time.perf_counter()
        nowhere = subprocess.DEVNULL
        self.run = psutil.Popen(
            [COMMAND, "run", "start.yaml"], cwd=at, stdout=nowhere, stderr=nowhere
        )
        self.cpu: dict[int, tuple[str, float]] = {}
        self.marks: list[tuple[str, float, Mapping[str, float]]] = []

    def look(self) -> None:
        """Take down what each process has used."""
        for process in [self.run, *_children(self.run)]:
            try:
                used, kind = process.cpu_times(), _kind(process, self.run)
            except psutil.Error:
                continue
            known, _ = self.cpu.get(process.pid, (kind, 0.0))
            # A process that ends has no command line any more, and one that begins its parent's.
            kind = known if kind == "others" else kind
            self.cpu[process.pid] = (kind, used.user + used.system)

    def spent(self) -> dict[str, float]:
        """CPU seconds by kind of process."""
        found: dict[str, float] = defaultdict(float)
        for kind, seconds in self.cpu.values():
            found[kind] += seconds
        return dict(found)

    def mark(self, what: str) -> None:
        self.marks.append((what, time.perf_counter() - self.started, self.spent()))

    def until(self, what: str, reached: Callable[[], bool]) -> None:
        while self.run.poll() is None and not reached():
            self.look()
            time.sleep(LOOK_SECONDS)
        self.mark(what)


def _watched(at: Path) -> Watch:
    watch = Watch(at)
    watch.until("Ray begins to start", lambda: "GCS" in watch.spent())
    watch.until("a worker begins to start", lambda: "worker" in watch.spent())
    claimed = partial(_any, watch.storage, "claims/[0-9a-f]*/*")
    watch.until("its claim of an iteration: it trains", claimed)
    watch.until("the first commit", lambda: _any(watch.storage, "iterations/*/manifest.json"))
    watch.until("the end", lambda: False)
    assert watch.run.returncode == 0
    return watch


def _any(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _kind(process: psutil.Process, run: psutil.Process) -> str:
    if process.pid == run.pid:
        return "driver"
    said = " ".join(process.cmdline())
    kinds = {
        "gcs_server": "GCS",
        "runtime_env/agent": "runtime-env agent",
        "dashboard/agent": "dashboard agent",
        "dashboard/dashboard": "dashboard",
        "log_monitor": "log monitor",
        "autoscaler": "autoscaler's monitor",
        "default_worker": "worker",
        "ray::": "worker",
        "raylet/raylet": "raylet",
    }
    return next((kind for sign, kind in kinds.items() if sign in said), "others")


def _print_run(watch: Watch) -> None:
    print("   CPU   wall  a run until")
    for what, wall, spent in watch.marks:
        parts = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in sorted(spent.items()))
        print(f"{sum(spent.values()):6.2f} {wall:6.2f}  {what} ({parts})")


if __name__ == "__main__":
    main()
