"""Usage: the room that a storage takes, by what it is for."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.storage.naming import Names, UnknownNames, named_by_sweep, sweeps_in
from trainables.store import Store
from trainables.store.storage_format import require_ours


@dataclass(frozen=True)
class SweepUsage:
    """The bytes of the iterations and snapshots that only this sweep is made of, and of those that
    it shares; None where its record cannot be read."""

    name: str
    own: int | None
    shared: int | None


@dataclass(frozen=True)
class Usage:
    """The bytes of a storage by folder, and of its iterations and snapshots by sweep.

    `unnamed` are those of no sweep, which `gc` deletes; None where a record cannot be read.
    """

    folders: Mapping[str, int]
    sweeps: tuple[SweepUsage, ...]
    unnamed: int | None

    @property
    def total(self) -> int:
        return sum(self.folders.values())


def usage(store: Store) -> Usage:
    """The room that `store` takes, from one listing."""
    require_ours(store)
    folders: dict[str, int] = {}
    commits: dict[tuple[str, str], int] = {}
    for path, size in store.sizes("").items():
        folder, key = path.split("/")[0] if "/" in path else "other", path.split("/")[1:2]
        folders[folder] = folders.get(folder, 0) + size
        if folder in ("iterations", "snapshots"):
            at = (folder, key[0])
            commits[at] = commits.get(at, 0) + size
    names = {name: _names(store, name) for name in sweeps_in(store)}
    return Usage(dict(sorted(folders.items())), *_by_sweep(commits, names))


def _names(store: Store, name: str) -> Names | None:
    try:
        return named_by_sweep(store, name)
    except UnknownNames:
        return None


def _by_sweep(
    commits: Mapping[tuple[str, str], int], names: Mapping[str, Names | None]
) -> tuple[tuple[SweepUsage, ...], int | None]:
    known = {name: found for name, found in names.items() if found is not None}
    of = {
        (folder, key): [name for name, found in known.items() if key in found.of(folder)]
        for folder, key in commits
    }
    own, shared = dict.fromkeys(known, 0), dict.fromkeys(known, 0)
    for at, sweeps in of.items():
        for name in sweeps:
            (own if len(sweeps) == 1 else shared)[name] += commits[at]
    unnamed = sum(commits[at] for at, sweeps in of.items() if not sweeps)
    lines = tuple(SweepUsage(name, own.get(name), shared.get(name)) for name in names)
    return lines, unnamed if len(known) == len(names) else None
