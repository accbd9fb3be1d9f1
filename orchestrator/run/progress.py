"""Progress: what a run is doing, for a terminal, for plain logs and for `status`."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.records.ends import write_ends
from orchestrator.records.failures import Failure, write_failures
from orchestrator.records.heartbeat import (
    AtWork,
    Counts,
    Heartbeat,
    Process,
    Sight,
    write_heartbeat,
)
from orchestrator.records.runs import new_run
from orchestrator.records.sweep import noisy_iterations
from orchestrator.results.rendering import decimals
from orchestrator.run.dividing import Others
from orchestrator.run.pace import Pace
from trainables.lineage.ending import End
from trainables.store import Store, StoreError, StoreSilent
from trainables.store.processes import this_process

if TYPE_CHECKING:
    from orchestrator.run.machines import Cluster
    from orchestrator.run.packing import Packing
    from orchestrator.run.planning import Plan, Task

HEARTBEAT_SECONDS = 5.0
SHOWN_LINEAGES = 16


class Lasting(Console):
    """A console that outlives its reader: the run goes on when its terminal or pipe is gone."""

    def on_broken_pipe(self) -> None:
        pass


@dataclass
class Running:
    """A lineage at work: its last committed iteration and, when that was trained on real data, its
    test accuracy. `since` it was begun, `at_it` is when its iteration was."""

    attempt: int
    last: int
    left: int
    since: float
    at_it: float
    iteration: int | None = None
    accuracy: float | None = None
    density: float | None = None


@dataclass
class RunProgress:
    """Follows a run: an observer of its events that writes its heartbeat and draws a view. `run` is
    the run's id.

    With a terminal the view is live; without one, each commit is a line.
    """

    store: Store
    sweep: str
    console: Console
    counts: Counts = field(default_factory=Counts)
    lineages: dict[str, Running] = field(default_factory=dict)
    cluster: Cluster | None = None
    packing: Packing | None = None
    given_up: tuple[Failure, ...] = ()
    run: str = field(default_factory=new_run)
    _names: Mapping[str, str] = field(default_factory=dict)
    _tasks: dict[str, Task] = field(default_factory=dict)
    _pace: Pace = field(default_factory=Pace)
    _others: Others | None = None
    _failures: list[Failure] = field(default_factory=list)
    _ends: list[End] = field(default_factory=list)
    _ended: set[str] = field(default_factory=set)
    _to_train: set[str] = field(default_factory=set)
    _complaints: set[str] = field(default_factory=set)
    _silent: bool = False
    _slots: int = 0
    _sight: Sight | None = None
    _at: Mapping[str, str] = field(default_factory=dict)
    _started: float = 0.0
    _beats: threading.Thread | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def running(self, plan: Plan, names: Mapping[str, str]) -> Iterator[None]:
        """Show the run and keep its heartbeat while the block runs; lineages are shown by what
        `names` has for their ids."""
        self._names = names
        self._begin(plan)
        self.beat()
        try:
            with self._view():
                yield
        finally:
            self.rest()

    def goes_on(self, plan: Plan) -> None:
        """What is left to do is `plan` from now on."""
        with self._lock:
            trained = self.counts.iterations
            self._plan(plan)
            self.counts.iterations = trained
            self.counts.to_train += trained

    def beat(self) -> None:
        """Begin the heartbeat, if that was not done: other terminals see a run in flight."""
        if self._beats is None:
            self._beats = threading.Thread(target=self._beat, daemon=True)
            self._beats.start()

    @property
    def has_begun(self) -> bool:
        """Whether other terminals have seen the run in flight."""
        return self._beats is not None

    def rest(self) -> None:
        """End the heartbeat, if it was begun: the run is over."""
        if self._beats is not None and not self._stop.is_set():
            self._stop.set()
            self._beats.join()
            self._write("ended")

    def tell(self, notices: Iterable[str], facts: Iterable[str] = ()) -> None:
        """Show what the user should know, once each, and what is good to know."""
        for fact in facts:
            with suppress(OSError):
                self.console.print(fact, highlight=False, soft_wrap=True, markup=False)
        for notice in notices:
            self._complain(notice)

    def on(self, cluster: Cluster, packing: Packing) -> None:
        """The run has its cluster, and the lineages their places there."""
        facts = [line for line in (cluster.line, packing.line) if line and self.packing is None]
        self.cluster, self.packing, self._slots = cluster, packing, len(packing.slots)
        self.tell([*cluster.notices, *packing.notices], facts)

    def started(self, lineage: str, attempt: int) -> None:
        now, task = time.monotonic(), self._tasks[lineage]
        last = task.lineage.steps[-1].iteration
        with self._lock:
            left = len(task.lineage.keys) - task.first
            self.lineages[lineage] = Running(attempt, last, left, now, now)
            self.counts.waiting -= 1

    def committed(self, lineage: str, result: dict[str, Any]) -> None:
        now, t = time.monotonic(), result["iteration"]
        on_data = t not in noisy_iterations(self._tasks[lineage].lineage.steps)
        with self._lock:
            self.counts.iterations += 1
            self._pace.committed(now, result["train_seconds"] + result["prune_seconds"])
            shown = self.lineages[lineage]
            shown.iteration, shown.left, shown.at_it = t, shown.last - t, now
            shown.accuracy = result["test_accuracy"] if on_data else None
            shown.density = result["density"]
        accuracy = f"accuracy {decimals(result['test_accuracy'], 4)}"
        self._line(
            f"{self._name(lineage)} iteration {t}/{shown.last} "
            f"{accuracy if on_data else 'on random data'} "
            f"density {decimals(result['density'], 4, significant=3)} "
            f"({result['train_seconds']:.1f} s)"
        )

    def measured(self, lineage: str, measure: str, iteration: int) -> None:
        self._line(f"{self._name(lineage)} iteration {iteration}: {measure} measured")

    def gave_way(self, lineage: str) -> None:
        with self._lock:
            self.lineages.pop(lineage, None)
            self.counts.waiting += 1

    def dropped(self, lineage: str) -> None:
        with self._lock:
            if self.lineages.pop(lineage, None) is None:
                self.counts.waiting -= 1
        self._line(f"{self._name(lineage)} is trained no further, as asked")

    def ended(self, end: End) -> None:
        keys = self._tasks[end.lineage].lineage.keys
        behind = self._to_train.intersection(keys[keys.index(end.key) + 1 :])
        with self._lock:
            self._to_train -= behind
            self.counts.to_train -= len(behind)
        self.ranked([end])

    def ranked(self, ends: Iterable[End]) -> None:
        """These lineages have ended, as far as that is news."""
        new = [end for end in ends if end.lineage not in self._ended]
        if not new:
            return
        for end in new:
            self._line(f"{self._name(end.lineage)} ends with iteration {end.iteration}: {end.why}")
        self._ended.update(end.lineage for end in new)
        self._ends += new
        try:
            write_ends(self.store, self.sweep, self._ends, self.run)
        except (OSError, StoreError) as error:
            self._complain(f"cannot write where lineages end: {error}")

    def finished(self, lineage: str) -> None:
        with self._lock:
            self.lineages.pop(lineage, None)
            self.counts.done += 1

    def failed(self, failure: Failure, retried: bool) -> None:
        with self._lock:
            was_running = self.lineages.pop(failure.lineage, None) is not None
            if retried:
                self.counts.waiting += 1
            else:
                self.counts.failed += 1
                self.counts.waiting -= 0 if was_running else 1
        if not retried:
            self._record(failure)
        reason = failure.traceback.strip().splitlines()[-1] if failure.traceback else ""
        what = "will be tried again" if retried else "failed"
        name = self._name(failure.lineage)
        self._line(f"{name} ({failure.lineage}) {what} at iteration {failure.iteration}: {reason}")

    def _name(self, lineage: str) -> str:
        return self._names.get(lineage, lineage)

    def _record(self, failure: Failure) -> None:
        """Keep the failure at once: this process may not live to the end of the run."""
        self._failures.append(failure)
        try:
            write_failures(self.store, self.sweep, self._failures, self.run)
        except (OSError, StoreError) as error:
            self._complain(f"cannot write the failures: {error}")

    def noticed(self, line: str) -> None:
        with suppress(OSError):
            self.console.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)

    def has_room(self, trials: int) -> None:
        with self._lock:
            self._slots = trials

    def sees(self, sight: Sight, at: Mapping[str, str]) -> None:
        with self._lock:
            self._sight, self._at = sight, at

    def stopping(self) -> None:
        self.console.print(
            "stopping when the iterations in flight are committed; press Ctrl-C again to stop now",
            soft_wrap=True,
        )

    def leaving(self) -> None:
        self.console.print("told to go: keeping the state of what is in flight", soft_wrap=True)

    def eta_seconds(self) -> float | None:
        """Seconds to the end at the pace so far, with what other runs in flight train; None before
        the first commit."""
        others = self._others
        if others is None:
            return None
        with self._lock:
            at_work = [
                (line.at_it, min(line.left, self._missing(name, others)))
                for name, line in self.lineages.items()
            ]
            to_train = self.counts.to_train - others.theirs
            return self._pace.left(
                time.monotonic(), to_train, self._slots, at_work, others.per_second
            )

    def _missing(self, lineage: str, others: Others) -> int:
        """How many iterations of a lineage nobody had committed when others were looked at."""
        return sum(key not in others.there for key in self._tasks[lineage].lineage.keys)

    def __rich__(self) -> Group:
        """The live view, drawn anew several times a second."""
        with self._lock:
            running = {self._name(id): line for id, line in self.lineages.items()}
            counts = replace(self.counts)
        bar = Table.grid()
        bar.add_row(ProgressBar(max(counts.to_train, 1), counts.iterations, width=60))
        return Group(self._headline(counts, len(running)), bar, _running_table(running))

    def _begin(self, plan: Plan) -> None:
        self._started = time.monotonic()
        self._ended = {*plan.ends}
        self._plan(plan)

    def _plan(self, plan: Plan) -> None:
        self._tasks = {task.lineage.id: task for task in plan.tasks}
        self._to_train = {*plan.to_train}
        self._others = Others(self.store, self.sweep, self.run, frozenset(plan.to_train))
        self.counts = Counts(
            lineages=len(plan.lineages),
            done=plan.complete,
            failed=len(self.given_up) + len(self._failures),
            waiting=len(plan.tasks),
            to_train=len(plan.to_train),
        )

    @contextmanager
    def _view(self) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        live = Live(self, console=self.console, refresh_per_second=4, transient=True)
        with suppress(OSError):
            live.start()
        try:
            yield
        finally:
            with suppress(OSError):
                live.stop()

    def _headline(self, counts: Counts, running: int) -> Text:
        if self.cluster is None:
            return Text.assemble((self.sweep, "bold"), "  starting Ray…")
        eta = self.eta_seconds()
        cpus = f"CPU {psutil.cpu_percent():.0f}%"
        gpus = f" · {self.cluster.gpus} GPUs" if self.cluster.gpus else ""
        return Text.assemble(
            (self.sweep, "bold"),
            f"  {counts.iterations}/{counts.to_train} iterations · lineages: {counts.done} done, ",
            f"{running} running, {counts.waiting} waiting, ",
            (f"{counts.failed} failed", "red" if counts.failed else ""),
            f"\n{duration(time.monotonic() - self._started)} elapsed, ",
            f"{duration(eta)} left · {self._slots} slots{self._beside()} · {cpus}{gpus}",
        )

    def _beside(self) -> str:
        runs = self._others.runs if self._others else 0
        return f" beside {runs} other {'run' if runs == 1 else 'runs'}" if runs else ""

    def _complain(self, text: str) -> None:
        if text in self._complaints:
            return
        self._complaints.add(text)
        with suppress(OSError):
            self.console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text, highlight=False, soft_wrap=True)

    def _beat(self) -> None:
        self._write("running")
        while not self._stop.wait(HEARTBEAT_SECONDS):
            if self._others is not None:
                self._others.look(self.counts.iterations)
            self._write("running")

    def _write(self, state: str) -> None:
        eta_seconds = self.eta_seconds()
        with self._lock:
            heartbeat = Heartbeat(
                state=state,
                host=socket.gethostname(),
                pid=os.getpid(),
                process=Process(**this_process()),
                heartbeat=datetime.now(UTC).isoformat(),
                counts=replace(self.counts),
                running={
                    name: AtWork(
                        iteration=r.iteration,
                        accuracy=r.accuracy,
                        attempt=r.attempt,
                        node=self._at.get(name),
                    )
                    for name, r in self.lineages.items()
                },
                eta_seconds=eta_seconds,
                packing=self.packing and self.packing.line,
                per_second=self._pace.per_second(time.monotonic()),
                sight=self._sight,
            )
        try:
            write_heartbeat(self.store, self.sweep, heartbeat, self.run)
            if self._silent:
                self._silent = False
                self.tell((), ["the storage answers again"])
        except StoreSilent:
            if not self._silent:
                self._silent = True
                where = self.store.location
                self.tell((), [f"storage {where} does not answer; lineages at work wait for it"])
        except (OSError, StoreError) as error:
            # Losing the heartbeat costs a view from another terminal, and no result.
            self._complain(f"cannot write the heartbeat: {error}")


def duration(seconds: float | None) -> str:
    """Seconds as people read them: 42s, 3m05s, 2h10m, 4d03h; ? when unknown."""
    if seconds is None:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02}h"
    if hours:
        return f"{hours}h{m:02}m"
    return f"{m}m{s:02}s" if minutes else f"{s}s"


def _running_table(running: dict[str, Running]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("lineage", "iteration", "density", "accuracy", "attempt", "for"):
        table.add_column(heading, justify="left" if heading == "lineage" else "right")
    for name, line in list(running.items())[:SHOWN_LINEAGES]:
        table.add_row(
            name,
            "–" if line.iteration is None else f"{line.iteration}/{line.last}",
            "–" if line.density is None else decimals(line.density, 4, significant=3),
            "–" if line.accuracy is None else decimals(line.accuracy, 4),
            str(line.attempt),
            duration(time.monotonic() - line.since),
        )
    if len(running) > SHOWN_LINEAGES:
        table.add_row(f"and {len(running) - SHOWN_LINEAGES} more")
    return table
