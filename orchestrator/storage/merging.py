"""Merging: the sweeps of another storage, with the commits that they are made of, copied here."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from orchestrator.records.ends import ENDS, read_ends
from orchestrator.records.heartbeat import RUN
from orchestrator.records.provenance import PROVENANCE, by_start, read_provenance
from orchestrator.records.runs import alone
from orchestrator.records.stops import STOPS
from orchestrator.records.sweep import LINEAGES, SweepRecord, existing_sweep, read_sweep
from orchestrator.storage.collecting import COLLECTING
from orchestrator.storage.naming import Names, named_by, sweeps_in, union
from orchestrator.storage.renaming import records_of
from trainables.errors import UserError
from trainables.store import Damaged, Store, StoreError, sweep_path
from trainables.store.claims import Claims
from trainables.store.storage_format import mark, require_ours

MERGING = "merging"
"""What a merge claims: while it is claimed, nothing that no sweep names is collected."""

COPIERS = 4

FOLDERS = ("iterations", "snapshots")

Told = Callable[[int, int], None]
"""Is told how many commits are done, and of how many."""


class SweepsDiffer(UserError):
    """Two storages have sweeps of one name that are not made of the same lineages."""


@dataclass(frozen=True)
class Merged:
    """The sweeps that are here now, the commits that were copied and their bytes, how many were
    here before, and what is damaged in the other storage and was left there."""

    sweeps: tuple[str, ...]
    copied: int
    bytes: int
    there: int
    damage: tuple[Damaged, ...]


def merge(
    store: Store, other: Store, names: Sequence[str] = (), told: Told = lambda done, of: None
) -> Merged:
    """Copy the sweeps `names` of `other`, by default all, with their iterations and snapshots into
    `store`; every file is compared with its hash. What is there already stays as it is.

    A sweep's records come last, so a merge that was broken off has copied what the same again finds
    there. Raises StoreError, NoSuchSweep, Damaged and SweepsDiffer before anything is written.
    """
    records = _sweeps(store, other, names)
    for record in records:
        _require_same(store, record)
    wanted = union(named_by(other, record) for record in records)
    store.require_writable()
    store = mark(store)
    claims = Claims(store)
    claim = claims.take(MERGING)
    if claim is None:
        raise StoreError(f"storage {store.location}: another merge is at work; wait for its end")
    with claim:
        claims.wait_for(COLLECTING)
        merged = _copy(store, other, wanted, told)
        for record in records:
            _write_records(store, other, record)
    # What somebody collected who took this merge for dead; now that it is named, it stays.
    again = _copy(store, other, wanted, told)
    return Merged(
        tuple(record.name for record in records),
        merged.copied + again.copied,
        merged.bytes + again.bytes,
        merged.there,
        again.damage,
    )


def _sweeps(store: Store, other: Store, names: Sequence[str]) -> list[SweepRecord]:
    require_ours(store)
    require_ours(other)
    if other.location == store.location:
        raise StoreError(f"{other.location} is this storage itself; name another one")
    there = names or sweeps_in(other)
    if not there:
        raise StoreError(f"storage {other.location} has no sweeps; name another one")
    return [existing_sweep(other, name) for name in dict.fromkeys(there)]


def _require_same(store: Store, record: SweepRecord) -> None:
    name = record.name
    here = read_sweep(store, name)
    if here is not None and here.lineages != record.lineages:
        raise SweepsDiffer(
            f"both storages have a sweep {name!r}, and they are made of other lineages; call one "
            f"of them something else first, with `prunesweep mv {name} ANOTHER`"
        )
    if here is None and store.local_root and store.names(sweep_path(name)):
        raise SweepsDiffer(
            f"storage {store.location} has records of a sweep {name!r}, but not which lineages it "
            f"is made of; take them away with `prunesweep rm {name}`, or run the sweep again"
        )


def _copy(store: Store, other: Store, wanted: Names, told: Told) -> Merged:
    """Copy what `store` lacks of `wanted`."""
    paths, there = [], 0
    for folder in FOLDERS:
        held = other.committed(folder).keys() & wanted.of(folder)
        lacking = held - store.committed(folder).keys()
        paths += [f"{folder}/{key}" for key in sorted(lacking)]
        there += len(held) - len(lacking)
    return _counted(there, len(paths), _copies(store, other, paths), told)


def _copies(store: Store, other: Store, paths: Iterable[str]) -> Iterable[int | Damaged]:
    def copy(path: str) -> int | Damaged:
        try:
            files = {name: other.read(path, name) for name in other.manifest(path)["files"]}
        except Damaged as damage:
            return damage
        store.commit(path, files)
        return sum(map(len, files.values()))

    with ThreadPoolExecutor(COPIERS) as pool:
        yield from pool.map(copy, paths)


def _counted(there: int, of: int, copies: Iterable[int | Damaged], told: Told) -> Merged:
    sizes: list[int] = []
    damage: list[Damaged] = []
    for done, copied in enumerate(copies, start=1):
        told(done, of)
        if isinstance(copied, Damaged):
            damage.append(copied)
        else:
            sizes.append(copied)
    return Merged((), len(sizes), sum(sizes), there, tuple(damage))


def _write_records(store: Store, other: Store, record: SweepRecord) -> None:
    """Of a sweep that is here already, only the runs that it is not known to have had."""
    name = record.name
    if read_sweep(store, name) is None:
        files = {
            file: data for file, data in records_of(other, name).items() if not _of_a_run(file)
        }
        store.place(sweep_path(name), files, last=LINEAGES.name)
        return
    with alone(store, name):
        here, there = read_provenance(store, name), read_provenance(other, name)
        both = by_start((*there, *here))
        if len(both) > len(here):
            PROVENANCE.write(store, name, both)
        if ends := read_ends(other, name) | read_ends(store, name):
            ENDS.write_if_other(store, name, [*ends.values()])


def _of_a_run(file: str) -> bool:
    """Whether a record is about a run of the other storage, which may be in flight there."""
    return file == RUN.name or (RUN.run_in(file) or STOPS.run_in(file)) is not None
