"""Nodes: which a cluster has, which come and go, and which are of no use to a run."""

import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from orchestrator.records.heartbeat import AlikeNodes
from orchestrator.run.machines import Cluster, Node

LOOK_SECONDS = 2.0
"""Between two looks at the cluster."""
STRIKES = 3
"""So many trials in a row cannot begin on a node before it is left out."""


@dataclass
class Nodes:
    """The nodes of a run's cluster. `look` gives all that there are and have been.

    The `unsound` are left out, by their ids. So are those on which trials cannot begin, as long as
    there are others: `strikes` counts how many could not in a row.
    """

    look: Callable[[], Sequence[Node]]
    unsound: frozenset[str] = frozenset()
    _known: dict[str, Node] = field(default_factory=dict)
    _names: Counter[str] = field(default_factory=Counter)
    _strikes: Counter[str] = field(default_factory=Counter)
    _looked: float = float("-inf")

    def refresh(self) -> tuple[list[Node], list[Node]]:
        """Look again where it is time: those that came since, and those that were lost."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return [], []
        known, self._known = self._known, {node.id: node for node in self.look()}
        self._looked = time.monotonic()
        self._names = Counter(node.name for node in self._known.values() if node.alive)
        there = {id for id, node in known.items() if node.alive}
        came = [node for id, node in self._known.items() if node.alive and id not in there]
        lost = [node for id, node in self._known.items() if not node.alive and id in there]
        return came, lost

    @property
    def left_out(self) -> frozenset[str]:
        """The nodes to which nothing is handed out, by their ids."""
        sound = self._alive - self.unsound
        out = {id for id in sound if self._strikes[id] >= STRIKES}
        return (self._alive & self.unsound) | (out if out < sound else frozenset())

    @property
    def _alive(self) -> frozenset[str]:
        return frozenset(id for id, node in self._known.items() if node.alive)

    @property
    def cluster(self) -> Cluster:
        """What there is to train on."""
        out = self.left_out
        return Cluster.of(node for node in self._known.values() if node.id not in out)

    def without(self, avoided: Collection[str]) -> frozenset[str]:
        """Those that a trial is not to be on, which is better not on the `avoided` either."""
        both = self.left_out | (self._alive & {*avoided})
        return both if both < self._alive else self.left_out

    def name(self, id: str) -> str:
        return self._known[id].name if id in self._known else id

    def label(self, id: str) -> str:
        """The name of a node, and where others that are there have it too, a part of its id."""
        alone = self._names[self.name(id)] <= 1
        return self.name(id) if alone else f"{self.name(id)} ({id[:8]})"

    def alike(self, slots_of: Callable[[Node], int]) -> list[AlikeNodes]:
        """The nodes that are there, those that are alike together; `slots_of` is asked of one of
        each kind, and what is left out has none."""
        out, kinds = self.left_out, dict[tuple[int, int, bool], AlikeNodes]()
        for node in (node for node in self._known.values() if node.alive):
            kind = node.cpus, node.gpus, node.id in out
            if kind not in kinds:
                slots = 0 if node.id in out else slots_of(node)
                kinds[kind] = AlikeNodes(cpus=node.cpus, gpus=node.gpus, slots=slots, names={})
            kinds[kind].names[self.label(node.id)] = node.listens[0]
        return [*kinds.values()]

    def is_lost(self, id: str) -> bool | None:
        """Whether a node is lost; None where it does not answer and the cluster says nothing."""
        node = self._known.get(id)
        if node is None:
            return False
        if not node.alive:
            return True
        try:
            socket.create_connection(node.listens, timeout=0.5).close()
        except OSError:
            return None
        return False

    def began(self, id: str) -> None:
        """A lineage could be trained there."""
        self._strikes.pop(id, None)

    def could_not_begin(self, id: str) -> bool:
        """None could; whether others are there that may be better."""
        self._strikes[id] += 1
        others = self._alive - self.unsound - {id}
        return any(self._strikes[other] < STRIKES for other in others)
