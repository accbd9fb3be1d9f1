"""Failures: the lineages that stopped, and why. A run writes its own, `failures-<its id>.json`; in
`failures.json` are those of the runs that are over."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from orchestrator.records.files import RecordFile
from trainables.store import Store


@dataclass(frozen=True)
class Failure:
    """A lineage that stopped, with the traceback of its last attempt. What has `diverged` would do
    so again."""

    lineage: str
    iteration: int
    attempt: int
    traceback: str
    diverged: bool = False


FAILURES = RecordFile("failures.json", TypeAdapter(list[Failure]))


def write_failures(store: Store, sweep: str, failures: Sequence[Failure], run: str) -> None:
    FAILURES.of(run).write(store, sweep, [*failures])


def read_failures(store: Store, sweep: str) -> list[Failure]:
    """The failures that runs of the sweep tell, each lineage once; raises Damaged.

    Others may have trained a lineage meanwhile that is told of here.
    """
    return each_once(file.read(store, sweep) or [] for file in FAILURES.each(store, sweep))


def each_once(told: Iterable[Sequence[Failure]]) -> list[Failure]:
    """Of what runs tell, the newest first, each lineage once."""
    newest: dict[str, Failure] = {}
    for failures in told:
        for failure in failures:
            newest.setdefault(failure.lineage, failure)
    return [*newest.values()]
