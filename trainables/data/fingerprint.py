"""The identity of a dataset's content, wherever its files lie."""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def fingerprint(files: Mapping[str, Path], cache: Path, marks: tuple[str, ...] = ()) -> str:
    """SHA-256, in hex, over the names and contents of `files`, and over `marks`.

    The names are the keys, so that the place of the files is no part of it. The result is kept in
    `cache` until a file changes.
    """
    stamped = stamps(files)
    remembered = cache / "fingerprints" / digest([*stamped, *marks])
    with suppress(OSError):
        return remembered.read_text()
    result = digest([*((name, _content_digest(path)) for name, path in files.items()), *marks])
    # A read-only cache costs hashing again, nothing else.
    with suppress(OSError):
        write_atomically(remembered, result.encode())
    return result


def stamps(files: Mapping[str, Path]) -> list[tuple[str | int, ...]]:
    """What changes when a file does, also when another of its size and time takes its place."""
    return [_stamp(*item) for item in files.items()]


def digest(value: object) -> str:
    """SHA-256, in hex, of JSON values."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Others see all of it or nothing; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A temporary file would be for nobody else, whatever the umask.
    scratch = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    scratch.write_bytes(content)
    os.replace(scratch, path)


def _stamp(name: str, path: Path) -> tuple[str | int, ...]:
    found = path.stat()
    times = found.st_mtime_ns, found.st_ctime_ns
    return name, str(path.resolve()), found.st_size, found.st_ino, *times


def _content_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
