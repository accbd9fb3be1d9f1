"""Commands of the life of a storage, and of the installation that works with it."""

import os
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from orchestrator.commands.exit_codes import FAILED, OK
from orchestrator.commands.parameters import DEFAULT_STORAGE, AsJson, Storage, SweepName
from orchestrator.commands.streams import console


def rm(
    name: SweepName,
    *,
    yes: Annotated[bool, Parameter(negative="", help="Do not ask.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Remove a sweep, with the iterations that no other sweep is made of."""
    from orchestrator.commands.printing_storage import confirm_removal, show_removal
    from orchestrator.storage.removing import removal, remove_sweep
    from trainables.store import Store

    store = Store(storage)
    if not yes:
        confirm_removal(removal(store, name), store)
    show_removal(remove_sweep(store, name), console(), as_json)
    return OK


def mv(
    old: SweepName,
    new: Annotated[str, Parameter(help="What to call it.")],
    *,
    storage: Storage = DEFAULT_STORAGE,
) -> int:
    """Call a sweep something else. Trains nothing; change its file too."""
    from orchestrator.storage.renaming import rename_sweep
    from trainables.store import Store

    rename_sweep(Store(storage), old, new)
    print(f"{old} is {new} now; write name: {new} in its file, which trains nothing anew")
    return OK


def gc_(
    *,
    dry_run: Annotated[bool, Parameter(negative="", help="Show it, and delete nothing.")] = False,
    quarantine: Annotated[
        bool, Parameter(negative="", help="Also what was set aside as damaged.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Delete iterations, snapshots, checkpoints and other leftovers that no sweep names."""
    from orchestrator.commands.printing_storage import show_collected
    from orchestrator.storage.collecting import collect
    from trainables.store import Store

    store = Store(storage)
    found = collect(store, dry_run=dry_run, quarantine=quarantine)
    show_collected(found, store, console(), dry_run=dry_run, as_json=as_json)
    return OK


def merge(
    other: Annotated[str, Parameter(help="The storage to copy from: a folder or a URI.")],
    *,
    sweep: Annotated[
        list[str] | None,
        Parameter(negative="", help="A sweep's name; repeatable. By default all there are."),
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: AsJson = False,
) -> int:
    """Copy another storage's sweeps and iterations into this one; again to resume. Every file is
    compared with its hash. Exit code 1 when something is damaged there."""
    from orchestrator.commands.printing_storage import show_merged
    from orchestrator.storage.merging import merge as merge_storages
    from trainables.store import Store

    source = Store(other)
    with Console(stderr=True).status("merging") as status:
        merged = merge_storages(
            Store(storage),
            source,
            sweep or [],
            told=lambda done, of: status.update(f"{done} of {of} commits"),
        )
    show_merged(merged, source, console(), as_json)
    return FAILED if merged.damage else OK


def du(*, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> int:
    """Show what takes how much room in a storage."""
    from orchestrator.commands.printing_storage import show_usage
    from orchestrator.storage.usage import usage
    from trainables.store import Store

    show_usage(usage(Store(storage)), console(), as_json)
    return OK


def verify(*, storage: Storage = DEFAULT_STORAGE, as_json: AsJson = False) -> int:
    """Check every hash of every commit, and every table. Exit code 1 when something is damaged."""
    from orchestrator.commands import printing
    from orchestrator.commands.verify import verify_store
    from trainables.store import Store

    store = Store(storage)
    verified = verify_store(store)
    printing.show_verified(verified, store, console(), as_json)
    return FAILED if verified.damage else OK


def doctor(
    *,
    storage: Storage = DEFAULT_STORAGE,
    address: Annotated[
        str | None,
        Parameter(
            help="A Ray cluster to check: who it lets in, and each of its nodes; or $RAY_ADDRESS."
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check this installation, its devices, its datasets and the storage."""
    from orchestrator.commands import printing
    from orchestrator.commands.doctor import examine
    from trainables.store import Store

    checks = examine(Store(storage), os.environ, address)
    printing.show_checks(checks, console(), as_json)
    return OK if all(check.ok for check in checks) else FAILED
