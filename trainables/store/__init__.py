"""The store: commits made durable, on local disks and object stores."""

from trainables.store.errors import Damaged, StoreError, StoreFull, StoreGone
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
    "Store",
    "StoreError",
    "StoreFull",
    "StoreGone",
    "checkpoint_path",
    "iteration_path",
    "snapshot_path",
    "sweep_path",
]
