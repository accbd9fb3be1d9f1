"""Removing a sweep: its records, and what no other sweep is made of."""

from dataclasses import dataclass

from orchestrator.records.status import run_in_flight
from orchestrator.records.sweep import LINEAGES, no_such_sweep
from orchestrator.storage.collecting import (
    KINDS,
    Leftover,
    beside_records,
    by_folder,
    collecting,
    delete,
    is_full,
)
from orchestrator.storage.naming import Names, UnknownNames, all_names, named_by_sweep, sweeps_in
from trainables.errors import UserError
from trainables.store import Store, sweep_path
from trainables.store.claims import Claims
from trainables.store.storage_format import require_ours


class InUse(UserError):
    """A sweep that a run is at work on is left as it is."""


@dataclass(frozen=True)
class Removal:
    """What the removal of a sweep deletes besides its records, and how many of its iterations stay
    because other sweeps are made of them.

    Of a sweep that is not `known`, whose record cannot be read, the iterations are left to `gc`.
    """

    sweep: str
    leftovers: tuple[Leftover, ...]
    shared: int
    known: bool

    @property
    def iterations(self) -> int:
        return sum(each.what == "iterations" for each in self.leftovers)

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.leftovers)


def removal(store: Store, name: str) -> Removal:
    """What the removal of the sweep `name` would delete; writes nothing.

    Raises NoSuchSweep, InUse, and UnknownNames where another sweep's record cannot be read.
    """
    require_idle(store, name)
    others = all_names(store, without=name)
    try:
        mine, known = named_by_sweep(store, name), True
    except UnknownNames:
        mine, known = Names(), False
    own = mine - others
    found = [
        Leftover(kind, f"{kind}/{key}", sum(files.values()))
        for kind in KINDS
        for key, files in by_folder(store, kind).items()
        if key in own.of(kind)
    ]
    found += beside_records(store, lambda sweep: sweep == name)
    stored = store.committed("iterations").keys()
    return Removal(name, tuple(found), len(stored & mine.iterations & others.iterations), known)


def remove_sweep(store: Store, name: str) -> Removal:
    """Remove the sweep `name`; what was deleted. Raises what `removal` does, and StoreError.

    Its records go first, at once: of what is left by who is killed then, nothing is of a sweep. On
    a full disk, that makes the room for a claim; no run can begin there meanwhile.
    """
    planned = removal(store, name)
    full = is_full(store)
    if full:
        _discard_records(planned, store, Claims(store))
    with collecting(store) as claims:
        if not full:
            planned = removal(store, name)
            _discard_records(planned, store, claims)
        delete(store, planned.leftovers)
        store.remove_leftovers()
    return planned


def require_idle(store: Store, name: str) -> None:
    """Raise NoSuchSweep where there is nothing of a sweep `name`, and InUse while it is run."""
    require_ours(store)
    if name not in sweeps_in(store):
        raise no_such_sweep(store, name)
    run = run_in_flight(store, name)
    if run is not None:
        raise InUse(
            f"a run of {name} is in flight, as process {run.pid} on {run.host}; end it first"
        )


def _discard_records(planned: Removal, store: Store, claims: Claims) -> None:
    for each in planned.leftovers:
        key = each.path.rpartition("/")[2]
        if each.what in KINDS and claims.is_taken(key):
            raise InUse(
                f"{each.path} is being trained; end that first, then remove {planned.sweep}"
            )
    store.discard(sweep_path(planned.sweep), first=LINEAGES.name)
