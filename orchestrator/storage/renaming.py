"""Renaming a sweep: its records under another name; iterations have none."""

from pydantic import TypeAdapter, ValidationError

from orchestrator.records.sweep import LINEAGES, SPEC, SweepRecord, existing_sweep, read_sweep
from orchestrator.storage.collecting import beside_records, collecting
from orchestrator.storage.naming import sweeps_in
from orchestrator.storage.removing import require_idle
from orchestrator.sweepfile.spec import Name
from trainables.errors import UserError
from trainables.store import Store, sweep_path


class NameTaken(UserError):
    """A sweep cannot have that name: another has it, or no sweep can."""


def rename_sweep(store: Store, old: str, new: str) -> None:
    """Call the sweep `old` `new`.

    The records are there under the new name before they go under the old one, so that a rename
    that was broken off is finished by the same again. Tables are made anew when they are read.
    Raises NoSuchSweep, Damaged, InUse, NameTaken, and StoreError.
    """
    require_idle(store, old)
    _require_name(new)
    with collecting(store):
        record, there = existing_sweep(store, old), read_sweep(store, new)
        begun = there is not None and there.lineages == record.lineages
        # On an object store, records without lineages may be what a broken rename has written.
        lies_there = there is not None or (store.local_root and new in sweeps_in(store))
        if new == old or (lies_there and not begun):
            raise NameTaken(f"storage {store.location} has a sweep {new!r}; choose another name")
        if not begun:
            store.place(sweep_path(new), _renamed(store, record, new), last=LINEAGES.name)
        _move_wandb(store, old, new)
        store.discard(sweep_path(old), first=LINEAGES.name)
        for table in beside_records(store, lambda sweep: sweep == old):
            if table.what == "tables":
                store.delete_file(table.path)


def records_of(store: Store, name: str) -> dict[str, bytes]:
    """The files of the records of the sweep `name`."""
    folder = sweep_path(name)
    files = {file: store.peek(f"{folder}/{file}") for file in store.names(folder)}
    return {file: data for file, data in files.items() if data is not None}


def _require_name(new: str) -> None:
    try:
        TypeAdapter(Name).validate_python(new)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise NameTaken(f"{new!r} cannot name a sweep: {reason}") from None


def _renamed(store: Store, record: SweepRecord, new: str) -> dict[str, bytes]:
    spec = SPEC.encoded(record.spec | {"name": new})
    return records_of(store, record.name) | {SPEC.name: spec}


def _move_wandb(store: Store, old: str, new: str) -> None:
    if not store.names(f"wandb/{old}"):
        return
    if store.local_root:
        store.discard(f"wandb/{new}")  # of a sweep that is no more; a folder moves to a free place
    store.move(f"wandb/{old}", f"wandb/{new}", last="")
