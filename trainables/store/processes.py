"""Processes: which one left something behind, and whether it is still there."""

import hashlib
import os
import socket
from pathlib import Path
from typing import Any

import psutil


def this_process() -> dict[str, Any]:
    """What tells this process from every other, on this machine and on others."""
    return {"pid": os.getpid(), "started": _started(os.getpid())} | _machine()


def is_here(process: dict[str, Any]) -> bool:
    """Whether a process is, or was, one of this machine."""
    return all(process[name] == mine for name, mine in _machine().items())


def is_gone(process: dict[str, Any]) -> bool:
    """Whether a process of this machine has ended; False for one of another machine."""
    return is_here(process) and _has_ended(process["pid"], process["started"])


def process_name() -> str:
    """This process as a part of a file's name, for `left_by_the_dead`."""
    return f"{os.getpid()}-{_started(os.getpid())}-{_machine_digest()}"


def left_by_the_dead(name: str) -> bool:
    """Whether a file's name starts with the `process_name` of an ended process of this machine."""
    pid, _, rest = name.partition("-")
    started, _, rest = rest.partition("-")
    if not pid.isdigit() or not rest.startswith(_machine_digest()):
        return False
    return _has_ended(int(pid), started)


def _has_ended(pid: int, started: str) -> bool:
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        return _started(pid) != started
    except psutil.NoSuchProcess:
        return True


def _started(pid: int) -> str:
    """When a process began, in ticks since boot where known, which no clock jump changes."""
    stat = _text(f"/proc/{pid}/stat")
    if stat is None:
        return str(psutil.Process(pid).create_time())
    return stat.rpartition(")")[2].split()[19]


def _machine() -> dict[str, Any]:
    # Containers may share a host's name or its boot, and number their processes themselves.
    return {
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
    }


def _machine_digest() -> str:
    return hashlib.sha256(repr(_machine()).encode()).hexdigest()[:12]


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
