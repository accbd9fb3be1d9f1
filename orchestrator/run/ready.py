"""What is ready to be trained, in the order in which it is handed out."""

import heapq
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.run.planning import Task

UNLIMITED = 2**31


@dataclass(frozen=True)
class Attempt:
    """The `number`th attempt at a task, from 1, on a share of a GPU; 0 is the CPU.

    `failures` are those that count against its retries, `excused` how many since its last commit
    do not, of which some were on nodes that are better `avoided`. It shares a trial with others of
    its kind, `together` of them at most; a `suspect` of a worker's death with none, until it has
    committed.
    """

    task: Task
    number: int
    gpus: float
    failures: int = 0
    together: int = UNLIMITED
    suspect: bool = False
    excused: int = 0
    avoided: frozenset[str] = frozenset()

    @property
    def next(self) -> "Attempt":
        """The one after this."""
        return replace(self, number=self.number + 1)

    @property
    def most(self) -> int:
        """How many may share its trial, itself among them."""
        return 1 if self.suspect else self.together


def kind_of(task: Task) -> Hashable:
    """What lineages share that can be trained together: dataset, model and recipe, and whether
    the masks stay as they are in a training."""
    cell = task.lineage.cell
    changing = cell.method.changes_masks and cell.method.name
    elsewhere = cell.ablation and cell.ablation.elsewhere
    return cell.dataset, cell.model, cell.train, changing, elsewhere


@dataclass
class Ready:
    """Attempts, those of the most urgent lineages first, and of them the longest: what ends last
    should not begin last.

    `largest` says how many of a kind go into one trial; 1 of those that it does not name. `urgency`
    has the most urgent lineages from 0, by their ids; who is not there comes last.
    """

    largest: Mapping[Hashable, int] = field(default_factory=dict)
    urgency: Mapping[str, int] = field(default_factory=dict)
    _by_kind: dict[Hashable, list[tuple[tuple[int, int, int], Attempt]]] = field(
        default_factory=dict
    )
    _added: int = 0

    def __bool__(self) -> bool:
        return bool(self._by_kind)

    def add(self, attempt: Attempt) -> None:
        self._added += 1
        lineage = attempt.task.lineage
        left = len(lineage.keys) - attempt.task.first
        place = (self.urgency.get(lineage.id, len(self.urgency)), -left, self._added)
        heapq.heappush(self._by_kind.setdefault(self._kind(attempt), []), (place, attempt))

    def remove(self, lineages: Collection[str]) -> list[Attempt]:
        """Take out the attempts at some lineages."""
        removed = []
        for kind, waiting in list(self._by_kind.items()):
            out = [each for _, each in waiting if each.task.lineage.id in lineages]
            if out:
                removed += out
                rest = [entry for entry in waiting if entry[1] not in out]
                heapq.heapify(rest)
                self._by_kind[kind] = rest
                if not rest:
                    del self._by_kind[kind]
        return removed

    def take(self, trials: int, most: int = UNLIMITED) -> tuple[Attempt, ...]:
        """A bundle of attempts for one of as many `trials` as are free: all of one kind are divided
        among them; `most` are taken."""
        kind = min(self._by_kind, key=lambda kind: self._by_kind[kind][0])
        waiting = self._by_kind[kind]
        size = min(most, self._size(waiting[0][1], len(waiting), trials))
        bundle = tuple(heapq.heappop(waiting)[1] for _ in range(size))
        if not waiting:
            del self._by_kind[kind]
        return bundle

    def bundle_size(self, attempt: Attempt, busy: int, trials: int) -> int:
        """How many would be in a trial with `attempt` if its `busy` lineages were taken back and
        handed out again to one of `trials`."""
        waiting = len(self._by_kind.get(self._kind(attempt), ()))
        return self._size(attempt, busy + waiting, trials) if waiting else busy

    def _size(self, attempt: Attempt, waiting: int, trials: int) -> int:
        largest = min(attempt.most, self.largest.get(kind_of(attempt.task), 1))
        return max(1, min(largest, -(-waiting // max(1, trials))))

    def _kind(self, attempt: Attempt) -> Hashable:
        return kind_of(attempt.task), attempt.gpus, attempt.most
