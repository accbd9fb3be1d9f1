"""The storage's own mark: what prunesweep has not made, it does not write to."""

import uuid
from dataclasses import replace

from trainables.store.errors import Damaged, StoreError
from trainables.store.store import MARKER, STORE_FORMAT, Store, json_bytes

FOLDERS = {"checkpoints", "claims", "damaged", "iterations", "probes", "quarantine", "snapshots",
           "sweeps", "tables", "tmp", "wandb"}  # fmt: skip
NOBODYS = {".DS_Store", ".gitignore", ".gitkeep", ".snapshot", "lost+found"}
"""What file systems and people leave in a folder that is as good as empty."""


def require_ours(store: Store) -> None:
    """Raise StoreError unless `store` is empty, or prunesweep's in a format this version reads.

    One from before there was a mark is known by its folders. Links that lead out of a local
    storage are refused: what is written to it shall stay in it.
    """
    names = set(store.names(""))
    if MARKER in names:
        _require_format(store)
    else:
        foreign = sorted(names - FOLDERS - NOBODYS)
        if foreign and not {"iterations", "sweeps"} <= names:
            shown = ", ".join(map(repr, foreign[:3])) + (", …" if len(foreign) > 3 else "")
            raise StoreError(
                f"storage {store.location} is no prunesweep storage: it holds other things "
                f"({shown}); give a folder of its own, such as {store.uri('prunesweep-store')}"
            )
    store.files.refuse_links(sorted(FOLDERS))


def mark(store: Store) -> Store:
    """Mark `store` as prunesweep's; the same store, which from now on is never made anew."""
    written = json_bytes({"format": STORE_FORMAT})
    if not store.exists(MARKER) and store.create(MARKER, written):
        found = store.peek(MARKER)
        if found != written:
            raise StoreError(
                f"storage {store.location} gives back other bytes than were written to it "
                f"({MARKER}: {len(written)} were written, {len(found or b'')} read); its server "
                "cannot be used"
            )
    return replace(store, existing=True)


def collections(store: Store) -> str | None:
    """What changes whenever iterations are deleted from `store`; Damaged is raised of its mark."""
    found = store.read_json(MARKER)
    return found.get("collected") if isinstance(found, dict) else None


def note_collection(store: Store) -> None:
    """Say in the mark of `store` that iterations are about to be deleted."""
    store.write_json(MARKER, {"format": STORE_FORMAT, "collected": uuid.uuid4().hex})


def require_there(store: Store) -> None:
    """Raise StoreGone when an existing local store is no longer there."""
    store.files.require_there()


def _require_format(store: Store) -> None:
    try:
        mark = store.read_json(MARKER)
        found = mark["format"]
        if not isinstance(found, int) or isinstance(found, bool):
            raise TypeError
    except (Damaged, KeyError, TypeError):
        raise StoreError(
            f"{store.uri(MARKER)} is damaged; if {store.location} is a prunesweep storage, write "
            f'{{"format": {STORE_FORMAT}}} into that file'
        ) from None
    if found != STORE_FORMAT:
        other = "newer" if found > STORE_FORMAT else "older"
        raise StoreError(
            f"storage {store.location} has format {found}, and this version reads {STORE_FORMAT}; "
            f"use the {other} prunesweep that wrote it, or another --storage"
        )
