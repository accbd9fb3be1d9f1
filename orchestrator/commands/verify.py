"""Verification: every hash of every commit, and every table, against what the store says."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from orchestrator.records.damage import note_damage
from orchestrator.records.ends import so_far
from orchestrator.records.sweep import SweepRecord, read_sweep
from orchestrator.results.compacting import is_current, table_damage
from orchestrator.results.tables import TABLES
from orchestrator.storage.naming import sweeps_in
from trainables.store import Damaged, NotCommitted, Store, iteration_path
from trainables.store.claims import Claims
from trainables.store.storage_format import require_ours

COMMITS = ("iterations", "snapshots")


@dataclass(frozen=True)
class Finding:
    """A damaged file: where it is, what is wrong with it, what it was and what mends it."""

    path: str
    reason: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; {self.meaning}"


@dataclass(frozen=True)
class Verified:
    """How much was checked, and what is damaged.

    `behind` are sweeps whose tables lack the latest commits: no damage, they are rebuilt when read.
    """

    commits: int
    tables: int
    damage: tuple[Finding, ...]
    behind: tuple[str, ...]


def verify_store(store: Store) -> Verified:
    """Read everything that `store` holds and compare it with its hashes. What is damaged is noted,
    so that a run sets it aside."""
    require_ours(store)
    records: dict[str, SweepRecord] = {}
    found: list[Finding] = []
    for name in sweeps_in(store):
        try:
            recorded = read_sweep(store, name)
            record = recorded and so_far(store, recorded)
        except Damaged as damage:
            found.append(_of_record(damage))
            continue
        if record is not None:
            records[name] = record
        else:
            found.append(
                Finding(f"sweeps/{name}", "it has no record of its lineages", RUN_WRITES_IT_ANEW)
            )
    paths = [f"{folder}/{name}" for folder in COMMITS for name in store.folders(folder)]
    meanings = _meanings(records.values())
    with ThreadPoolExecutor() as pool:
        for damage in pool.map(partial(_damage, store), paths):
            found += [_of_commit(each, meanings) for each in damage]
            note_damage(store, dict.fromkeys(each.path for each in damage))
    behind: list[str] = []
    committed = store.committed("iterations")
    for record in records.values():
        tables = table_damage(store, record.name)
        found += [Finding(each.path, each.reason, RESULTS_REBUILDS_IT) for each in tables]
        if not tables and not is_current(store, record, committed):
            behind.append(record.name)
    return Verified(len(paths), len(TABLES) * len(records), tuple(found), tuple(behind))


def _damage(store: Store, path: str) -> list[Damaged]:
    """What is wrong with a commit, seen twice: it may have been deleted meanwhile, or its weights;
    and in an object store, somebody may be writing it."""
    if not list(store.damage(path)) or not store.names(path):
        return []
    found = list(store.damage(path))
    unfinished = any(isinstance(each, NotCommitted) for each in found)
    return [] if unfinished and Claims(store).is_taken(path.rpartition("/")[2]) else found


RESULTS_REBUILDS_IT = "`prunesweep results` rebuilds it from the commits"
RUN_WRITES_IT_ANEW = "`prunesweep run` with the sweep's file writes it anew"


def _meanings(records: Iterable[SweepRecord]) -> dict[str, str]:
    """What each iteration's folder is, in words."""
    meanings: dict[str, str] = {}
    for record in records:
        for line in record.lineages:
            for t, key in zip(line.iterations, line.keys, strict=True):
                meanings.setdefault(
                    iteration_path(key),
                    f"it is iteration {t} of {line.id} in the sweep {record.name}, which "
                    "`prunesweep run` sets aside and trains again",
                )
            for each in line.measurements or ():
                meanings.setdefault(
                    iteration_path(each.key),
                    f"it is {each.measure} of iteration {each.iteration} of {line.id} in the sweep "
                    f"{record.name}, which `prunesweep run` sets aside and measures again",
                )
    return meanings


def _of_commit(damage: Damaged, meanings: Mapping[str, str]) -> Finding:
    if damage.path.startswith("snapshots/"):
        meaning = "weights to rewind to, which are made again when a run needs them"
    else:
        meaning = meanings.get(damage.path, "no recorded sweep has this iteration any more")
    return Finding(damage.path, damage.reason, meaning)


def _of_record(damage: Damaged) -> Finding:
    return Finding(damage.path, damage.reason, RUN_WRITES_IT_ANEW)
