"""Tormenting: a sweep that is killed, launched again, and killed again."""

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import launches
import psutil
from launches import Launch, Stuck
from schedule import Kill
from watching import POLL_SECONDS, UNKNOWN, Watcher, repeated

PATIENCE_SECONDS = 240.0
"""In which a moment has to come, and a run whose raylet was killed has to end."""

FEW_SECONDS = 30.0
"""In which a dead driver's processes have to go."""


@dataclass(frozen=True)
class Struck:
    """A kill that was carried out, `seconds` into a launch, and what it hit.

    `in_flight` are the iterations that it may have cost; `torn` says that a commit was being
    written by whom it hit.
    """

    kill: Kill
    launch: int
    seconds: float
    committed: int
    in_flight: frozenset[str]
    torn: bool


@dataclass
class Run:
    """All launches of one command, in the folder `root` with the storage `root`/store, or one
    `in_bucket` of which that is a mirror."""

    root: Path
    command: Sequence[str]
    launches: list[Launch] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    wall_seconds: float = 0.0
    in_bucket: bool = False

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True)
        self.store = self.root / "store"
        self.watcher = Watcher(self.store, self.in_bucket)

    @property
    def training_seconds(self) -> float:
        """Over all launches: from when the first worker trains until the last can have trained."""
        spans = [
            self._training_until(number) - launch.training_since
            for number, launch in enumerate(self.launches)
            if launch.training_since is not None
        ]
        return sum(span for span in spans if span > 0)

    @property
    def worked_seconds(self) -> float:
        """What all workers of all launches spent in iterations, those in vain included."""
        return sum(launch.worked_seconds for launch in self.launches)

    def _training_until(self, number: int) -> float:
        """The launch's end or the sweep's last commit. Without its raylet a run waits until it is
        told so; the kill and the commits that came after it count then."""
        launch, commits = self.launches[number], self.watcher.iterations().values()
        ended = launch.ended or time.monotonic()
        for struck in self.struck:
            if struck.launch == number and struck.kill.victim == "raylet":
                later = [at for at in commits if launch.began < at < ended]
                ended = max([launch.began + struck.seconds, *later])
        return min(ended, max(commits))

    def launch(self) -> Launch:
        log = self.root / f"launch-{len(self.launches)}.log"
        self.launches.append(launches.start(self.command, self.root, log))
        return self.launches[-1]

    def note_the_dead(self) -> None:
        for launch in list(self.launches):
            launch.note_the_dead()


def uninterrupted(root: Path, command: Sequence[str]) -> Run:
    """The sweep, left alone. Raises RuntimeError when it does not finish."""
    run = Run(root, command)
    began = time.monotonic()
    with repeated(run.watcher.look, POLL_SECONDS):
        launch = run.launch()
        launch.until(lambda: False, 3600)
    run.wall_seconds = time.monotonic() - began
    if launch.process.returncode != 0:
        raise RuntimeError(f"the sweep fails when left alone: see {launch.log}")
    return run


def under_chaos(run: Run, kills: Sequence[Kill], iterations: int, random: Random) -> Run:
    """The sweep of `iterations` iterations, launched again until it has gone through `kills` and
    ends with exit code 0."""
    pending = list(kills)
    began = time.monotonic()
    with repeated(run.watcher.look, POLL_SECONDS), repeated(run.note_the_dead, 0.5):
        for _ in range(2 * len(kills) + 5):
            launch = run.launch()
            try:
                _torment(run, launch, pending, iterations, random)
            except Stuck as stuck:
                run.problems.append(f"launch {len(run.launches) - 1}: {stuck}")
                launches.kill(launch.alive())
                launch.process.wait()
            if not pending and launch.process.returncode == 0:
                break
            _rest(launch, random)
        else:
            run.problems.append("the sweep never ended with exit code 0")
        run.wall_seconds = time.monotonic() - began
        # The ticket of a process that still lives is rightly left.
        _wait_for_the_dead(run)
        _once_more(run)
        _wait_for_the_dead(run)
    return run


def _once_more(run: Run) -> None:
    """A finished sweep: nothing is left to train, and leftovers are cleaned away."""
    launch = run.launch()
    launch.until(lambda: False, PATIENCE_SECONDS)
    run.watcher.look_closely()
    if launch.process.returncode != 0 or launch.training_since is not None:
        run.problems.append(f"the finished sweep was not found finished: see {launch.log}")


