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

    Of an `in_bucket` store the root is a mirror. A folder is a commit there once it has a manifest,
    and a claim is a file that changes hands.
    """

    root: Path
    in_bucket: bool = False
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
                for name, inode in self._committed(self.root / kind).items()
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
            if (names := _entries(claims / key)) and not self._is_committed(key)
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

    def being_written(self) -> set[tuple[int, str]]:
        """The commits that are being written, each with its writer's pid."""
        if self.in_bucket:
            return {
                (pid, key)
                for key, holders in self.in_flight().items()
                if (self.root / "iterations" / key).exists()
                for pid in holders
            }
        pids = {name: name.partition("-")[0] for name in _entries(self.root / "tmp")}
        return {(int(pid), name) for name, pid in pids.items()
                if pid.isdigit() and (self.root / "tmp" / name).is_dir()}  # fmt: skip

    def _is_committed(self, key: str) -> bool:
        return (self.root / "iterations" / key / "manifest.json").exists()

    def _committed(self, folder: Path) -> dict[str, int]:
        """The names of the commits in a folder, each with the inode that it keeps."""
        if not self.in_bucket:
            return _entries(folder)
        manifests = {name: folder / name / "manifest.json" for name in _entries(folder)}
        return {name: file.stat().st_ino for name, file in manifests.items() if file.exists()}

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
            folder = self.root / "claims" / key
            names = [*_entries(folder)]
            if self.in_bucket:
                names = [name for name in (_ticket(folder / each) for each in names) if name]
            for name in names:
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
        manifest = (folder / "manifest.json").read_bytes()
        for name in _entries(files_of(folder)):
            stat = (files_of(folder) / name).stat()
            found[name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return found, hashlib.sha256(manifest).hexdigest()
    return found, "no manifest"


def files_of(commit: Path) -> Path:
    """Where the files of a commit are; in a bucket each writer had a folder of its own."""
    return commit / json.loads((commit / "manifest.json").read_bytes()).get("folder", "")


def _ticket(file: Path) -> str | None:
    """Which of the claims that one file has been it is; None where there is none any more, and for
    one of a run that takes over what the dead have left, to remove it."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(file.read_bytes())
        return found["ticket"] if found["lineage"] else None
    return None


def _pid(ticket: Path) -> int:
    """The holder's pid."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads(ticket.read_bytes())["process"]["pid"]
    return UNKNOWN
