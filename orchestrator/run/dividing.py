"""Dividing: what runs of one sweep that are in flight at once know of each other. Claims see to it
that nothing is trained twice; this sees to it that they rarely meet."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.records.runs import runs_at_work
from orchestrator.run.planning import Task
from trainables.store import Store, StoreError

SECONDS = 15.0
"""Between two looks at the others."""

REST = 20
"""Looking takes no more than a twentieth of the time."""

Each = TypeVar("Each")


@dataclass
class Others:
    """The other runs in flight of the sweep of a run, as they were when last looked at: how many
    they are, how many iterations they train per second, and which of those that the run has
    `to_train` are there, of which so many are `theirs`."""

    store: Store
    sweep: str
    run: str
    to_train: frozenset[str]
    runs: int = 0
    per_second: float = 0.0
    there: frozenset[str] = frozenset()
    theirs: int = 0
    _met: bool = False
    _rests_until: float = 0.0

    def look(self, trained: int) -> None:
        """Look at them, unless that was done a moment ago; the run itself has `trained` so many."""
        began = time.monotonic()
        if began < self._rests_until:
            return
        with suppress(OSError, StoreError):  # it costs a better estimate
            self._look(trained)
        now = time.monotonic()
        self._rests_until = now + max(SECONDS, REST * (now - began))

    def _look(self, trained: int) -> None:
        others = runs_at_work(self.store, self.sweep)
        others.pop(self.run, None)
        self.runs = len(others)
        self.per_second = sum(beat.per_second or 0.0 for beat in others.values())
        self._met = self._met or bool(others)
        if self._met:
            self.there = self.to_train & {*self.store.names("iterations")}
            self.theirs = max(0, len(self.there) - trained)


def place_among_runs(store: Store, sweep: str, run: str) -> float:
    """Where `run` is to begin, from 0 to 1 of all that there is, so that those in flight are apart;
    0 when it is alone."""
    runs = sorted({*runs_at_work(store, sweep), run})
    return runs.index(run) / len(runs)


def begun_at(tasks: Sequence[Task], place: float) -> tuple[Task, ...]:
    """`tasks` in the order in which a run takes up those that are equally urgent: of what can be
    begun at the same time, from `place` on, and then what is before."""
    at_once: dict[str | None, list[Task]] = {}
    for task in tasks:
        at_once.setdefault(task.after, []).append(task)
    return tuple(task for group in at_once.values() for task in _turned(group, place))


def _turned(group: Sequence[Each], place: float) -> list[Each]:
    first = int(place * len(group))
    return [*group[first:], *group[:first]]