def _torment(
    run: Run, launch: Launch, pending: list[Kill], iterations: int, random: Random
) -> None:
    """Kill what is due until the launch has ended, by that or by itself."""
    fresh = True
    while pending:
        kill = pending[0]
        if len(run.watcher.iterations()) == iterations:
            # Checks and tables are all that a run still has to do.
            kill = Kill("driver", "start", random.uniform(0.0, 5.0))
        elif kill.moment == "start" and not fresh:
            kill = replace(kill, moment="training")
        writer = _await(run, launch, kill)
        if not launch.running:
            return  # by itself, before the moment came
        if _strike(run, launch, kill, writer, random):
            pending.pop(0)
            fresh = False
    launch.until(lambda: False, 3600)


def _await(run: Run, launch: Launch, kill: Kill) -> int | None:
    """Wait for the moment of `kill`; the pid of who is writing a commit, where that is known."""
    if kill.moment == "start":
        launch.pause(launch.began + kill.delay - time.monotonic())
        return None
    launch.until(lambda: len(run.watcher.iterations()) >= kill.after, PATIENCE_SECONDS)
    # Workers that were killed just before have to be back.
    launch.until(launch.is_training, PATIENCE_SECONDS)
    if kill.moment == "commit":
        writer = _await_commit(run, launch)
        time.sleep(kill.delay)
        return writer
    if kill.moment == "tables" and launch.running:
        _await_tables(run, launch)
    launch.pause(kill.delay)
    return None


def _await_commit(run: Run, launch: Launch) -> int | None:
    """A commit that is being written, and was not before."""
    before, written = run.watcher.being_written(), run.watcher.being_written
    launch.until(lambda: not written() <= before, PATIENCE_SECONDS, 0.002)
    return next((pid for pid, _ in written() - before), None)


def _await_tables(run: Run, launch: Launch) -> None:
    """Interrupt the run: it makes the tables of what there is, having said that it has ended."""
    (record,) = run.store.glob("sweeps/*/run-*.json")
    launch.process.send_signal(signal.SIGINT)
    launch.until(lambda: _says_ended(record), PATIENCE_SECONDS)


def _says_ended(record: Path) -> bool:
    """Of a run whose record is kept with those before it, it is no longer there."""
    try:
        return b'"ended"' in record.read_bytes()
    except FileNotFoundError:
        return True


def _strike(run: Run, launch: Launch, kill: Kill, writer: int | None, random: Random) -> bool:
    """Carry out `kill`, and see the launch end if that ends it; False when nobody was there."""
    workers = {worker.pid for worker in launch.workers()}
    victims = _victims(launch, kill, writer, random)
    before = run.watcher.in_flight()
    killed = set(launches.kill(victims))
    seconds = time.monotonic() - launch.began
    if not killed:
        return False
    run.watcher.look_closely()
    torn = any(pid in killed for pid, _ in run.watcher.being_written())
    if kill.ends_the_launch:
        launch.until(lambda: False, PATIENCE_SECONDS)
    # Workers go on without a raylet, until the driver ends.
    found = [run.watcher.in_flight()] + ([before] if kill.victim != "raylet" else [])
    hit = (workers if kill.ends_the_launch else killed) | {UNKNOWN}
    in_flight = {key for holders in found for key, pids in holders.items() if pids & hit}
    run.struck.append(
        Struck(
            kill, len(run.launches) - 1, seconds, len(run.watcher.iterations()),
            frozenset(in_flight), torn,
        )
    )  # fmt: skip
    _tell(len(run.struck), run.struck[-1])
    return True


def _victims(
    launch: Launch, kill: Kill, writer: int | None, random: Random
) -> list[psutil.Process]:
    workers = launch.workers()
    match kill.victim:
        case "driver":
            return [launch.driver]
        case "raylet":
            return launch.raylets()
        case "workers":
            return workers
        case "driver and workers":
            return [launch.driver, *workers]
        case "worker":
            writing = [worker for worker in workers if worker.pid == writer]
            return writing or random.sample(workers, min(1, len(workers)))


def _rest(launch: Launch, random: Random) -> None:
    """Half of the times the next launch meets what is left of this one."""
    over = time.monotonic() + (FEW_SECONDS if random.random() < 0.5 else 0.0)
    while "engine" not in launch.gone and time.monotonic() < over:
        time.sleep(0.1)


def _wait_for_the_dead(run: Run) -> None:
    deadline = time.monotonic() + FEW_SECONDS
    while time.monotonic() < deadline:
        if all("engine" in launch.gone for launch in run.launches):
            return
        time.sleep(0.1)


def _tell(number: int, struck: Struck) -> None:
    print(
        f"kill {number}: {struck.kill.victim}, {struck.kill.moment}, {struck.seconds:.1f} s into "
        f"launch {struck.launch}; {struck.committed} committed, {len(struck.in_flight)} in flight",
        file=sys.stderr,
        flush=True,
    )
