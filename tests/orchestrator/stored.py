"""Storages with sweeps in them that nobody trained: real records, and commits of a few bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dying import PutWhole

import trainables.store.store
from orchestrator.records.provenance import add_provenance
from orchestrator.records.recording import record_sweep
from orchestrator.records.sweep import SweepRecord, write_sweep
from orchestrator.run.planning import sweep_lineages, wanted_snapshots
from orchestrator.run.sweep import resolve_datasets
from orchestrator.sweepfile.spec import SweepSpec
from trainables.data import data_roots
from trainables.lineage.identity import snapshot_key
from trainables.lineage.keys import Lineage
from trainables.store import Store, iteration_path, snapshot_path
from trainables.store.files import Files, open_files
from trainables.store.object_files import ObjectFiles
from trainables.store.patience import Patience
from trainables.store.storage_format import mark

SWEEP = {"dataset": "digits", "model": "mlp", "prune": {"iterations": 1}, "methods": ["one_shot"]}
BOTH = ["one_shot", {"name": "lottery_ticket", "rewind": {"step": 3}}]


def open_objects(location: str, mark: str | None = None, patience: Patience | None = None) -> Files:
    """A folder as an object store."""
    return ObjectFiles(PutWhole(Path(location) / "inside"))  # type: ignore[arg-type]


KINDS = {"renaming": open_files, "without_rename": open_objects}
"""What opens a folder: as the file system that it is, and as an object store."""


@contextmanager
def opened_as(kind: str) -> Iterator[None]:
    """While the block runs, all storages are of that kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainables.store.store, "open_files", KINDS[kind])
        yield


def lineages_of(spec: SweepSpec) -> tuple[Lineage, ...]:
    return sweep_lineages(spec, resolve_datasets(spec, data_roots(None, {})))


def snapshots_of(lineages: tuple[Lineage, ...]) -> set[str]:
    """The keys of what a run of `lineages` may keep to rewind to."""
    wanted = wanted_snapshots(lineages).items()
    return {snapshot_key(trunk, step) for trunk, steps in wanted for step in {0} | steps}


def store_sweep(store: Store, name: str, **sections: Any) -> SweepRecord:
    """Have the sweep in `store`, all of it committed, as if a run had been there."""
    spec = SweepSpec.model_validate(SWEEP | {"name": name} | sections)
    lineages = lineages_of(spec)
    record = record_sweep(spec, lineages)
    mark(store)
    write_sweep(store, record)
    add_provenance(store, name, ["prunesweep", "run"])
    for key in keys(record):
        commit(store, iteration_path(key))
    for key in snapshots_of(lineages):
        commit(store, snapshot_path(key))
    store.write(f"tables/iterations-{name}.parquet", b"table")
    store.write(f"tables/manifest-{name}.json", b"{}")
    store.write(f"wandb/{name}/sent/lineage", b"mark")
    return record


def commit(store: Store, path: str) -> None:
    store.commit(path, {"weights": path.encode(), "metrics": b"metrics"})


def keys(record: SweepRecord) -> set[str]:
    return {key for line in record.lineages for key in line.keys}
