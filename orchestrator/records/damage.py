"""Damage that somebody has met: the commits that a run looks at before it believes them.

A run reads few of the commits that it finds; who has read one that is damaged leaves a note.
"""

from collections.abc import Iterable
from contextlib import suppress

from trainables.store import Store, StoreError

FOLDER = "damaged"


def note_damage(store: Store, paths: Iterable[str]) -> None:
    """Note that these commits are damaged, where the storage can be written."""
    with suppress(OSError, StoreError):
        for path in paths:
            store.write(_note(path), b"\n")


def noted_damage(store: Store) -> set[str]:
    """The commits that were noted."""
    return {name.replace("-", "/", 1) for name in store.names(FOLDER)}


def forget_damage(store: Store, path: str) -> None:
    store.delete_file(_note(path))


def _note(path: str) -> str:
    return f"{FOLDER}/{path.replace('/', '-')}"
