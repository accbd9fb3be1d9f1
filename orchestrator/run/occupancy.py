"""Occupancy: what became of the time of a run's slots, and of its nodes. It knows nothing of
Ray."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from orchestrator.records.heartbeat import (
    LAST_LOST,
    AlikeNodes,
    LostNode,
    Sight,
    SlotTime,
    Use,
)

CLAIMED_SECONDS = 5.0
"""Who waits for another run's claim says so every second: one that has been silent for longer has
got it, and trains."""


@dataclass
class _Trial:
    """What a trial is at, and `since` when its time is not yet counted."""

    use: Use
    since: float


@dataclass
class Occupancy:
    """Counts the seconds of every slot, each under one `Use`, by what trials tell and by why slots
    are free. All is called from one thread.

    What a trial did between two reports the later one says; until then it is taken to train.
    """

    clock: Callable[[], float] = time.monotonic
    _seconds: defaultdict[Use, float] = field(default_factory=lambda: defaultdict(float))
    _trials: dict[str, _Trial] = field(default_factory=dict)
    _slots: int = 0
    _why: Use = "nothing"
    _free_since: float = 0.0
    _lost: list[LostNode] = field(default_factory=list)
    _lost_in_all: int = 0

    def room(self, slots: int, why: Use) -> None:
        """There are so many slots from now on; those without a trial are idle for this reason."""
        self._count_free()
        self._slots, self._why = slots, why

    def placed(self, trial: str) -> None:
        """The trial has a slot, and waits for its worker there."""
        self._count_free()
        self._trials[trial] = _Trial("starting", self.clock())

    def started(self, trial: str) -> None:
        if trial in self._trials:
            self._count(trial, "starting")
            self._trials[trial].use = "training"

    def reported(self, trial: str, *, claimed: bool, silent: float) -> None:
        """The trial has done something, or all of its lineages were claimed by another run; for
        so many `silent` seconds of it the storage did not answer."""
        if trial in self._trials:
            use: Use = "claimed" if claimed else "training"
            self._count(trial, use, silent)
            self._trials[trial].use = use

    def ended(self, trial: str, use: Use = "training") -> float:
        """The trial has left its slot; how many seconds it had not told of, which went to `use`."""
        if trial not in self._trials:
            return 0.0
        self._count_free()
        seconds = self._count(trial, use if self._trials[trial].use != "starting" else "starting")
        del self._trials[trial]
        return seconds

    def untold(self, trial: str) -> float:
        """How many seconds the trial has been at what it has not told of."""
        found = self._trials.get(trial)
        return 0.0 if found is None or found.use == "starting" else self.clock() - found.since

    def lost(self, node: str, lineages: int, seconds: float) -> None:
        """A node was lost, with what its trials had not told of, so many seconds."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        told = LostNode(name=node, at=at, lineages=lineages, seconds=round(seconds, 1))
        self._lost = [*self._lost, told][-LAST_LOST:]
        self._lost_in_all += 1

    def close(self) -> None:
        """There are no slots any more."""
        for trial in [*self._trials]:
            self.ended(trial)
        self.room(0, "nothing")

    def sight(self, nodes: list[AlikeNodes]) -> Sight:
        """What there is to tell, where these nodes are there."""
        return Sight(
            nodes=nodes, slots=self.slots(), lost=self._lost, lost_in_all=self._lost_in_all
        )

    def slots(self) -> SlotTime:
        """The slots now, and all of their time so far."""
        self._count_free()
        now, seconds = Counter[Use](), self._seconds.copy()
        for trial in self._trials.values():
            open_ = self.clock() - trial.since
            waits = trial.use != "claimed" or open_ < CLAIMED_SECONDS
            use: Use = trial.use if waits else "training"
            now[use] += 1
            seconds[use] += open_
        if self._free:
            now[self._why] += self._free
        rounded = {use: round(spent, 1) for use, spent in seconds.items()}
        return SlotTime(now={**now}, seconds={use: s for use, s in rounded.items() if s})

    @property
    def _free(self) -> int:
        # A node takes its slots with it before its trials are known to have ended.
        return max(0, self._slots - len(self._trials))

    def _count_free(self) -> None:
        now = self.clock()
        if self._free:
            self._seconds[self._why] += self._free * (now - self._free_since)
        self._free_since = now

    def _count(self, trial: str, use: Use, silent: float = 0.0) -> float:
        found, now = self._trials[trial], self.clock()
        seconds, found.since = now - found.since, now
        silent = min(silent, seconds)
        self._seconds[use] += seconds - silent
        if silent:
            self._seconds["storage"] += silent
        return seconds
