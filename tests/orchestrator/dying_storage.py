"""Dying: what is done with a whole storage, in a process that is gone before the n-th change of it.

A program for test_storage.py. What dies within one change, test_faults.py asks.
"""

import itertools
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from dying import KILLED
from stored import opened_as

from orchestrator.storage import merging
from orchestrator.storage.collecting import collect
from orchestrator.storage.merging import merge
from orchestrator.storage.removing import remove_sweep
from orchestrator.storage.renaming import rename_sweep
from trainables.store import Store

merging.COPIERS = 1

CHANGES = {
    "delete", "discard", "move", "overwrite", "place", "publish", "put", "remove",
    "remove_if_empty", "write",
}  # fmt: skip
"""The methods of a storage's files that change one."""

OPERATIONS: dict[str, Callable[[Path], Any]] = {
    "rm": lambda folder: remove_sweep(Store(f"{folder}/here"), "one"),
    "mv": lambda folder: rename_sweep(Store(f"{folder}/here"), "one", "new"),
    "gc": lambda folder: collect(Store(f"{folder}/here")),
    "merge": lambda folder: merge(Store(f"{folder}/here"), Store(f"{folder}/there")),
}


def die_at_change(n: int) -> None:
    """From now on, be gone before the n-th change of a storage, in whatever thread."""
    changes = itertools.count()

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if (
            code.co_name in CHANGES
            and code.co_filename.endswith("_files.py")
            and next(changes) == n
        ):
            os._exit(KILLED)

    threading.settrace(trace)
    sys.settrace(trace)


def main() -> None:
    """For each [kind, folder, operation, n] on standard input, the exit code of who did it."""
    for line in sys.stdin:
        kind, folder, operation, n = json.loads(line)
        pid = os.fork()
        if pid == 0:
            with opened_as(kind):
                die_at_change(n)
                OPERATIONS[operation](Path(folder))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
