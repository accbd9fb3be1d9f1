"""Cores: each worker of a machine keeps to CPU cores of its own."""

import fcntl
import os
import random
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class OwnCores:
    """CPU cores that this thread, and those that it starts, keep to, and no other worker of this
    user's does: whoever has locked a core's file has the core, and the end of a process unlocks
    it. Nobody hands them out."""

    cores: frozenset[int]
    _locks: ExitStack

    @classmethod
    def taken(cls, count: int) -> "OwnCores | None":
        """Keep to `count` of the cores that this process may use. None, and it goes on as it is,
        where so many are not free, or the system has no such thing."""
        locks = ExitStack()
        with suppress(OSError, AttributeError):
            cores = _locked(_by_load(), count, locks)
            if len(cores) == count:
                os.sched_setaffinity(0, cores)
                return cls(frozenset(cores), locks)
        locks.close()
        return None

    def release(self) -> None:
        """Let others have them."""
        self._locks.close()


def _by_load() -> list[int]:
    """The cores that this process may use, those first that nobody else does: what is not a
    worker, or is another user's or another container's, locks nothing here."""
    busy = psutil.cpu_percent(interval=0.1, percpu=True)
    cores = [*os.sched_getaffinity(0)]
    random.shuffle(cores)
    return sorted(cores, key=lambda core: round(busy[core], -1) if core < len(busy) else 0.0)


def _locked(cores: list[int], count: int, locks: ExitStack) -> list[int]:
    """The first `count` of `cores` that are free."""
    folder = Path(tempfile.gettempdir()) / f"prunesweep-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is someone else's")
    taken: list[int] = []
    for core in cores:
        if len(taken) == count:
            break
        file = (folder / str(core)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        locks.enter_context(file)
        taken.append(core)
    return taken
