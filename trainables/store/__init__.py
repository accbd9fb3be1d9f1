"""The store: commits made durable, on local disks and object stores."""

from trainables.store.errors import (
    Damaged,
    NotCommitted,
    StoreError,
    StoreFull,
    StoreGone,
    StoreSilent,
)
from trainables.store.store import (
    MANIFEST,
    MARKER,
    STORE_FORMAT,
    Store,
    checkpoint_path,
    iteration_path,
    snapshot_path,
    sweep_path,
)

__all__ = [
    "MANIFEST",
    "MARKER",
    "STORE_FORMAT",
    "Damaged",
    "NotCommitted",
    "Store",
    "StoreError",
    "StoreFull",
    "StoreGone",
    "StoreSilent",
    "checkpoint_path",
    "iteration_path",
    "snapshot_path",
    "sweep_path",
]
