"""Placing: how many trials there is room for as nodes come and go, and whose fault it was that one
ended."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from orchestrator.run.capacity import Room, Slot
from orchestrator.run.machines import Cluster
from orchestrator.run.nodes import Nodes
from orchestrator.run.queue import Queue
from orchestrator.run.ready import Attempt
from trainables.lineage.cause import Cause

GRACE_SECONDS = 1.0
"""After the death of a worker: its node may be dying with it."""
DOUBT_SECONDS = 120.0
"""How long Ray may take to know that a node which does not answer is lost."""
WAIT_SECONDS = 1800.0
"""How long a run waits for a node that a lineage fits on."""


@dataclass(frozen=True)
class Ended:
    """A trial that failed: why, which of its lineages were stuck, and on which node it was."""

    trial: str
    cause: Cause
    stuck: Collection[str]
    node: str | None
    since: float = field(default_factory=time.monotonic)


@dataclass
class Placing:
    """Gives trials their places, and the queue's lineages back to it when they end badly.

    `lay` gives the slots on a cluster. All is called from one thread.
    """

    queue: Queue
    nodes: Nodes
    room: Room
    lay: Callable[[Cluster], tuple[Slot, ...]]
    wait_seconds: float = WAIT_SECONDS
    _at: dict[str, str | None] = field(default_factory=dict)
    _ended: list[Ended] = field(default_factory=list)
    _alone_since: float | None = None

    def __post_init__(self) -> None:
        # Some may have come since the room was laid out.
        self.nodes.refresh()
        self._lay()

    @property
    def anyone(self) -> bool:
        """Whether a trial has its resources."""
        return bool(self._at)

    def look(self) -> None:
        """Heed what became of nodes; called often."""
        came, lost = self.nodes.refresh()
        for node in lost:
            self.queue.notice(f"node {node.name} was lost; {self._back(node.id)}")
        if came or lost:
            self._lay()
        for node in came:
            count = len(self.room.slots)
            self.queue.notice(f"node {node.name} has joined: {count} trials at a time from now on")
        self._settle()
        self._wait()

    def place(self, trial: str, bundle: Collection[Attempt]) -> tuple[Slot, frozenset[str]]:
        """The slot of a trial for which there is room, and the nodes that it is not to be on."""
        avoided = {node for attempt in bundle for node in attempt.avoided}
        return self.room.take(trial), self.nodes.without(avoided)

    def started(self, trial: str, node: str | None) -> None:
        """The trial has its resources, on `node` as far as is known."""
        self._at[trial] = node

    def reported(self, trial: str) -> None:
        node = self._at.get(trial)
        if node is not None:
            self.nodes.began(node)

    def ended(self, trial: str) -> None:
        self._at.pop(trial, None)

    def failed(self, trial: str, cause: Cause, stuck: Mapping[str, str], node: str | None) -> None:
        """A trial, or its worker, failed as a whole: on `node`, where it has not started."""
        at = self._at.pop(trial, None)
        self._ended.append(Ended(trial, cause, stuck, at or node))
        self._settle()

    def _settle(self) -> None:
        """Tell the queue of what ended when it is known whose fault it was."""
        waiting, self._ended = self._ended, []
        for end in waiting:
            age = time.monotonic() - end.since
            lost = None
            if end.node is None or end.stuck or age > DOUBT_SECONDS:
                lost = False
            elif not end.cause.died or age > GRACE_SECONDS:
                lost = self.nodes.is_lost(end.node)
            if lost is None:
                self._ended.append(end)
            elif lost:
                self.queue.excused(end.trial, end.cause)
            elif end.cause.unfit and end.node is not None:
                self._unfit(end, end.node)
            else:
                self.queue.failed(end.trial, end.cause, end.stuck)

    def _unfit(self, end: Ended, node: str) -> None:
        before = self.nodes.left_out
        if not self.nodes.could_not_begin(node):
            self.queue.failed(end.trial, end.cause)
            return
        self.queue.excused(end.trial, end.cause, node)
        if node in self.nodes.left_out - before:
            self._lay()
            why = end.cause.text.strip().splitlines()[-1]
            self.queue.notice(f"node {self.nodes.name(node)} is left out of this run: {why}")

    def _lay(self) -> None:
        self.room.slots = self.lay(self.nodes.cluster)
        self.queue.has_room(len(self.room.slots))

    def _back(self, node: str) -> str:
        trials = [trial for trial, at in self._at.items() if at == node]
        trials += [end.trial for end in self._ended if end.node == node]
        count = sum(len(self.queue.lineages_of(trial)) for trial in trials)
        return f"{count} {'lineage goes' if count == 1 else 'lineages go'} back to the queue"

    def _wait(self) -> None:
        """Wait for a node where none is left, and not for ever."""
        if self.room.slots or self._at or self.queue.stopping:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
            minutes = f"{self.wait_seconds / 60:.0f} minutes"
            self.queue.notice(
                f"no node is left that a lineage fits on: waiting for one, for up to {minutes}"
            )
        elif time.monotonic() - self._alone_since > self.wait_seconds:
            self.queue.notice("none came: the run ends, and everything committed is safe")
            self.queue.stop()
