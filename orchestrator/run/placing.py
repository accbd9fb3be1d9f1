"""Placing: how many trials there is room for as nodes come and go, and whose fault it was that one
ended."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.run.capacity import Room, Slot
from orchestrator.run.machines import Cluster, Node
from orchestrator.run.nodes import LOOK_SECONDS, Nodes
from orchestrator.run.occupancy import Occupancy
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
    """A trial that failed: why, which of its lineages were stuck, on which node it was, and of how
    many seconds it had told nothing."""

    trial: str
    cause: Cause
    stuck: Collection[str]
    node: str | None
    seconds: float
    since: float = field(default_factory=time.monotonic)


@dataclass
class Placing:
    """Gives trials their places, and the queue's lineages back to it when they end badly.

    `lay` gives the slots on a cluster; `occupancy` is that of the whole run. All is called
    from one thread.
    """

    queue: Queue
    nodes: Nodes
    room: Room
    lay: Callable[[Cluster], tuple[Slot, ...]]
    occupancy: Occupancy = field(default_factory=Occupancy)
    wait_seconds: float = WAIT_SECONDS
    _at: dict[str, str | None] = field(default_factory=dict)
    _ended: list[Ended] = field(default_factory=list)
    _alone_since: float | None = None
    _told: float = float("-inf")
    _slots_of: dict[tuple[int, int], int] = field(default_factory=dict)

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
            self._lose(node)
        if came or lost:
            self._lay()
        for node in came:
            count = len(self.room.slots)
            self.queue.notice(f"node {node.name} has joined: {count} trials at a time from now on")
        self._settle()
        self._wait()
        # Only where a slot is free: who has a budget looks into the storage for it.
        why = "nothing" if self.room.full else self.queue.lacks
        self.occupancy.room(len(self.room.slots), why)
        if time.monotonic() - self._told >= LOOK_SECONDS:
            self._tell()

    def close(self) -> None:
        """No trial is left."""
        self.occupancy.close()
        self._at = {}
        self._tell()

    def place(self, trial: str, bundle: Collection[Attempt]) -> tuple[Slot, frozenset[str]]:
        """The slot of a trial for which there is room, and the nodes that it is not to be on."""
        avoided = {node for attempt in bundle for node in attempt.avoided}
        self.occupancy.placed(trial)
        return self.room.take(trial), self.nodes.without(avoided)

    def started(self, trial: str, node: str | None) -> None:
        """The trial has its resources, on `node` as far as is known."""
        self._at[trial] = node
        self.occupancy.started(trial)

    def reported(self, trial: str, result: Mapping[str, Any]) -> None:
        """The trial has told of all its lineages."""
        reports = result["reports"].values()
        claimed = bool(reports) and all(each.get("claimed_elsewhere") for each in reports)
        self.occupancy.reported(trial, claimed=claimed, silent=result.get("silent", 0.0))
        node = self._at.get(trial)
        if node is not None:
            self.nodes.began(node)

    def ended(self, trial: str) -> None:
        self._at.pop(trial, None)
        self.occupancy.ended(trial)

    def failed(self, trial: str, cause: Cause, stuck: Mapping[str, str], node: str | None) -> None:
        """A trial, or its worker, failed as a whole: on `node`, where it has not started."""
        at = self._at.pop(trial, None)
        kept = cause.interrupted or self.queue.leaving
        seconds = self.occupancy.ended(
            trial, "training" if kept else "starting" if cause.unfit else "lost"
        )
        self._ended.append(Ended(trial, cause, stuck, at or node, seconds))
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

    def _lose(self, node: Node) -> None:
        trials = {trial: self.occupancy.untold(trial) for trial, at in self._at.items()
                  if at == node.id}  # fmt: skip
        trials |= {end.trial: end.seconds for end in self._ended if end.node == node.id}
        count = sum(len(self.queue.lineages_of(trial)) for trial in trials)
        self.occupancy.lost(node.name, count, sum(trials.values()))
        back = f"{count} {'lineage goes' if count == 1 else 'lineages go'} back to the queue"
        self.queue.notice(f"node {node.name} was lost; {back}")

    def _tell(self) -> None:
        """Say what there is and who is where, now and then: it takes as long as there are nodes."""
        self._told = time.monotonic()
        nodes = self.nodes.alike(self._slots_on)
        at = {
            lineage: self.nodes.label(node)
            for trial, node in self._at.items()
            if node is not None
            for lineage in self.queue.lineages_of(trial)
        }
        self.queue.see(self.occupancy.sight(nodes), at)

    def _slots_on(self, node: Node) -> int:
        kind = node.cpus, node.gpus
        if kind not in self._slots_of:
            self._slots_of[kind] = len(self.lay(Cluster.of([node])))
        return self._slots_of[kind]

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
