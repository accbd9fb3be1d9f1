"""Collecting: what no sweep names is deleted, and nothing that a run may build on.

A run writes down which iterations it is made of, waits for a collection under way, and only then
believes what it has listed of the storage; a collection says that it is under way, and only then
reads what sweeps name. So one of the two sees the other. Whoever trains what no sweep names (a
merge, a plain Python process) holds a claim meanwhile, and for as long nothing is collected.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.storage.naming import Names, all_names, sweeps_in
from trainables.store import MANIFEST, Store, StoreError, StoreFull
from trainables.store.claims import Claims
from trainables.store.processes import process_name
from trainables.store.storage_format import collections, note_collection, require_ours

COLLECTING = "collecting"
"""What a collection claims."""

ROOM_BYTES = 1 << 16
"""More than what a collection writes: its claim, and that there was one."""

KINDS = ("iterations", "snapshots", "checkpoints")

What = Literal["iterations", "snapshots", "checkpoints", "tables", "wandb", "quarantine"]


@dataclass(frozen=True)
class Leftover:
    """A folder or a file that no sweep names, and its bytes."""

    what: What
    path: str
    bytes: int


@dataclass(frozen=True)
class Collected:
    """What was deleted, or would be; and whose work keeps what else no sweep names."""

    leftovers: tuple[Leftover, ...] = ()
    kept_for: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.leftovers)


def collect(store: Store, *, dry_run: bool = False, quarantine: bool = False) -> Collected:
    """Delete the iterations, snapshots, checkpoints, tables and W&B folders of no sweep, what ended
    writers left, and with `quarantine` what was set aside as damaged.

    With `dry_run` nothing is written. Raises UnknownNames, and StoreError where another collects.
    """
    require_ours(store)
    if not store.names(""):
        return Collected()
    if dry_run:
        return leftovers(store, Claims(store), quarantine)
    made_room = [*_made_room(store, quarantine)] if is_full(store) else []
    with collecting(store) as claims:
        found = leftovers(store, claims, quarantine)
        delete(store, found.leftovers)
        store.remove_leftovers()
    return replace(found, leftovers=(*made_room, *found.leftovers))


def is_full(store: Store) -> bool:
    """Whether a storage has no room for the little that a collection writes."""
    probe = f"tmp/{process_name()}-room"
    if store.local_root is None:
        return False
    try:
        store.write(probe, bytes(ROOM_BYTES))
    except StoreFull:
        return True
    store.delete_file(probe)
    return False


def _made_room(store: Store, quarantine: bool) -> Iterator[Leftover]:
    """What has to be deleted on a full disk before a collection can say that it is under way. No
    run can say there either that it builds on it."""
    for each in leftovers(store, Claims(store), quarantine).leftovers:
        if not is_full(store):
            return
        _discard(store, each)
        yield each


@contextmanager
def collecting(store: Store) -> Iterator[Claims]:
    """While the block runs, runs wait before they build on what is stored. Raises StoreError."""
    claims = Claims(store)
    claim = claims.take(COLLECTING)
    if claim is None:
        raise StoreError(
            f"storage {store.location}: another `gc`, `rm` or `mv` is at work; wait for its end"
        )
    with claim:
        yield claims


def wait_for_collection(store: Store, before: str | None) -> bool:
    """Wait for a collection under way; whether there was one since `collections` was `before`."""
    Claims(store).wait_for(COLLECTING)
    return collections(store) != before


def leftovers(store: Store, claims: Claims, quarantine: bool = False) -> Collected:
    """What no sweep of `store` names. Raises UnknownNames."""
    claimed = {key for key in store.names("claims") if key != COLLECTING and claims.is_taken(key)}
    names = all_names(store)
    strangers = claims.still_taken(claimed - names.iterations)
    sweeps = {*sweeps_in(store)}
    found = [*beside_records(store, lambda sweep: sweep not in sweeps)]
    if quarantine:
        for name, files in by_folder(store, "quarantine").items():
            found.append(Leftover("quarantine", f"quarantine/{name}", sum(files.values())))
    if not strangers:
        found += unnamed(store, names, at_work=bool(claimed & names.iterations))
    kept = tuple(sorted(f"claims/{key}" for key in strangers))
    return Collected(tuple(found), kept)


def unnamed(store: Store, names: Names, *, at_work: bool) -> Iterator[Leftover]:
    """The commits and checkpoints that are not among `names`. While nobody is `at_work`, what is
    there without a manifest too, and the checkpoints of what is committed."""
    finished: set[str] = set()
    for kind in KINDS:
        for key, files in by_folder(store, kind).items():
            if kind == "checkpoints":
                over, strange = key in finished, key not in names.of(kind)
            else:
                over = MANIFEST not in files
                strange = not over and key not in names.of(kind)
            if kind == "iterations" and not over:
                finished.add(key)
            if strange or (over and not at_work):
                yield Leftover(kind, f"{kind}/{key}", sum(files.values()))


def delete(store: Store, found: Collection[Leftover]) -> None:
    """Delete `found`, one after the other; whoever builds on the storage is told before."""
    if found:
        note_collection(store)
    for each in found:
        _discard(store, each)


def _discard(store: Store, leftover: Leftover) -> None:
    if store.exists(leftover.path):
        store.delete_file(leftover.path)
    else:
        store.discard(leftover.path)


def beside_records(store: Store, of: Callable[[str], bool]) -> Iterator[Leftover]:
    """The tables and the W&B folders of the sweeps whose names are those asked for."""
    for file, size in store.sizes("tables").items():
        if of(table_sweep(file)):
            yield Leftover("tables", f"tables/{file}", size)
    for sweep, files in by_folder(store, "wandb").items():
        if of(sweep):
            yield Leftover("wandb", f"wandb/{sweep}", sum(files.values()))


def by_folder(store: Store, folder: str) -> dict[str, dict[str, int]]:
    """Of each folder in `folder`, its files and their bytes."""
    found: dict[str, dict[str, int]] = {}
    for path, size in store.sizes(folder).items():
        name, _, file = path.partition("/")
        found.setdefault(name, {})[file] = size
    return found


def table_sweep(file: str) -> str:
    """The sweep that a file in `tables/` is of."""
    # The files of a large sweep have a + and a number after its name, which has none.
    return file.partition("-")[2].rpartition(".")[0].partition("+")[0]
