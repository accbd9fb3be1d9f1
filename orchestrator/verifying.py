"""Verification: every hash of every commit, and every table, against what the store says."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.records import read_sweep
from orchestrator.results.tables import TABLES, table_path
from trainables.store import Damaged, Store, iteration_path

COMMITS = ("iterations", "snapshots")


@dataclass(frozen=True)
class Verified:
    """How much was checked, and what is damaged."""

    commits: int
    tables: int
    damage: tuple[Damaged, ...]


def verify_store(store: Store) -> Verified:
    """Read everything that `store` holds and compare it with its hashes."""
    damage: list[Damaged] = []
    commits = 0
    for folder in COMMITS:
        for name in store.names(folder):
            commits += 1
            damage.extend(commit_damage(store, f"{folder}/{name}"))
    tables = 0
    for sweep in store.names("sweeps"):
        tables += len(TABLES)
        damage.extend(_table_damage(store, sweep))
    return Verified(commits, tables, tuple(damage))


def set_damaged_aside(store: Store, keys: Iterable[str]) -> list[Damaged]:
    """Move the damaged ones of committed iterations to quarantine; what was wrong with each."""

    def first_damage(key: str) -> Damaged | None:
        return next(commit_damage(store, iteration_path(key)), None)

    with ThreadPoolExecutor() as pool:
        damage = [found for found in pool.map(first_damage, keys) if found is not None]
    # Looked at again right before the move: another run may have mended it meanwhile.
    damage = [found for found in damage if next(commit_damage(store, found.path), None)]
    for found in damage:
        store.set_aside(found.path)
    return damage


def commit_damage(store: Store, path: str) -> Iterator[Damaged]:
    """Everything that is wrong with one commit; reads all its files."""
    if not store.is_committed(path):
        yield Damaged(path, "not committed: it has no manifest; `run` trains it again")
        return
    try:
        files = store.manifest(path)["files"]
    except Damaged as error:
        yield error
        return
    for name in files:
        try:
            store.read(path, name)
        except Damaged as error:
            yield error


def _table_damage(store: Store, sweep: str) -> Iterator[Damaged]:
    try:
        record = read_sweep(store, sweep)
    except Damaged as error:
        yield error
        return
    if record is None:
        yield Damaged(f"sweeps/{sweep}", "it has no record of its lineages; run the sweep again")
        return
    for table in TABLES:
        path = table_path(table, sweep)
        try:
            rows = pq.read_table(
                store.absolute(path), filesystem=store.filesystem, page_checksum_verification=True
            ).num_rows
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            yield Damaged(path, f"it cannot be read ({reason}); `run` rebuilds it from the commits")
            continue
        expected = sum(
            store.is_committed(iteration_path(key)) for line in record.lineages for key in line.keys
        )
        if table == "iterations" and rows != expected:
            yield Damaged(
                path, f"{rows} rows for {expected} committed iterations; `run` rebuilds it"
            )
