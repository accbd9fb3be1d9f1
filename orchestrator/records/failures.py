"""Failures: the lineages that stopped, and why; kept in `failures.json` of their sweep."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from orchestrator.records.written import read_written
from trainables.store import Store, sweep_path


@dataclass(frozen=True)
class Failure:
    """A lineage that stopped, with the traceback of its last attempt."""

    lineage: str
    iteration: int
    attempt: int
    traceback: str


def write_failures(store: Store, sweep: str, failures: Sequence[Failure]) -> None:
    store.write_json(_path(sweep), [asdict(failure) for failure in failures])


def read_failures(store: Store, sweep: str) -> list[Failure]:
    """The failures of the sweep's last run so far; raises Damaged."""
    return read_written(store, _path(sweep), list[Failure]) or []


def _path(sweep: str) -> str:
    return f"{sweep_path(sweep)}/failures.json"
