"""Failures: the lineages that stopped, and why; kept in `failures.json`."""

from collections.abc import Sequence
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


def write_failures(store: Store, sweep: str, failures: Sequence[Failure]) -> None:
    FAILURES.write(store, sweep, [*failures])


def read_failures(store: Store, sweep: str) -> list[Failure]:
    """The failures of the sweep's last run so far; raises Damaged."""
    return FAILURES.read(store, sweep) or []
