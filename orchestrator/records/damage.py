"""Damage in an object store: commits that were found damaged, for the next run to set aside; in
`damaged/`. On a file system every run looks for itself."""

from collections.abc import Iterable
from contextlib import suppress

from trainables.store import Store, StoreError

FOLDER = "damaged"


def note_damage(store: Store, paths: Iterable[str]) -> None:
    """Note the commits `paths`; where nothing can be written, they are as damaged as before."""
    if store.local_root is not None:
        return
    for path in {*paths}:
        with suppress(OSError, StoreError):
            store.put(_note(path), path.encode())


def read_damage(store: Store) -> frozenset[str]:
    """The commits that were noted."""
    return frozenset(name.replace("+", "/", 1) for name in store.names(FOLDER))


def forget_damage(store: Store, paths: Iterable[str]) -> None:
    """They were checked, and set aside where they were damaged."""
    for path in paths:
        store.delete_file(_note(path))


def _note(path: str) -> str:
    return f"{FOLDER}/{path.replace('/', '+', 1)}"
