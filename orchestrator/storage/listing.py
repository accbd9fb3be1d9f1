"""Listing: the sweeps of a storage, how far each is, and when it was run."""

from dataclasses import dataclass
from typing import Literal

from orchestrator.records.provenance import read_provenance
from orchestrator.records.status import State, status_of
from orchestrator.records.sweep import SweepRecord, read_sweep
from orchestrator.storage.collecting import by_folder
from orchestrator.storage.naming import sweeps_in
from trainables.store import MANIFEST, Damaged, Store
from trainables.store.storage_format import require_ours


@dataclass(frozen=True)
class ListedSweep:
    """A sweep: its state, its lineages and iterations, the bytes of the iterations that are stored,
    shared ones included, and when its first and its last run began.

    Of a `damaged` one, whose record cannot be read, nothing else is known.
    """

    name: str
    state: State | Literal["damaged"]
    lineages: int = 0
    lineages_done: int = 0
    iterations: int = 0
    iterations_stored: int = 0
    bytes: int = 0
    first_run: str | None = None
    last_run: str | None = None


def list_sweeps(store: Store) -> list[ListedSweep]:
    """The sweeps of `store` by name; raises StoreError."""
    require_ours(store)
    sizes = {
        key: sum(files.values())
        for key, files in by_folder(store, "iterations").items()
        if MANIFEST in files
    }
    return [_listed(store, name, sizes) for name in sweeps_in(store)]


def _listed(store: Store, name: str, sizes: dict[str, int]) -> ListedSweep:
    try:
        record = read_sweep(store, name)
    except Damaged:
        record = None
    if record is None:
        return ListedSweep(name, "damaged")
    status = status_of(store, record, sizes)
    first, last = _runs(store, record)
    return ListedSweep(
        name,
        status.state,
        status.lineages,
        status.lineages_done,
        status.iterations,
        status.iterations_stored,
        sum(sizes.get(key, 0) for key in {key for line in record.lineages for key in line.keys}),
        first,
        last,
    )


def _runs(store: Store, record: SweepRecord) -> tuple[str | None, str | None]:
    try:
        runs = read_provenance(store, record.name)
    except Damaged:
        runs = []
    return (runs[0].started_at, runs[-1].started_at) if runs else (None, None)
