"""Spending: what the runs of a sweep have trained. A run writes its own, `spent-<its id>.json`; in
`spent.json` is that of the runs that are over, by run, so that nothing counts twice."""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import TypeAdapter

from orchestrator.records.files import RecordFile
from trainables.store import Damaged, Store


@dataclass(frozen=True)
class Spent:
    """Trainings that were committed, and the seconds that they took, of a lineage and of a GPU."""

    trainings: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.trainings + other.trainings,
            self.seconds + other.seconds,
            self.gpu_seconds + other.gpu_seconds,
        )


SPENDING = RecordFile("spent.json", TypeAdapter(dict[str, Spent]))


def write_spending(store: Store, sweep: str, run: str, spent: Spent) -> None:
    SPENDING.of(run).write(store, sweep, {run: spent})


def read_spending(store: Store, sweep: str) -> dict[str, Spent]:
    """What each run of the sweep has spent, by run; what cannot be read is not known."""
    return by_run(_read(file, store, sweep) for file in SPENDING.each(store, sweep))


def by_run(told: Iterable[dict[str, Spent]]) -> dict[str, Spent]:
    """Of what is told, the newest first, the newest of each run."""
    return {run: spent for each in reversed([*told]) for run, spent in each.items()}


def _read(file: RecordFile[dict[str, Spent]], store: Store, sweep: str) -> dict[str, Spent]:
    try:
        return file.read(store, sweep) or {}
    except Damaged:
        return {}
