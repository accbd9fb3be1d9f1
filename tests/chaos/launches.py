"""Launches: `prunesweep run` as a child, the processes it starts, and how they are killed."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

COMMAND = str(Path(sys.executable).with_name("prunesweep"))
LOOK_SECONDS = 0.1
RAY_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "/workers/default_worker.py ")
"""Ray's own, and workers that have not joined yet: they wait a minute for a cluster that is dead,
and touch no storage."""


class Stuck(Exception):
    """A launch did not come to what was waited for."""


@dataclass
class Launch:
    """One `prunesweep run`; `family` is every process it has been seen to have, itself included.

    Times are those of `time.monotonic`. `training_since` is when its first worker began to train
    and `ended` when it was seen to have ended, to LOOK_SECONDS; `gone` is how many seconds after
    that its engine (workers, raylet, GCS) and Ray's agents were. `worked_seconds` are those its
    workers spent in iterations, all workers together.
    """

    process: subprocess.Popen[bytes]
    began: float
    log: Path
    family: dict[int, psutil.Process]
    training_since: float | None = None
    ended: float | None = None
    gone: dict[str, float] = field(default_factory=dict)
    worked_seconds: float = 0.0
    _looked: float = 0.0

    @property
    def driver(self) -> psutil.Process:
        return self.family[self.process.pid]

    @property
    def running(self) -> bool:
        if self.process.poll() is None:
            return True
        self.ended = self.ended or time.monotonic()
        return False

    def look(self) -> None:
        """Take note of new processes, and of who trains."""
        now = time.monotonic()
        since, self._looked = self._looked or self.began, now
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in self.driver.children(recursive=True):
                self.family.setdefault(child.pid, child)
        training = self.training()
        self.worked_seconds += training * (now - since)
        if training and self.training_since is None:
            self.training_since = now

    def is_training(self) -> bool:
        return self.training() > 0

    def training(self) -> int:
        """How many workers are in an iteration."""
        return sum("Trainable.train" in _title(worker) for worker in self.workers())

    def workers(self) -> list[psutil.Process]:
        """The actors that train; Ray puts their class in their titles."""
        return [
            process
            for process in self.alive()
            if _title(process).startswith("ray::") and "Trainable" in _title(process)
        ]

    def raylets(self) -> list[psutil.Process]:
        return [process for process in self.alive() if "/raylet/raylet " in _title(process)]

    def alive(self) -> list[psutil.Process]:
        return [process for process in self.family.values() if _is_alive(process)]

    def until(self, condition: Callable[[], bool], seconds: float, tick: float = 0.02) -> bool:
        """Wait for `condition`; False when the run has ended first. Raises Stuck."""
        deadline = time.monotonic() + seconds
        while not condition():
            if not self.running:
                return False
            if time.monotonic() > deadline:
                raise Stuck(f"waited {seconds:g} s in vain; see {self.log}")
            if time.monotonic() - self._looked > LOOK_SECONDS:
                self.look()
            time.sleep(tick)
        return self.running

    def pause(self, seconds: float) -> None:
        """Let `seconds` go by, or the rest of the run."""
        over = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= over, seconds + 60)

    def note_the_dead(self) -> None:
        """After the end: note since when its engine and Ray's agents are gone."""
        if self.ended is None or len(self.gone) == 2:
            return
        titles = {_title(process) for process in self.alive()}
        agents = {title for title in titles if any(agent in title for agent in RAY_AGENTS)}
        for kind, left in (("engine", titles - agents), ("agents", agents)):
            if not left:
                self.gone.setdefault(kind, time.monotonic() - self.ended)


def start(command: Sequence[str], folder: Path, log: Path) -> Launch:
    """Start `prunesweep` in `folder`, with temporary and Ray's files inside it; `log` gets what it
    says. Ray makes sockets there, so the folder's path has to be short."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    places = {"TMPDIR": str(scratch), "RAY_TMPDIR": str(folder)}
    with open(log, "wb") as words:
        process = subprocess.Popen(
            [COMMAND, *command], cwd=folder, env=os.environ | places, stdout=words, stderr=words
        )
    return Launch(process, time.monotonic(), log, {process.pid: psutil.Process(process.pid)})


def kill(victims: Iterable[psutil.Process]) -> list[int]:
    """SIGKILL, one right after the other; the pids of those that were still there."""
    killed = []
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
            killed.append(victim.pid)
    return killed


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline()).strip()
    return ""
