"""Dying: an operation of a store, in a process that is gone before the n-th line of its code.

A program for test_faults.py that imports next to nothing: a fork takes as long as its process is
large, and there are thousands.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from obstore.exceptions import PreconditionError
from obstore.store import LocalStore

import trainables.store.store
from trainables.store import Store, iteration_path
from trainables.store.object_files import ObjectFiles

KEY = iteration_path("k" * 64)
FILES = {"weights": b"\x00\x01\xff" * 50, "empty": b"", "table": b"text\r\n"}
OTHERS = {"weights": b"new" * 70, "table": b"new"}
RECORD = "sweeps/s/a.json"
PLACE = "sweeps/placed"
KILLED = 9

OPERATIONS: dict[str, Callable[[Store], Any]] = {
    "commit": lambda store: store.commit(KEY, FILES),
    "replace": lambda store: store.replace(KEY, OTHERS),
    "drop a file": lambda store: store.drop_file(KEY, "weights"),
    "set aside": lambda store: store.set_aside(KEY),
    "write": lambda store: store.write(RECORD, b"new"),
    "discard": lambda store: store.discard(KEY),
    "place": lambda store: store.place(PLACE, FILES, last="table"),
}

STORE_CODE = str(Path(trainables.store.store.__file__).parent)


def renaming(root: Path) -> Store:
    return Store(str(root))


class PutWhole:
    """A folder as an object store: a file is there whole or not at all, and no folder moves."""

    def __init__(self, root: Path) -> None:
        self._files = LocalStore(root, automatic_cleanup=True, mkdir=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def put(self, path: str, data: bytes, mode: Any = "overwrite", **how: Any) -> Any:
        if isinstance(mode, dict):  # which obstore has of servers alone
            if self._files.head(path)["e_tag"] != mode["e_tag"]:
                raise PreconditionError(path)
            mode = "overwrite"
        return self._files.put(path, data, mode=mode)


def without_rename(root: Path) -> Store:
    store = Store(str(root))
    vars(store)["files"] = ObjectFiles(PutWhole(root / "inside"))  # type: ignore[arg-type]
    return store


STORES = {each.__name__: each for each in (renaming, without_rename)}


def die_at_line(n: int) -> None:
    """From now on, be gone before the n-th line of the store's code."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(STORE_CODE):
            return None
        if event == "line":
            if lines == n:
                os._exit(KILLED)  # nothing is cleaned up, flushed or closed
            lines += 1
        return trace

    sys.settrace(trace)


def main() -> None:
    """For each [store, folder, operation, n] on standard input, the exit code of who did it."""
    for line in sys.stdin:
        store, folder, operation, n = json.loads(line)
        pid = os.fork()
        if pid == 0:
            die_at_line(n)
            OPERATIONS[operation](STORES[store](Path(folder)))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
