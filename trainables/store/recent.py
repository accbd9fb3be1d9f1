"""Recent: files of commits that a process has written or read, for it to read again."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

KEPT_BYTES = 64 << 20
"""In all. Of files that are larger, moving the bytes takes longer than asking for them."""


@dataclass
class Recent:
    """Files by their commit and name; those least recently asked for go first."""

    _files: OrderedDict[tuple[str, str], bytes] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: Lock = field(default_factory=Lock)

    def get(self, path: str, name: str) -> bytes | None:
        with self._lock:
            if (path, name) in self._files:
                self._files.move_to_end((path, name))
            return self._files.get((path, name))

    def keep(self, path: str, files: Mapping[str, bytes]) -> None:
        with self._lock:
            for name, data in files.items():
                self._drop((path, name))
                if len(data) > KEPT_BYTES // 4:
                    continue
                self._files[path, name] = data
                self._bytes += len(data)
            while self._bytes > KEPT_BYTES:
                self._drop(next(iter(self._files)))

    def forget(self, path: str) -> None:
        """The commit is not what it was."""
        with self._lock:
            for key in [key for key in self._files if key[0] == path]:
                self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        self._bytes -= len(self._files.pop(key, b""))
