"""Watching: a second pair of eyes on a store, which sees commits and claims come and go."""

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.02
BRIEF_SECONDS = 0.3
"""A claim of a committed iteration that is given back sooner was a look at whether it is."""

UNKNOWN = 0
"""The holder of a ticket that is just being written or taken back."""

Stat = tuple[int, int, int]


@dataclass
class Ticket:
    """A claim: when it was there first and last, and whether its iteration was committed before."""

    first: float
    last: float
    late: bool


@dataclass
class Watcher:
    """Polls the store at `root`, and keeps in `broken` what must never be seen there.

    `commits` are when each commit (`iterations/<key>`, `snapshots/<key>`) was first seen, `tickets`
    the claims by key. Folders are compared at every poll, their files in `look_closely`.
    """

    root: Path
    commits: dict[str, float] = field(default_factory=dict)
    tickets: dict[str, dict[str, Ticket]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    most_in_tmp: int = 0
    _inodes: dict[str, int] = field(default_factory=dict)
    _files: dict[str, tuple[dict[str, Stat], str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> None:
        """No commit may have gone or be another folder; none may be without its manifest."""
        with self._lock:
            now = time.monotonic()
            present = {
                f"{kind}/{name}": inode
                for kind in ("iterations", "snapshots")
                for name, inode in _entries(self.root / kind).items()
            }
            for path in self._inodes.keys() - present.keys():
                self.broken.append(f"{path} has vanished")
            for path, inode in present.items():
                if path not in self._inodes:
                    self._welcome(path, now)
                elif self._inodes[path] != inode:
                    self.broken.append(f"{path} was replaced")
            self._inodes = present
            self._look_at_claims(now)
            self.most_in_tmp = max(self.most_in_tmp, len(_entries(self.root / "tmp")))

    def look_closely(self) -> None:
        """Every file of every commit has its inode, size and time; manifests have their bytes."""
        self.look()
        with self._lock:
            for path, before in self._files.items():
                self._files[path] = _files(self.root / path)
                if self._files[path] != before:
                    self.broken.append(f"files of {path} have changed")

    def iterations(self) -> dict[str, float]:
        """The committed iterations by key, and when each was first seen."""
        with self._lock:
            found = ((*path.split("/"), at) for path, at in self.commits.items())
            return {key: at for kind, key, at in found if kind == "iterations"}

    def in_flight(self) -> dict[str, set[int]]:
        """The iterations that are claimed and not committed, each with its holders' pids."""
        claims = self.root / "claims"
        return {
            key: {_pid(claims / key / name) for name in names}
            for key in self._claimed()
            if (names := _entries(claims / key)) and not (self.root / "iterations" / key).exists()
        }

    def redone(self) -> dict[str, int]:
        """The iterations that were begun more than once, with how often they were begun again."""
        begun = {
            key: sum(not ticket.late for ticket in tickets.values())
            for key, tickets in self.tickets.items()
        }
        return {key: count - 1 for key, count in begun.items() if count > 1}

    def trained_again(self) -> list[str]:
        """The iterations that someone was at after they had been committed."""
        return [
            key
            for key, tickets in self.tickets.items()
            if any(t.late and t.last - t.first > BRIEF_SECONDS for t in tickets.values())
        ]

    def _welcome(self, path: str, now: float) -> None:
        if not (self.root / path / "manifest.json").exists():
            self.broken.append(f"{path} was seen without its manifest")
        self._files[path] = _files(self.root / path)
        self.commits.setdefault(path, now)

    def _claimed(self) -> list[str]:
        """The iterations with claims; a sweep's records are claimed too."""
        return [key for key in _entries(self.root / "claims") if not key.startswith("records-")]

    def _look_at_claims(self, now: float) -> None:
        for key in self._claimed():
            for name in _entries(self.root / "claims" / key):
                ticket = Ticket(now, now, late=f"iterations/{key}" in self.commits)
                self.tickets.setdefault(key, {}).setdefault(name, ticket).last = now


@contextmanager
def repeated(call: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call it every so often, in a thread of its own, while the block runs."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(seconds):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _entries(folder: Path) -> dict[str, int]:
    """The names in a folder, each with its inode; none where there is no folder."""
    try:
        with os.scandir(folder) as found:
            return {entry.name: entry.inode() for entry in found}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _files(folder: Path) -> tuple[dict[str, Stat], str]:
    """Inode, size and time of each file, and the manifest's hash."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for name in _entries(folder):
            stat = (folder / name).stat()
            found[name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return found, hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    return found, "no manifest"


def _pid(ticket: Path) -> int:
    """The holder's pid."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads(ticket.read_bytes())["process"]["pid"]
    return UNKNOWN
